// Server-sent events byte for byte, signs of life, and answers that are cut off.
import assert from "node:assert/strict";
import { test } from "node:test";
import { assertIs } from "./support/openapi.mjs";
import { RawConnection } from "./support/raw.mjs";
import { Server, chat, eventually, model } from "./support/server.mjs";

const server = await Server.forFile();

async function raw(path, body) {
  const connection = new RawConnection(server.port).post(path, body);
  await connection.until(/\r\n0\r\n\r\n$/);
  connection.close();
  return connection.reply();
}

/** A text without the parts that differ between two requests. */
const timeless = (text) => text.replace(/"(id|created|system_fingerprint)":("[^"]*"|\d+)/g, '"$1":*');

test("a chat's stream, byte for byte", async () => {
  const reply = await raw("/v1/chat/completions", chat("Hi", { stream: true, stream_options: { include_usage: true }, regex: "x" }));
  assert.equal(reply.status, 200);
  const { date, "x-request-id": id, ...headers } = Object.fromEntries(reply.headers);
  assert.ok(date && id);
  assert.deepEqual(headers, {
    "cache-control": "no-store",
    "content-type": "text/event-stream; charset=utf-8",
    "transfer-encoding": "chunked",
    "x-accel-buffering": "no",
    "x-content-type-options": "nosniff",
  });
  const head = '"id":*,"object":"chat.completion.chunk","created":*,"model":"fathom-tiny","system_fingerprint":*';
  const usage = /"usage":\{"prompt_tokens":\d+,"completion_tokens":1,"total_tokens":\d+,"prompt_cache_hit_tokens":\d+,"prompt_cache_miss_tokens":\d+,"prompt_tokens_details":\{"cached_tokens":\d+\},"completion_tokens_details":\{"reasoning_tokens":0\}\}/;
  const text = timeless(reply.body);
  assert.match(text, usage);
  assert.equal(
    text.replace(usage, '"usage":*'),
    `data: {${head},"choices":[{"index":0,"delta":{"role":"assistant","content":"x"},"logprobs":null,"finish_reason":null}],"usage":null}\n\n` +
      `data: {${head},"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}\n\n` +
      `data: {${head},"choices":[],"usage":*}\n\n` +
      "data: [DONE]\n\n",
  );
});

test("a completion's stream, byte for byte", async () => {
  const reply = await raw("/v1/completions", { model, prompt: "Hi", stream: true, regex: "x", temperature: 0 });
  const head = '"id":*,"object":"text_completion","created":*,"model":"fathom-tiny","system_fingerprint":*';
  assert.equal(
    timeless(reply.body),
    `data: {${head},"choices":[{"index":0,"text":"x","logprobs":null,"finish_reason":null}]}\n\n` +
      `data: {${head},"choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"stop"}]}\n\n` +
      "data: [DONE]\n\n",
  );
});

test("an event is one line of JSON, and a chunk of HTTP holds whole events", async () => {
  const reply = await raw("/v1/chat/completions", chat("Tell me a story.", { stream: true, max_tokens: 60, temperature: 1, seed: 2 }));
  for (const chunk of reply.chunks) assert.match(chunk, /^(data: [^\n]+\n\n)+$/);
  const events = reply.body.split("\n\n");
  assert.equal(events.pop(), "");
  assert.equal(events.pop(), "data: [DONE]");
  assert.ok(events.length > 10);
  for (const event of events) {
    const chunk = assertIs("ChatCompletionChunk", JSON.parse(event.slice(6)));
    assert.equal(`data: ${JSON.stringify(chunk)}`, event);
  }
});

test("characters of several tokens are sent whole", async () => {
  const text = "🐋 wörld 你好 👩‍👩‍👧";
  const { body } = await server.post("/v1/chat/completions", chat("Hi", { regex: text, max_tokens: 100, logprobs: true, top_logprobs: 20 }));
  assertIs("ChatCompletion", body);
  assert.equal(body.choices[0].message.content, text);
  const bytes = body.choices[0].logprobs.content.flatMap((token) => token.bytes);
  assert.equal(Buffer.from(bytes).toString(), text);
  const reply = await raw("/v1/chat/completions", chat("Hi", { regex: text, max_tokens: 100, stream: true }));
  const parts = [...reply.body.matchAll(/"content":"([^"]*)"/g)].map(([, part]) => part);
  assert.equal(parts.join(""), text);
  assert.ok(parts.length > 5 && parts.every((part) => part.isWellFormed?.() ?? true));
});

test("tokens are sent as they are made", async () => {
  const connection = new RawConnection(server.port).post("/v1/chat/completions", chat("Hi", { stream: true, ignore_eos: true, max_tokens: 600 }));
  await connection.until(/\[DONE\]/, 20);
  const [first, last] = [connection.pieces[0].at, connection.pieces.at(-1).at];
  assert.ok(connection.pieces.length > 50, `${connection.pieces.length} pieces`);
  assert.ok(last - first > 100, `${last - first} ms`);
  connection.close();
});

test("who waits hears a sign of life: comments in a stream, empty lines before a whole answer", async () => {
  const busy = await Server.start(["--together", "1", "--keep-alive-seconds", "1"]);
  try {
    // What runs takes the one place for longer than the others wait.
    const blocker = new RawConnection(busy.port).post("/v1/completions", { model, prompt: "Hi", ignore_eos: true, max_tokens: 4000, stream: true });
    await blocker.until(/data: /);
    const stream = new RawConnection(busy.port).post("/v1/chat/completions", chat("Hi", { stream: true, max_tokens: 2 }));
    const whole = new RawConnection(busy.port).post("/v1/chat/completions", chat("Hi", { max_tokens: 2 }));
    await Promise.all([stream.until(/\r\n\r\n(e\r\n: keep-alive\n\n\r\n){2}$/), whole.until(/\r\n\r\n(1\r\n\n\r\n){2}$/)]);
    assert.equal((await busy.status()).requests.waiting, 2);
    blocker.close();
    await Promise.all([stream.until(/\r\n0\r\n\r\n$/), whole.until(/\r\n0\r\n\r\n$/)]);
    const events = stream.reply().body.split("\n\n");
    assert.deepEqual(events.slice(0, 2), [": keep-alive", ": keep-alive"]);
    assert.equal(events.at(-2), "data: [DONE]");
    const { status, headers, body } = whole.reply();
    assert.equal(status, 200);
    assert.equal(headers.get("content-type"), "application/json");
    assert.match(body, /^\n\n+\{/);
    assertIs("ChatCompletion", JSON.parse(body));
    stream.close();
    whole.close();
  } finally {
    await busy.stop();
  }
});

test("a request whose time is up ends with what there is", async () => {
  const short = await Server.start(["--request-seconds", "1"]);
  try {
    const fields = chat("Hi", { ignore_eos: true, max_tokens: 4000 });
    const connection = new RawConnection(short.port).post("/v1/chat/completions", { ...fields, stream: true });
    const { body } = await short.post("/v1/chat/completions", fields);
    assertIs("ChatCompletion", body);
    assert.equal(body.choices[0].finish_reason, "insufficient_system_resource");
    assert.ok(body.choices[0].message.content.length > 20);
    await connection.until(/\[DONE\]/);
    assert.match(connection.received, /"finish_reason":"insufficient_system_resource"/);
    connection.close();
  } finally {
    await short.stop();
  }
});

test("one request more than the queue holds is 503, with a time to come back", async () => {
  const full = await Server.start(["--together", "1", "--queue", "2"]);
  try {
    const running = Array.from({ length: 3 }, () =>
      new RawConnection(full.port).post("/v1/completions", { model, prompt: "Hi", ignore_eos: true, max_tokens: 4000, stream: true }));
    await eventually(async () => {
      const { requests } = await full.status();
      return requests.running + requests.waiting === 3;
    }, "three open requests");
    const reply = await full.post("/v1/completions", { model, prompt: "Hi" });
    assert.equal(reply.status, 503);
    assert.equal(reply.headers.get("retry-after"), "5");
    assert.equal(assertIs("Error", reply.body).error.code, "server_overloaded");
    running.forEach((connection) => connection.close());
    await full.idle();
    assert.equal((await full.post("/v1/completions", { model, prompt: "Hi", max_tokens: 1 })).status, 200);
  } finally {
    await full.stop();
  }
});

test("the queue is for those who find no place: what there is room for does not pass through it", async () => {
  const wide = await Server.start(["--together", "8", "--queue", "1"]);
  try {
    const many = await wide.post("/v1/chat/completions", chat("Hi", { n: 8 }));
    assert.equal(many.status, 200, JSON.stringify(many.body));
    const replies = await Promise.all(Array.from({ length: 8 }, () => wide.post("/v1/chat/completions", chat("Hi"))));
    assert.deepEqual(replies.map(({ status }) => status), Array(8).fill(200));
  } finally {
    await wide.stop();
  }
});

test("a client that takes nothing does not hold the others up", async () => {
  const deaf = new RawConnection(server.port).post("/v1/completions", { model, prompt: "Hi", n: 8, ignore_eos: true, max_tokens: 1500, stream: true, logprobs: 20 });
  deaf.socket.pause();
  const started = Date.now();
  const { status } = await server.post("/v1/completions", { model, prompt: "Hi", max_tokens: 8 });
  assert.equal(status, 200);
  assert.ok(Date.now() - started < 5000);
  deaf.close();
  await server.idle(2);
});
