// Metrics and the log.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import parse from "parse-prometheus-text-format";
import { openapi, assertIs } from "./support/openapi.mjs";
import { RawConnection } from "./support/raw.mjs";
import { Server, chat, eventually, model, temporaryDirectory } from "./support/server.mjs";

const server = await Server.forFile();
const documented = openapi.paths["/metrics"].get.responses[200].content["text/plain"]["x-metrics"];

async function scrape(from = server) {
  const reply = await from.fetch("/metrics");
  assert.equal(reply.status, 200);
  assert.equal(reply.headers.get("content-type"), "text/plain; version=0.0.4; charset=utf-8");
  // Count and sum may stand before the buckets, but this parser wants them behind.
  const text = (await reply.text()).replace(/^(\w+_count .*\n\w+_sum .*\n)((?:\w+_bucket.*\n)+)/gm, "$2$1");
  return new Map(parse(text).map((family) => [family.name, family]));
}

/** The value of a metric, summed over what has these labels. */
function value(families, name, labels = {}) {
  const metrics = families.get(name)?.metrics ?? [];
  return metrics
    .filter((metric) => Object.entries(labels).every(([label, text]) => metric.labels?.[label] === text))
    .reduce((sum, metric) => sum + Number(metric.value ?? metric.count), 0);
}

const post = (fields) => server.post("/v1/chat/completions", chat("Tell me a story.", fields));

test("every metric is documented, and every documented one is there", async () => {
  await post();
  await post({ temperature: 3 });
  await server.fetch("/no/such/path");
  const families = await scrape();
  assert.deepEqual([...families.keys()].sort(), Object.keys(documented).sort());
  for (const [name, family] of families) {
    const [type, labels] = documented[name].match(/^(\w+)(?: \{([\w, ]+)\})?:/).slice(1);
    assert.equal(family.type.toLowerCase(), type, name);
    assert.ok(family.help.length > 5, name);
    for (const metric of family.metrics) {
      assert.deepEqual(Object.keys(metric.labels ?? {}).sort(), labels?.split(", ").sort() ?? [], name);
    }
  }
});

test("counters count, and never fall", async () => {
  const before = await scrape();
  const { body: first } = await post({ max_tokens: 9 });
  const { body: second } = await post({ max_tokens: 30, n: 2, stop: "zzz" });
  const { body: thinking } = await server.post("/v1/chat/completions", chat("What is 23 + 45?", { thinking: { type: "enabled" }, max_tokens: 200 }));
  await post({ seed: 0.5 });
  await server.fetch("/no/such/path");
  await server.post("/tokenize", { prompt: "a" });
  const gone = new RawConnection(server.port).post("/v1/chat/completions", chat("Hi", { ignore_eos: true, max_tokens: 3000, stream: true }));
  await gone.until(/data: /);
  gone.close();
  await server.idle();
  const after = await eventually(async () => {
    const families = await scrape();
    return value(families, "fathom_answers_total", { finish_reason: "gone" }) > value(before, "fathom_answers_total", { finish_reason: "gone" }) && families;
  }, "the answer that was left");
  const rise = (name, labels) => value(after, name, labels) - value(before, name, labels);

  for (const [name, family] of after) {
    if (family.type !== "COUNTER") continue;
    for (const metric of family.metrics) assert.ok(rise(name, metric.labels ?? {}) >= 0, name);
  }
  const usages = [first, second, thinking].map((body) => assertIs("ChatCompletion", body).usage);
  const sum = (pick) => usages.map(pick).reduce((a, b) => a + b);
  assert.equal(rise("fathom_requests_total", { route: "/v1/chat/completions", status: "200" }), 4);
  assert.equal(rise("fathom_requests_total", { route: "/v1/chat/completions", status: "400" }), 1);
  assert.equal(rise("fathom_requests_total", { route: "/tokenize" }), 1);
  assert.equal(rise("fathom_requests_total", { route: "refused", status: "404" }), 1);
  assert.equal(rise("fathom_answers_total", { finish_reason: "length" }), 3);
  assert.equal(rise("fathom_answers_total", { finish_reason: "stop" }), 1);
  assert.equal(rise("fathom_answers_total", { finish_reason: "gone" }), 1);
  // The one that was left has computed something, too.
  assert.ok(rise("fathom_completion_tokens_total") > sum((usage) => usage.completion_tokens));
  assert.ok(rise("fathom_prompt_tokens_total") > sum((usage) => usage.prompt_tokens));
  assert.equal(rise("fathom_reasoning_tokens_total"), sum((usage) => usage.completion_tokens_details.reasoning_tokens));
  assert.equal(rise("fathom_request_seconds"), 4);
  assert.equal(rise("fathom_time_to_first_token_seconds"), 4);
  assert.ok(rise("fathom_inter_token_seconds") > 60);
  // One after the other, and a step gives an answer two tokens at most: its next one and a draft.
  const longest = first.usage.completion_tokens + 30 + thinking.usage.completion_tokens;
  assert.ok(rise("fathom_engine_steps_total") >= longest / 2);
});

test("histograms add up", async () => {
  const families = await scrape();
  for (const [name, family] of families) {
    if (family.type !== "HISTOGRAM") continue;
    for (const { buckets, count, sum } of family.metrics) {
      const counts = Object.entries(buckets).sort(([a], [b]) => Number(a.replace("+Inf", "Infinity")) - Number(b.replace("+Inf", "Infinity"))).map(([, n]) => Number(n));
      assert.ok(counts.every((n, at) => at === 0 || n >= counts[at - 1]), name);
      assert.equal(counts.at(-1), Number(count), name);
      assert.ok(Number(sum) > 0, name);
    }
  }
});

test("gauges show what runs", async () => {
  const connections = Array.from({ length: 3 }, () =>
    new RawConnection(server.port).post("/v1/completions", { model, prompt: "Hi", ignore_eos: true, max_tokens: 4000, stream: true }));
  await Promise.all(connections.map((connection) => connection.until(/data: /)));
  // The engine's state is that after a step, which comes a little later than the step's tokens.
  const families = await eventually(async () => {
    const now = await scrape();
    return value(now, "fathom_requests_running") === 3 && now;
  }, "three requests that run");
  assert.ok(value(families, "fathom_connections") >= 4);
  assert.ok(value(families, "fathom_cache_pages", { state: "used" }) >= 3);
  const pages = ["free", "kept", "used"].map((state) => value(families, "fathom_cache_pages", { state })).reduce((a, b) => a + b);
  assert.equal(pages, (await server.status()).cache.pages);
  connections.forEach((connection) => connection.close());
  await server.idle();
  const idle = await scrape();
  assert.equal(value(idle, "fathom_requests_running"), 0);
  assert.equal(value(idle, "fathom_cache_pages", { state: "used" }), 0);
  assert.ok(value(idle, "process_resident_memory_bytes") > 1e7);
});

test("the log has a line for each request, and no prompt", async () => {
  const secret = "swordfish-4711";
  const reply = await server.post("/v1/chat/completions", chat(`The password is ${secret}.`, { user: secret, max_tokens: 5 }));
  const id = reply.headers.get("x-request-id");
  const line = await server.logged((entry) => entry.id === id);
  assert.match(line.time, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  assert.equal(line.peer, "127.0.0.1");
  assert.equal(line.key, "everybody");
  assert.equal(line.method, "POST");
  assert.equal(line.path, "/v1/chat/completions");
  assert.equal(line.status, 200);
  assert.equal(line.finish_reason, "length");
  assert.equal(line.prompt_tokens, reply.body.usage.prompt_tokens);
  assert.equal(line.completion_tokens, 5);
  assert.ok(line.seconds >= line.first_token_seconds && line.first_token_seconds > 0);
  // Nor does it quote what was refused.
  await server.post("/v1/chat/completions", chat("Hi", { [secret]: 1 }));
  await server.post("/v1/chat/completions", `{"model": "${secret}"`);
  await server.post("/tokenize", { prompt: secret });
  await server.fetch(`/v1/models?key=${secret}`);
  const last = await server.fetch("/health");
  await server.logged((entry) => entry.id === last.headers.get("x-request-id"));
  assert.ok(!server.stderr.includes(secret));
  assert.ok(!server.stderr.includes(reply.body.choices[0].message.content));
});

test("a path in the log is one line of printable characters", async () => {
  await server.fetch("/no%22%5c/such/\u00e9path");
  const line = await server.logged((entry) => entry.path?.startsWith("/no\"\\"));
  assert.equal(line.status, 404);
  assert.match(line.path, /^[ -~]+$/);
});

test("--log-prompts, --log FILE, --log off", async () => {
  const secret = "swordfish-4711";
  const path = join(temporaryDirectory(), "log");
  const open = await Server.start(["--log-prompts", "--log", path]);
  const reply = await open.post("/v1/chat/completions", chat(secret, { max_tokens: 2 }));
  await open.stop();
  assert.ok(!open.stderr.includes("req_"));
  const lines = readFileSync(path, "utf8").trim().split("\n").map((line) => JSON.parse(line));
  const line = lines.find((entry) => entry.id === reply.headers.get("x-request-id"));
  assert.equal(JSON.parse(line.request).messages[0].content, secret);

  const off = await Server.start(["--log", "off", "--log-prompts"]);
  await off.post("/v1/chat/completions", chat(secret, { max_tokens: 2 }));
  await off.stop();
  assert.ok(!off.stderr.includes(secret) && !off.stderr.includes("req_"));
});
