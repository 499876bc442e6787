// Beginning and end: command lines that are wrong, TLS, shutting down.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import https from "node:https";
import { join } from "node:path";
import { test } from "node:test";
import { assertError, assertIs } from "./support/openapi.mjs";
import { RawConnection } from "./support/raw.mjs";
import { Server, chat, eventually, model, modelDirectory, runFathom, temporaryDirectory } from "./support/server.mjs";

const directory = temporaryDirectory();
const long = { model, prompt: "Hi", temperature: 0, ignore_eos: true, stream: true };

test("SIGTERM: a stream that runs is finished, nobody new is let in, and the exit code is 0", async () => {
  for (const signal of ["SIGTERM", "SIGINT"]) {
    const server = await Server.start();
    const stream = new RawConnection(server.port).post("/v1/completions", { ...long, max_tokens: 600 });
    const idle = new RawConnection(server.port).send("GET /health HTTP/1.1\r\nhost: x\r\n\r\n");
    const begun = new RawConnection(server.port).send("GET /v1/models HTTP/1.1\r\nhost: localhost\r\n");
    await Promise.all([stream.until(/data: /), idle.until(/ok/), begun.connected]);
    // The server has taken the connection when it shows it.
    await eventually(async () => /fathom_connections [3-9]/.test(await (await server.fetch("/metrics")).text()), "the connections");
    server.process.kill(signal);
    await idle.toEnd(2);
    // A request that was on its way is told, one that comes now finds no port.
    begun.send("\r\n");
    await begun.until(/\}$/);
    const { status, headers, body } = begun.reply();
    assertError({ status, body: JSON.parse(body) }, 503, { code: "server_overloaded" });
    assert.equal(headers.get("retry-after"), "5");
    assert.equal(await new RawConnection(server.port).connected, false);
    await stream.toEnd();
    const text = stream.reply().body;
    assert.match(text, /"finish_reason":"length"/);
    assert.match(text, /data: \[DONE\]\n\n$/);
    assert.deepEqual(await server.end, { code: 0, signal: null });
    assert.match(server.stderr, /shutting down/);
  }
});

test("what is not done after --drain-seconds is cut off and told so", async () => {
  const server = await Server.start(["--drain-seconds", "0"]);
  const stream = new RawConnection(server.port).post("/v1/completions", { ...long, max_tokens: 4000 });
  await stream.until(/data: /);
  const whole = server.post("/v1/completions", { ...long, stream: false, max_tokens: 4000 });
  await eventually(async () => (await server.status()).requests.running === 2, "two requests that run");
  const started = Date.now();
  server.process.kill("SIGTERM");
  await stream.toEnd();
  assert.match(stream.received, /"finish_reason":"insufficient_system_resource"/);
  assert.match(stream.received, /data: \[DONE\]\n\n/);
  const { body } = await whole;
  assert.equal(assertIs("Completion", body).choices[0].finish_reason, "insufficient_system_resource");
  assert.deepEqual(await server.end, { code: 0, signal: null });
  assert.ok(Date.now() - started < 4000);
  assert.match(server.stderr, /were ended/);
});

test("two SIGTERMs are one", async () => {
  const server = await Server.start();
  const stream = new RawConnection(server.port).post("/v1/completions", { ...long, max_tokens: 300 });
  await stream.until(/data: /);
  server.process.kill("SIGTERM");
  await eventually(() => /shutting down/.test(server.stderr), "the shutdown");
  server.process.kill("SIGTERM");
  await stream.toEnd();
  assert.match(stream.received, /\[DONE\]/);
  assert.equal((await server.end).code, 0);
});

async function assertRefused(args, sentence, { code = 2, env } = {}) {
  const result = await runFathom(["serve", ...args], { env });
  assert.equal(result.code, code, `${args.join(" ")}: ${result.stderr}`);
  assert.match(result.stderr, sentence);
  assert.match(result.stderr, /^fathom: [^\n]+\n$/);
  assert.equal(result.stdout, "");
}

test("command lines that are wrong are refused in a sentence", async () => {
  const here = ["--model", modelDirectory, "--port", "0"];
  const key = { FATHOM_API_KEY: "sk-0123456789abcdef" };
  await assertRefused([], /--model/);
  await assertRefused(["--model", "/no/such/directory", "--port", "0"], /\/no\/such\/directory/);
  await assertRefused([...here, "--port", "65536"], /--port/);
  await assertRefused([...here, "--together", "0"], /--together/);
  await assertRefused([...here, "--keep-alive-seconds", "0"], /--keep-alive-seconds/);
  await assertRefused([...here, "--no-such-option"], /--no-such-option/);
  await assertRefused([...here, "--format", "v9"], /--format/);
  await assertRefused([...here, "--host", "0.0.0.0"], /--api-keys FILE or set FATHOM_API_KEY, or say --no-key/);
  await assertRefused([...here, "--host", "::"], /--no-key/);
  await assertRefused([...here, "--host", "no address"], /no address/);
  await assertRefused([...here, "--host", "203.0.113.7"], /address of this machine/, { env: key });
  await assertRefused([...here, "--no-key"], /contradicts/, { env: key });
  await assertRefused(here, /FATHOM_API_KEY: an API key has 16/, { env: { FATHOM_API_KEY: "short" } });
  await assertRefused([...here, "--log", "/no/such/directory/log"], /the log cannot be written there/);
  // A directory that is no checkpoint.
  const empty = join(directory, "empty");
  mkdirSync(empty);
  await assertRefused(["--model", empty, "--port", "0"], /empty/);
  // One without weights: said before anybody is let in.
  const bare = join(directory, "bare");
  mkdirSync(bare);
  for (const name of ["config.json", "tokenizer.json", "tokenizer_config.json"]) copyFileSync(join(modelDirectory, name), join(bare, name));
  await assertRefused(["--model", bare, "--port", "0"], /bare/);
});

test("a port that is taken", async () => {
  const server = await Server.start();
  await assertRefused(["--model", modelDirectory, "--port", String(server.port)], /127\.0\.0\.1:\d+: expected a free port/);
  await server.stop();
  // It is free at once.
  const next = await runServerOn(server.port);
  assert.equal(next.port, server.port);
  await next.stop();
});

async function runServerOn(port) {
  return Server.start(["--port", String(port)], { freePort: false });
}

test("other addresses than the default", async () => {
  const anywhere = await Server.start(["--host", "0.0.0.0"], { env: { FATHOM_API_KEY: "sk-0123456789abcdef" } });
  assert.match(anywhere.url, /^http:\/\/0\.0\.0\.0:/);
  assert.equal((await fetch(`http://127.0.0.1:${anywhere.port}/v1/models`)).status, 401);
  await anywhere.stop();
  const open = await Server.start(["--host", "0.0.0.0", "--no-key"]);
  assert.equal((await fetch(`http://127.0.0.1:${open.port}/v1/models`)).status, 200);
  await open.stop();
});

test("--name, --most-tokens, --most-answers, --context, --no-page", async () => {
  const server = await Server.start(["--name", "a", "--name", "b/c", "--most-tokens", "10", "--most-answers", "2", "--context", "300", "--no-page"]);
  try {
    const { body } = await server.get("/v1/models");
    assert.deepEqual(body.data.map(({ id, max_model_len }) => [id, max_model_len]), [["a", 300], ["b/c", 300]]);
    assert.equal((await server.get("/v1/models/b/c")).body.id, "b/c");
    const ask = (fields) => server.post("/v1/chat/completions", { ...chat("Hi", { ignore_eos: true }), model: "b/c", max_tokens: undefined, ...fields });
    const answer = await ask();
    assert.equal(answer.body.usage.completion_tokens, 10);
    assert.equal(answer.body.model, "a");
    assertError(await ask({ max_tokens: 11 }), 422, { param: "max_tokens" });
    assertError(await ask({ max_completion_tokens: 11 }), 422, { param: "max_completion_tokens" });
    assertError(await ask({ n: 3 }), 422, { param: "n" });
    assertError(await ask({ model }), 404, { code: "model_not_found" });
    const completion = await server.post("/v1/completions", { model: "a", prompt: "Hi", ignore_eos: true });
    assert.equal(completion.body.usage.completion_tokens, 10);
    assertError(await server.post("/v1/completions", { model: "a", prompt: ["x", "y", "z"] }), 422, { param: "prompt" });
    assertError(await server.get("/"), 404);
  } finally {
    await server.stop();
  }
});

test("TLS", { skip: spawnSync("openssl", ["version"]).status !== 0 && "there is no openssl" }, async () => {
  const file = (name) => join(directory, name);
  const openssl = (...args) => assert.equal(spawnSync("openssl", args).status, 0, args.join(" "));
  for (const name of ["a", "b"]) {
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost",
      "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", file(`${name}.key`), "-out", file(`${name}.pem`));
  }
  openssl("ec", "-in", file("a.key"), "-aes128", "-passout", "pass:secret", "-out", file("locked.key"));
  writeFileSync(file("nonsense"), "nonsense\n");

  const tls = (certificate, key) => ["--model", modelDirectory, "--port", "0", ...(certificate ? ["--tls-certificate", certificate] : []), ...(key ? ["--tls-key", key] : [])];
  await assertRefused(tls(file("a.pem"), null), /expected its key too/);
  await assertRefused(tls(null, file("a.key")), /expected its certificate too/);
  await assertRefused(tls(file("missing.pem"), file("a.key")), /missing\.pem/);
  await assertRefused(tls(file("nonsense"), file("a.key")), /nonsense: expected a certificate chain in PEM/);
  await assertRefused(tls(file("a.pem"), file("nonsense")), /nonsense: expected a private key in PEM/);
  await assertRefused(tls(file("a.pem"), file("b.key")), /b\.key: expected the key of the certificate/);
  await assertRefused(tls(file("a.pem"), file("locked.key")), /locked\.key: expected a private key in PEM without a password/);

  const server = await Server.start(["--tls-certificate", file("a.pem"), "--tls-key", file("a.key")]);
  assert.match(server.url, /^https:/);
  const ask = (path, { body, ...options } = {}) =>
    new Promise((settle, reject) => {
      const request = https.request({ host: "localhost", port: server.port, path, ca: readFileSync(file("a.pem")), agent: false, ...options }, (reply) => {
        let text = "";
        reply.on("data", (data) => (text += data));
        reply.on("end", () => settle({ status: reply.statusCode, text, protocol: reply.socket.getProtocol?.() }));
      });
      request.on("error", reject);
      request.end(body);
    });
  assert.deepEqual(await ask("/health"), { status: 200, text: '{"status":"ok"}', protocol: "TLSv1.3" });
  assert.equal((await ask("/health", { maxVersion: "TLSv1.2" })).protocol, "TLSv1.2");
  await assert.rejects(ask("/health", { maxVersion: "TLSv1.1", minVersion: "TLSv1", ciphers: "DEFAULT@SECLEVEL=0" }));
  await assert.rejects(ask("/health", { ca: readFileSync(file("b.pem")) }), /certificate/);
  const body = JSON.stringify({ ...long, max_tokens: 300 });
  const stream = ask("/v1/completions", { method: "POST", body, headers: { "content-type": "application/json" } });
  await eventually(() => server.log().some((line) => line.path === "/health"), "the log");
  // Plain HTTP gets nothing from a TLS port.
  const plain = new RawConnection(server.port).send("GET /health HTTP/1.1\r\nhost: x\r\n\r\n");
  await plain.toEnd();
  assert.ok(!plain.received.includes("200"));
  await eventually(async () => JSON.parse((await ask("/status")).text).requests.running === 1, "the stream");
  server.process.kill("SIGTERM");
  assert.match((await stream).text, /data: \[DONE\]\n\n$/);
  assert.equal((await server.end).code, 0);
});
