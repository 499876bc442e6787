// Who may ask: keys and their limits, Host and Origin.
import assert from "node:assert/strict";
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import OpenAI from "openai";
import { openapi, resolved, assertError, assertIs } from "./support/openapi.mjs";
import { RawConnection } from "./support/raw.mjs";
import { Server, chat, model, runFathom, modelDirectory, temporaryDirectory } from "./support/server.mjs";

const directory = temporaryDirectory();
const key = "sk-environment-0123456789";
const keyFile = join(directory, "keys");
writeFileSync(
  keyFile,
  `# a comment, and a blank line

sk-plain-0123456789abcdef
sk-one-at-a-time-0123456789   name=single concurrent=1
sk-few-tokens-0123456789\tname=few tokens_per_minute=120\r
`,
  { mode: 0o600 },
);
const bearer = (token) => ({ authorization: `Bearer ${token}` });
const server = await Server.forFile(["--api-keys", keyFile], { env: { FATHOM_API_KEY: key } });
const clientWith = (apiKey, options = {}) => new OpenAI({ baseURL: `${server.url}/v1`, apiKey, maxRetries: 0, ...options });
const long = chat("Hi", { ignore_eos: true, max_tokens: 3000 });

test("without a key every route but /health is 401", async () => {
  const wrong = [
    {},
    bearer("sk-wrong-0123456789abcdef"),
    bearer(""),
    bearer(`${key} `.repeat(2)),
    bearer(key.slice(0, -1)),
    bearer(`${key}x`),
    bearer(key.toUpperCase()),
    { authorization: key },
    { authorization: `Basic ${key}` },
    { authorization: `Basic ${Buffer.from(key).toString("base64")}` },
    { authorization: `Digest ${key}` },
    { "x-api-key": key },
  ];
  const paths = Object.keys(openapi.paths).map((path) => path.replace("{id}", model));
  for (const path of [...paths, "/no/such/path"]) {
    if (path === "/health") continue;
    for (const headers of path === "/v1/models" ? wrong : wrong.slice(0, 2)) {
      for (const method of ["GET", "POST"]) {
        const reply = await server.fetch(path, { method, headers: { ...headers, "content-type": "application/json" }, body: method === "POST" ? "{}" : undefined });
        assert.equal(reply.status, 401, `${method} ${path} ${JSON.stringify(headers)}`);
        const body = assertIs("Error", await reply.json());
        assert.equal(body.error.code, "invalid_api_key");
        const page = path === "/" && method === "GET" && reply.headers.get("www-authenticate").startsWith("Basic");
        if (!page) assert.equal(reply.headers.get("www-authenticate"), "Bearer", path);
      }
    }
  }
  for (const headers of wrong) assert.equal((await server.get("/health", headers)).status, 200);
});

test("every accepted way to send a key", async () => {
  const basic = (user) => ({ authorization: `Basic ${Buffer.from(`${user}:${key}`).toString("base64")}` });
  for (const headers of [bearer(key), { authorization: `bearer ${key}` }, basic("anybody"), basic(""), bearer("sk-plain-0123456789abcdef")]) {
    assert.equal((await server.get("/v1/models", headers)).status, 200, JSON.stringify(headers));
  }
  for (const [path, item] of Object.entries(openapi.paths)) {
    if (!resolved(item).get || path === "/") continue;
    const reply = await server.fetch(path.replace("{id}", model), { headers: bearer(key) });
    assert.equal(reply.status, 200, path);
    await reply.text();
  }
});

test("the client's error class", async () => {
  await assert.rejects(clientWith("sk-wrong-0123456789abcdef").chat.completions.create(chat("Hi")), OpenAI.AuthenticationError);
  assert.ok(await clientWith(key).chat.completions.create(chat("Hi")));
});

test("a key with concurrent=1 has one request open; the client waits and comes again", async () => {
  const single = "sk-one-at-a-time-0123456789";
  const busy = new RawConnection(server.port).post("/v1/chat/completions", { ...long, stream: true }, bearer(single));
  await busy.until(/data: /);
  const reply = await server.post("/v1/chat/completions", chat("Hi"), bearer(single));
  assertError(reply, 429, { code: "rate_limit_exceeded" });
  assert.equal(reply.headers.get("retry-after"), "1");
  await assert.rejects(clientWith(single).chat.completions.create(chat("Hi")), (error) => {
    assert.ok(error instanceof OpenAI.RateLimitError);
    assert.equal(error.headers.get("retry-after"), "1");
    return true;
  });
  // Other keys, and routes that compute nothing, are not held up.
  assert.equal((await server.post("/v1/chat/completions", chat("Hi"), bearer(key))).status, 200);
  assert.equal((await server.get("/v1/models", bearer(single))).status, 200);
  // The openai package tries again by itself, after as many seconds as it was told.
  const started = Date.now();
  const answer = clientWith(single, { maxRetries: 5 }).chat.completions.create(chat("Hi"));
  setTimeout(() => busy.close(), 300);
  assertIs("ChatCompletion", await answer);
  assert.ok(Date.now() - started >= 900, `${Date.now() - started} ms`);
});

test("a refused request leaves no place taken", async () => {
  const single = bearer("sk-one-at-a-time-0123456789");
  for (let i = 0; i < 3; ++i) {
    assert.equal((await server.post("/v1/chat/completions", chat("Hi", { temperature: 9 }), single)).status, 422);
    assert.equal((await server.post("/v1/chat/completions", chat("word ".repeat(5000)), single)).status, 400);
    assert.equal((await server.post("/v1/chat/completions", chat("Hi", { regex: "(" }), single)).status, 400);
    assert.equal((await server.post("/v1/chat/completions", chat("Hi", { max_tokens: 1 }), single)).status, 200);
  }
});

test("a key that has used its tokens up is told when to come again", async () => {
  const few = bearer("sk-few-tokens-0123456789");
  const first = await server.post("/v1/chat/completions", chat("Hi", { ignore_eos: true, max_tokens: 130 }), few);
  assert.equal(first.status, 200);
  const reply = await server.post("/v1/chat/completions", chat("Hi"), few);
  assertError(reply, 429, { message: /120 tokens per minute/ });
  const wait = Number(reply.headers.get("retry-after"));
  // Some 14 tokens too many, at two a second.
  assert.ok(wait >= 3 && wait <= 12, `${wait} s`);
});

test("keys are in no log", async () => {
  await server.logged((line) => line.key === "single" && line.status === 429);
  await server.logged((line) => line.status === 401);
  assert.ok(!/sk-/.test(server.stderr), "a key stands in the log");
  const names = new Set(server.log().map((line) => line.key));
  for (const name of ["environment", "key1", "single", "few"]) assert.ok(names.has(name), name);
});

test("key files that are wrong are refused in a sentence", async () => {
  const cases = [
    ["short\n", 0o600, 2, /line 1: an API key has 16 to 512 characters; this one has 5/],
    ["# nothing\n\n", 0o600, 2, /there is no API key in it/],
    ["sk-0123456789abcdef\nsk-0123456789abcdef\n", 0o600, 2, /line 2: the key stands in the file twice/],
    ["sk-0123456789abcdef concurrent=many\n", 0o600, 2, /line 1: concurrent: expected a number/],
    ["sk-0123456789abcdef rpm=3\n", 0o600, 2, /line 1: expected name=, concurrent= or tokens_per_minute=/],
    ["sk-0123456789äbcdef\n", 0o600, 2, /visible ASCII/],
    ["sk-0123456789abcdef\n", 0o644, 1, /other users .* `chmod 600`/],
  ];
  for (const [text, mode, code, sentence] of cases) {
    const path = join(directory, "wrong");
    writeFileSync(path, text);
    chmodSync(path, mode);
    const result = await runFathom(["serve", "--model", modelDirectory, "--port", "0", "--api-keys", path]);
    assert.equal(result.code, code, result.stderr);
    assert.match(result.stderr, sentence);
    assert.match(result.stderr, /^fathom: [^\n]+\n$/);
    assert.ok(!result.stderr.includes("sk-0"));
  }
  const missing = await runFathom(["serve", "--model", modelDirectory, "--port", "0", "--api-keys", join(directory, "none")]);
  assert.equal(missing.code, 2);
});

/** The status (and headers) of a request with these headers. */
async function ask(port, headers, { method = "GET", path = "/v1/models" } = {}) {
  const raw = new RawConnection(port);
  raw.send(`${method} ${path} HTTP/1.1\r\n${Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`).join("")}connection: close\r\n\r\n`);
  await raw.toEnd();
  return raw.reply();
}

test("without keys, other names than this machine's are refused: a page that rebinds its name could ask", async () => {
  const open = await Server.start(["--allow-host", "fathom.example"]);
  try {
    for (const host of ["localhost", `localhost:${open.port}`, `127.0.0.1:${open.port}`, "127.0.0.1", "127.8.8.8", "[::1]:80", "fathom.example", "fathom.example:443"]) {
      assert.equal((await ask(open.port, { host })).status, 200, host);
    }
    for (const host of ["evil.example", `evil.example:${open.port}`, "localhost.evil.example", "fathom.example.evil", "10.0.0.1", "0.0.0.0"]) {
      const reply = await ask(open.port, { host });
      assertError({ status: reply.status, body: JSON.parse(reply.body) }, 403, { message: /--allow-host/ });
      assert.equal((await ask(open.port, { host }, { path: "/health" })).status, 200);
    }
  } finally {
    await open.stop();
  }
});

test("pages of other origins are refused, unless one is allowed", async () => {
  const open = await Server.start();
  try {
    const host = `localhost:${open.port}`;
    assert.equal((await ask(open.port, { host, origin: `http://${host}` })).status, 200);
    for (const origin of ["https://evil.example", "null", "http://localhost:1", `http://localhost:${open.port}.evil.example`]) {
      const reply = await ask(open.port, { host, origin });
      assertError({ status: reply.status, body: JSON.parse(reply.body) }, 403, { message: /--allow-origin/ });
      assert.equal(reply.headers.get("access-control-allow-origin"), null);
    }
    assert.equal((await ask(open.port, { host, origin: "https://evil.example" }, { method: "OPTIONS" })).status, 403);
  } finally {
    await open.stop();
  }
  const origin = "https://pages.example";
  const allowing = await Server.start(["--allow-origin", origin]);
  try {
    const host = `localhost:${allowing.port}`;
    const reply = await ask(allowing.port, { host, origin });
    assert.equal(reply.status, 200);
    assert.equal(reply.headers.get("access-control-allow-origin"), origin);
    assert.match(reply.headers.get("vary"), /origin/i);
    const preflight = await ask(allowing.port, { host, origin, "access-control-request-method": "POST" }, { method: "OPTIONS", path: "/v1/chat/completions" });
    assert.equal(preflight.status, 204);
    assert.match(preflight.headers.get("access-control-allow-methods"), /POST/);
    assert.match(preflight.headers.get("access-control-allow-headers"), /authorization.*content-type/);
    assert.equal((await ask(allowing.port, { host, origin: "https://evil.example" })).status, 403);
    const stream = new RawConnection(allowing.port).post("/v1/chat/completions", chat("Hi", { stream: true, max_tokens: 1 }), { origin });
    await stream.until(/\[DONE\]/);
    assert.equal(stream.reply().headers.get("access-control-allow-origin"), origin);
    stream.close();
  } finally {
    await allowing.stop();
  }
});
