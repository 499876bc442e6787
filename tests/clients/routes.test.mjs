// The description itself, and the routes: those that are described are there, and no others.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { gunzipSync } from "node:zlib";
import { Validator } from "@seriousme/openapi-schema-validator";
import { openapi, resolved, assertError, assertIs } from "./support/openapi.mjs";
import { RawConnection } from "./support/raw.mjs";
import { Server, chat, model } from "./support/server.mjs";

const server = await Server.forFile(["--most-body", "100kB", "--context", "2048"]);
const paths = Object.entries(openapi.paths).map(([path, item]) => [path.replace("{id}", model), resolved(item)]);

test("the description is OpenAPI 3.1, and the one that the server gives", async () => {
  const validator = new Validator();
  const { valid, errors } = await validator.validate(structuredClone(openapi));
  assert.ok(valid, JSON.stringify(errors));
  assert.equal(validator.version, "3.1");
  const reply = await server.get("/openapi.json");
  assert.deepEqual(reply.body, openapi);
  assert.equal(openapi.info.version, (await server.status()).version);
});

test("files are sent compressed to who takes that", async () => {
  const raw = new RawConnection(server.port);
  raw.send("GET /openapi.json HTTP/1.1\r\nhost: localhost\r\naccept-encoding: gzip\r\nconnection: close\r\n\r\n");
  await raw.toEnd();
  const end = raw.received.indexOf("\r\n\r\n");
  assert.match(raw.received.slice(0, end), /content-encoding: gzip/);
  assert.deepEqual(JSON.parse(gunzipSync(Buffer.from(raw.received.slice(end + 4), "latin1"))), openapi);
});

test("every described route is there, and every other is 404", async () => {
  for (const [path, item] of paths) {
    for (const method of ["get", "post"]) {
      if (!item[method]) continue;
      const body = method === "post" ? "{}" : undefined;
      const reply = await server.fetch(path, { method, body, headers: { "content-type": "application/json" } });
      await reply.text();
      // A build without the page has none.
      if (path === "/") assert.ok([200, 404].includes(reply.status));
      else assert.equal(reply.status, method === "get" ? 200 : 400, `${method} ${path}`);
      if (reply.status === 200) {
        const type = reply.headers.get("content-type").split(";")[0];
        assert.ok(item[method].responses[200].content[type], `${path}: ${type}`);
      }
      assert.match(reply.headers.get("x-request-id") ?? "refused", /^req_[0-9a-z]{24}$|^refused$/);
      assert.equal(reply.headers.get("x-content-type-options"), "nosniff");
    }
  }
  const others = ["/v1", "/v1/", "/v2/models", "/v1/models/", "/beta/models/x", "/v1/chat", "/chat", "/v1/responses", "/v1/health",
    "/health/", "/v1/tokenize", "/embeddings", "/v1/audio/speech", "/.env", "/web/index.html", "//health", "/v1/chat/completions/x",
    "/openapi.yaml", "/docs", "/%2e%2e/etc/passwd", "/user/balance"];
  for (const path of others) {
    for (const method of ["GET", "POST"]) {
      const reply = await server.fetch(path, { method, body: method === "POST" ? "{}" : undefined, headers: { "content-type": "application/json" } });
      assert.equal(reply.status, 404, `${method} ${path}`);
      assertIs("Error", await reply.json());
    }
  }
});

test("a path that is asked with another method says with which", async () => {
  for (const [path, item] of paths) {
    const allowed = item.get ? "GET" : "POST";
    if (path === "/" && (await server.fetch("/")).status === 404) continue;
    for (const method of ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]) {
      if (method === allowed) continue;
      const reply = await server.fetch(path, { method });
      assert.equal(reply.status, 405, `${method} ${path}`);
      assert.equal(reply.headers.get("allow"), allowed);
      assertIs("Error", await reply.json());
    }
  }
});

test("HEAD is GET without its body", async () => {
  for (const [path, item] of paths) {
    if (!item.get || path === "/" || path === "/metrics" || path === "/status") continue;
    const get = await server.fetch(path, { headers: { "accept-encoding": "identity" } });
    const head = await server.fetch(path, { method: "HEAD", headers: { "accept-encoding": "identity" } });
    assert.equal(head.status, 200, path);
    assert.equal(await head.text(), "");
    assert.equal(head.headers.get("content-length"), String((await get.arrayBuffer()).byteLength), path);
  }
});

test("bodies of other types are 415", async () => {
  const posts = paths.filter(([, item]) => item.post).map(([path]) => path);
  for (const path of posts) {
    for (const type of [undefined, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx", "application/json-patch+json"]) {
      const reply = await server.fetch(path, { method: "POST", body: new TextEncoder().encode("{}"), headers: type ? { "content-type": type } : {} });
      assert.equal(reply.status, 415, `${path} ${type}`);
      assertIs("Error", await reply.json());
    }
    for (const type of ["application/json; charset=utf-8", "Application/JSON", "application/json ;charset=utf-8"]) {
      const reply = await server.fetch(path, { method: "POST", body: "{}", headers: { "content-type": type } });
      assert.equal(reply.status, 400, `${path} ${type}`);
      await reply.text();
    }
  }
});

test("a body that is too large is 413, told before it is read", async () => {
  for (const how of [{ "content-length": 100_001 }, { "content-length": 1e12 }]) {
    const raw = new RawConnection(server.port).post("/v1/completions", "", how);
    await raw.until(/\}$/);
    const reply = raw.reply();
    assertError({ status: reply.status, body: JSON.parse(reply.body) }, 413, { message: /100000 bytes/ });
    raw.close();
  }
  const long = await server.post("/v1/completions", { model, prompt: "x".repeat(110_000) });
  assertError(long, 413);
  const chunked = new RawConnection(server.port);
  chunked.send("POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n");
  chunked.send("186a1\r\n");
  await chunked.until(/\}$/);
  assert.equal(chunked.reply().status, 413);
  chunked.close();
  // The largest that is allowed is read.
  const body = JSON.stringify({ model, prompt: "", regex: "a" });
  const padded = body + " ".repeat(100_000 - body.length);
  assertIs("Completion", (await server.post("/v1/completions", padded)).body);
});

test("malformed HTTP gets an error in the same form", async () => {
  const cases = [
    ["GET /health HTTP/1.1\r\n\r\n", 400],
    ["GET /health HTTP/2.0\r\nhost: x\r\n\r\n", 505],
    ["GET /%zz HTTP/1.1\r\nhost: x\r\n\r\n", 400],
    ["nonsense\r\n\r\n", 400],
    [`GET /health HTTP/1.1\r\nhost: x\r\na: ${"b".repeat(20_000)}\r\n\r\n`, 431],
    ["POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: gzip\r\n\r\n", 501],
    ["POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nexpect: more\r\ncontent-length: 2\r\n\r\n", 417],
    ["POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}", 400],
  ];
  for (const [text, status] of cases) {
    const raw = new RawConnection(server.port).send(text);
    await raw.until(/\}$/);
    const reply = raw.reply();
    assertError({ status: reply.status, body: JSON.parse(reply.body) }, status);
    assert.equal(reply.headers.get("connection"), "close");
    raw.close();
  }
});

test("HTTP/1.0, pipelined requests, chunked bodies, 100-continue", async () => {
  const old = new RawConnection(server.port).send("GET /health HTTP/1.0\r\n\r\n");
  await old.toEnd();
  assert.equal(old.reply().body, '{"status":"ok"}');

  const two = new RawConnection(server.port).send("GET /health HTTP/1.1\r\nhost: x\r\n\r\n".repeat(3));
  await two.until(/(ok[^]*){3}/);
  two.close();

  const body = JSON.stringify({ tokens: [5, 6, 7] });
  const chunked = new RawConnection(server.port);
  chunked.send("POST /detokenize HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n");
  await chunked.until(/^HTTP\/1.1 100 Continue\r\n\r\n/);
  for (const byte of body) chunked.send(`1\r\n${byte}\r\n`);
  chunked.send("0\r\n\r\n");
  await chunked.until(/\}$/);
  assert.match(chunked.received, /200 OK[^]*\{"prompt":/);
  chunked.close();
});

test("models", async () => {
  for (const path of ["/v1/models", "/models", "/beta/models"]) {
    const { body } = await server.get(path);
    assertIs("ModelList", body);
    assert.deepEqual(body.data.map(({ id }) => id), [model]);
    assert.equal(body.data[0].max_model_len, 2048);
  }
  for (const path of ["/v1/models/", "/models/"]) {
    assertIs("Model", (await server.get(path + model)).body);
    assertError(await server.get(path + "gpt-4"), 404, { code: "model_not_found", param: "model" });
    assertError(await server.get(path + "a%20b%2fc"), 404, { code: "model_not_found" });
  }
});

test("embeddings are refused in words", async () => {
  assertError(await server.post("/v1/embeddings", { model, input: "Hi" }), 400, { code: "unsupported", message: /embeddings/ });
});

test("tokens there and back", async () => {
  const text = "Hello, wörld! 你好 🐋 \n\t<｜User｜>";
  const { body: tokens } = await server.post("/tokenize", { prompt: text });
  assertIs("Tokens", tokens);
  assert.equal(tokens.count, tokens.tokens.length);
  const { body: plain } = await server.post("/tokenize", { model, prompt: text, add_special_tokens: false });
  assert.deepEqual(plain.tokens, tokens.tokens.slice(1));
  const { body: back } = await server.post("/detokenize", { model, tokens: plain.tokens });
  assert.equal(assertIs("Text", back).prompt, text);

  const messages = [{ role: "system", content: "Be brief." }, { role: "user", content: "<｜Assistant｜>" }];
  const { body: conversation } = await server.post("/tokenize", { messages });
  const { body: rendered } = await server.post("/detokenize", { tokens: conversation.tokens });
  assert.equal(rendered.prompt, "<｜begin▁of▁sentence｜>Be brief.<｜User｜><｜Assistant｜><｜Assistant｜></think>");
  // What a user writes is text: there is one token of the assistant, which the template wrote.
  const { body: control } = await server.post("/tokenize", { prompt: "<｜Assistant｜>", add_special_tokens: false });
  assert.equal(control.count, 1);
  assert.equal(conversation.tokens.filter((id) => id === control.tokens[0]).length, 1);
  const { body: thinking } = await server.post("/tokenize", { messages, thinking: true });
  assert.notDeepEqual(thinking.tokens, conversation.tokens);

  const { body: answer } = await server.post("/v1/chat/completions", { ...chat(""), messages });
  assert.equal(answer.usage.prompt_tokens, conversation.count);
  assertError(await server.post("/detokenize", { tokens: [1e6] }), 422, { param: "tokens" });
  assertError(await server.post("/tokenize", {}), 400, { param: "prompt" });
  assertError(await server.post("/tokenize", { prompt: "a", messages }), 400, { param: "prompt" });
});

test("a prompt that the context does not hold", async () => {
  const long = "word ".repeat(3000);
  assertError(await server.post("/v1/chat/completions", chat(long)), 400, { code: "context_length_exceeded", param: "messages" });
  assertError(await server.post("/v1/completions", { model, prompt: long }), 400, { code: "context_length_exceeded", param: "prompt" });
});

test("health and status", async () => {
  assert.deepEqual(assertIs("Health", (await server.get("/health")).body), { status: "ok" });
  const status = assertIs("Status", await server.status());
  assert.equal(status.model, model);
  assert.equal(status.context, 2048);
  assert.equal(status.experts.load.length, 6);
});

test("curl, as the help says it", { skip: spawnSync("curl", ["--version"]).status !== 0 && "there is no curl" }, () => {
  const body = JSON.stringify({ model, messages: [{ role: "user", content: "Tell me a story." }], max_tokens: 8, stream: true });
  const { stdout } = spawnSync("curl", ["-sN", `${server.url}/v1/chat/completions`, "-H", "content-type: application/json", "-d", body], { encoding: "utf8" });
  assert.match(stdout, /^data: \{[^]*\n\ndata: \[DONE\]\n\n$/);
  // A large body makes curl wait for "100 Continue".
  const large = JSON.stringify({ model, prompt: "a", max_tokens: 1, user: "u".repeat(50_000) });
  const reply = spawnSync("curl", ["-s", `${server.url}/v1/completions`, "-H", "content-type: application/json", "-d", "@-"], { input: large, encoding: "utf8" });
  assertIs("Completion", JSON.parse(reply.stdout));
});
