// A server with Fathom's API and no model: it answers from a script, chosen by the first word of the last message ("/slow",
// "/broken", …). The end-to-end tests run against it; `npm run mock` starts it for looking at the page by hand.
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { setTimeout as rest } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const dist = fileURLToPath(new URL('../dist', import.meta.url));

/** The policy under which the program serves the page. */
export const contentSecurityPolicy = [
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'",
  "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
].join('; ');

const types = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.txt': 'text/plain; charset=utf-8',
};

const story = `Early one morning, Greta the fox was in the meadow. Butterflies flew over the flowers. A strong wind came and carried
her red scarf away, over the hedge and down to the river.

"I must get it back!" said Greta. First she tried to jump. It was not far enough. Then she called the duck, who knew the water
well. "I can see it," said the duck. "It hangs on the old willow."

They went together. The duck swam, the fox climbed, and soon the scarf was dry again. That evening they sat by the fire and ate
pears.`.replace(/(?<!\n)\n(?!\n)/g, ' ');

const markdown = `## Sounding the depths

A **fathom** is *six feet*, about \`1.8288 m\`. Sailors measured it with a [sounding line](https://example.org/line):

1. Throw the lead forward.
2. Let the line run out.
3. Call the mark:
   - *by the mark, five*
   - *by the deep, six*

| Mark | Fathoms | Metres |
| :--- | :-----: | -----: |
| Two strips of leather | 2 | 3.66 |
| White calico | 5 | 9.14 |
| Red bunting | 7 | 12.80 |

> The deeper the line, the longer the wait.

The pressure grows with depth as $p = p_0 + \\rho g h$, so that at $h = 10\\,\\text{m}$ it has doubled:

$$
\\int_0^h \\rho g \\, dz = \\rho g h \\approx 10^5\\,\\mathrm{Pa}, \\qquad
\\begin{pmatrix} a & b \\\\ c & d \\end{pmatrix}^{-1} = \\frac{1}{ad - bc}\\begin{pmatrix} d & -b \\\\ -c & a \\end{pmatrix}
$$

\`\`\`python
def fathoms(metres: float) -> float:
    """How many fathoms deep it is."""
    # one fathom is six feet
    return metres / (6 * 0.3048)

print(f"{fathoms(100):.1f} fathoms")
\`\`\`

And a price: it costs $5, not $6.`;

export const hostile = `Hello <script>window.pwned = 1</script> <img src=x onerror="window.pwned = 2">

<svg onload="window.pwned = 3"><math><mtext><style><img src=x onerror="window.pwned = 4"></style></mtext></math></svg>

[one](javascript:window.pwned=5) [two](JaVa\tScript:window.pwned=6) [three](&#106;avascript:window.pwned=7)
[four](data:text/html,<script>window.pwned=8</script>) [five](vbscript:x) [six](/v1/models) [seven](//evil.example/x)

![picture](https://evil.example/pixel.png) ![inline](data:image/svg+xml,<svg/onload=window.pwned=9>)

<a href="javascript:window.pwned=10" style="position:fixed;inset:0">over everything</a>

<style>body { display: none }</style><iframe srcdoc="<script>parent.pwned=11</script>"></iframe>

$\\href{javascript:window.pwned=12}{x}$ $\\htmlClass{modal}{y}$ $\\includegraphics{https://evil.example/m.png}$
$\\htmlStyle{position:fixed}{z}$ $\\url{javascript:window.pwned=13}$

\`\`\`html"><img src=x onerror=window.pwned=14>
<script>window.pwned = 15</script>
\`\`\`

[good](https://example.org/good "a title") and <https://example.org/auto>`;

/** What is answered: pieces of text, with the milliseconds before each of them, and how it ends. */
function scriptFor(last, request) {
  const words = (text) => text.match(/\s*\S+|\s+$/g) ?? [];
  const answer = (content, more = {}) => ({ reasoning: [], content: words(content), pause: 4, finish: 'stop', ...more });
  if (last.role === 'assistant') return answer(' And this is the rest of it.');
  const [command, ...parameters] = last.content.split(/\s+/);
  switch (command) {
    case '/markdown':
      return answer(markdown);
    case '/hostile':
      return answer(hostile, { pause: 1 });
    case '/slow':
      return answer(Array.from({ length: 400 }, (_, n) => `word${n}`).join(' '), { pause: 40 });
    case '/patient':
      return answer('Here at last.', { firstPause: 1500 });
    case '/long':
      return answer(Array.from({ length: 300 }, (_, n) => `Paragraph ${n}: ${story.slice(0, 120)}`).join('\n\n'), { pause: 0 });
    case '/broken':
      return answer(story, { breakAfter: 30 });
    case '/broken-at-once':
      return answer(story, { breakAfter: 0 });
    case '/error':
      return answer(story, { errorAfter: 12 });
    case '/length':
      return answer(story.slice(0, 300), { finish: 'length' });
    case '/full':
      return answer(story.slice(0, 300), { finish: 'length', promptTokens: 4000 });
    case '/resources':
      return answer(story.slice(0, 120), { finish: 'insufficient_system_resource' });
    case '/empty':
      return answer('');
    case '/think':
      return answer('The answer is **42**.', { reasoning: words('Units: 7 + 5 = 12. Write 2, carry 1. Tens: 1 + 2 + 1 = 4. So it is $42$.'), pause: 40 });
    case '/echo':
      return answer(parameters.join(' '));
    case '/dump':
      return answer('', { content: parameters.join(' ').match(/[\s\S]{1,4096}/g), pause: 10 });
    case '/request':
      return answer(`\`\`\`json\n${JSON.stringify(request, null, 2)}\n\`\`\``);
  }
  const sum = /(\d+)\s*\+\s*(\d+)/.exec(last.content);
  if (sum) {
    const total = Number(sum[1]) + Number(sum[2]);
    const thinks = request.thinking?.type === 'enabled';
    return answer(`${sum[1]} + ${sum[2]} = ${total}.`, { reasoning: thinks ? words(`Units first, then tens. It is ${total}.`) : [], pause: 25 });
  }
  return answer(/story/.test(last.content) ? story : `You said: ${last.content}`);
}

const countTokens = (text) => Math.ceil(text.length / 4);

/**
 * Starts the server. `key`: the API key that it wants; empty for none. `prefix`: the path under which everything lies, as behind a
 * proxy. `state` may be changed while it runs: `busy` (that many requests get 429), `down` (every connection is cut),
 * `status` (false: there is no such address), `thinking`, `models`.
 */
export async function startMock({ port = 0, key = '', prefix = '' } = {}) {
  const state = { key, busy: 0, down: false, status: true, thinking: true, models: ['fathom-tiny'], context: 4096 };
  /** Bodies of the chat requests, in the order in which they came. */
  const requests = [];
  const counts = { finished: 0, cancelled: 0, refused: 0, running: 0, prompt: 0, cached: 0, generated: 0, statusReads: 0 };
  const startedAt = Date.now();

  const json = (response, status, body, headers = {}) => {
    response.writeHead(status, { 'content-type': 'application/json', ...headers });
    response.end(JSON.stringify(body));
  };
  const error = (response, status, message, headers) => {
    counts.refused++;
    json(response, status, { error: { message, type: 'invalid_request_error', param: null, code: String(status) } }, headers);
  };

  const chat = async (request, response) => {
    let body = '';
    for await (const piece of request) body += piece;
    const asked = JSON.parse(body);
    requests.push(asked);
    if (state.busy > 0) {
      state.busy--;
      return error(response, 429, 'Too many requests wait already.', { 'retry-after': '2' });
    }
    const last = asked.messages.at(-1);
    if (last.content.startsWith('/refuse')) return error(response, 400, "temperature: expected 0 to 2, found 'hot'");
    if (last.content.startsWith('/crash')) return error(response, 500, 'The disk is full.');

    const script = scriptFor(last, asked);
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
    response.write(': keep-alive\n\n');
    counts.running++;
    let isGone = false;
    response.on('close', () => {
      counts.running--;
      if (response.writableEnded) counts.finished++;
      else {
        isGone = true;
        counts.cancelled++;
      }
    });
    const send = (choices, usage = null) =>
      response.write(`data: ${JSON.stringify({ id: 'c1', object: 'chat.completion.chunk', created: 1, model: asked.model, choices, usage })}\n\n`);
    const delta = (fields, finish = null) => send([{ index: 0, delta: fields, finish_reason: finish }]);

    await rest(script.firstPause ?? 20);
    delta({ role: 'assistant', content: '' });
    for (const piece of script.reasoning) {
      if (isGone) return;
      delta({ content: null, reasoning_content: piece });
      counts.generated++;
      await rest(script.pause);
    }
    for (const [index, piece] of script.content.entries()) {
      if (isGone) return;
      if (index === script.breakAfter) return response.destroy();
      if (index === script.errorAfter) {
        response.write('data: {"error":{"message":"The server is shutting down.","type":"server_error","param":null,"code":"500"}}\n\n');
        return response.end();
      }
      if (index % 10 === 5) response.write(': keep-alive\n\n');
      delta({ content: piece });
      counts.generated++;
      if (script.pause > 0) await rest(script.pause);
    }
    if (script.breakAfter === 0) return response.destroy();
    delta({}, script.finish);
    const prompt = script.promptTokens ?? asked.messages.reduce((sum, { content }) => sum + countTokens(content) + 2, 1);
    const cached = asked.messages.length > 2 ? Math.floor(prompt * 0.8) : 0;
    counts.prompt += prompt;
    counts.cached += cached;
    const reasoning = script.reasoning.length;
    const completion = script.promptTokens ? 96 : reasoning + script.content.length;
    send([], {
      prompt_tokens: prompt,
      completion_tokens: completion,
      total_tokens: prompt + completion,
      prompt_cache_hit_tokens: cached,
      prompt_cache_miss_tokens: prompt - cached,
      prompt_tokens_details: { cached_tokens: cached },
      completion_tokens_details: { reasoning_tokens: reasoning },
    });
    response.end('data: [DONE]\n\n');
  };

  const status = () => {
    counts.statusReads++;
    const wave = (speed, shift = 0) => 0.5 + 0.5 * Math.sin(counts.statusReads / speed + shift);
    const proposed = 400 + counts.statusReads * 20;
    return {
      model: state.models[0],
      version: '0.9.0',
      uptime_seconds: (Date.now() - startedAt) / 1000 + 7260,
      context: state.context,
      thinking: state.thinking,
      requests: { running: counts.running + Math.round(3 * wave(4)), waiting: Math.round(2 * wave(9)), finished: 128 + counts.finished, cancelled: 3 + counts.cancelled, refused: counts.refused },
      tokens: { prompt: 51200 + counts.statusReads * 100 + counts.prompt, prompt_cached: 33280 + Math.round(counts.statusReads * 100 * wave(7)) + counts.cached, generated: 9216 + counts.generated, per_second: 38 + 30 * wave(5) },
      cache: { pages: 512, free: 512 - 96 - Math.round(160 * wave(6)), kept: 96, page_tokens: 64, bytes: 268435456 },
      speculation: { drafts: 1, active: true, proposed, accepted: Math.round(proposed * 0.82) },
      experts: {
        load: Array.from({ length: 5 }, (_, layer) =>
          Array.from({ length: 32 }, (_, expert) => Math.round(1000 * (0.35 + 1.3 * Math.abs(Math.sin(layer * 1.7 + expert * 2.3))) + counts.statusReads)),
        ),
      },
    };
  };

  const file = async (response, path) => {
    const name = normalize(path === '/' ? '/index.html' : path);
    try {
      const bytes = await readFile(join(dist, name));
      response.writeHead(200, {
        'content-type': types[extname(name)] ?? 'application/octet-stream',
        'content-security-policy': contentSecurityPolicy,
        'x-content-type-options': 'nosniff',
        'referrer-policy': 'no-referrer',
      });
      response.end(bytes);
    } catch {
      error(response, 404, `There is nothing at ${path}.`);
    }
  };

  const server = createServer((request, response) => {
    if (state.down) return request.socket.destroy();
    const path = new URL(request.url, 'http://localhost').pathname;
    if (!path.startsWith(prefix)) return error(response, 404, 'outside of the prefix');
    const inside = path.slice(prefix.length);
    const isApi = inside.startsWith('/v1/') || inside === '/status';
    if (isApi && state.key !== '' && request.headers.authorization !== `Bearer ${state.key}`) {
      return error(response, 401, 'Wrong API key.');
    }
    if (inside === '/v1/models') {
      return json(response, 200, { object: 'list', data: state.models.map((id) => ({ id, object: 'model', owned_by: 'fathom' })) });
    }
    if (inside === '/status' && state.status) return json(response, 200, status());
    if (inside === '/v1/chat/completions' && request.method === 'POST') {
      return void chat(request, response).catch((problem) => error(response, 400, String(problem)));
    }
    if (request.method === 'GET') return void file(response, inside);
    return error(response, 405, 'Method not allowed.');
  });
  await new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}${prefix}/`,
    state,
    counts,
    requests,
    close: () => new Promise((resolve) => (server.closeAllConnections(), server.close(resolve))),
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const mock = await startMock({ port: Number(process.env.PORT ?? 8090), key: process.env.KEY ?? '' });
  console.log(`The mock server is at ${mock.url}`);
}
