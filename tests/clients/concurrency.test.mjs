// Many at once: each gets the answer that it would get alone, whatever happens to its neighbours.
import assert from "node:assert/strict";
import { test } from "node:test";
import { assertIs } from "./support/openapi.mjs";
import { RawConnection } from "./support/raw.mjs";
import { Server, chat, eventually, model } from "./support/server.mjs";

/** A random number generator, so that a failure comes again. */
function mulberry32(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

// No two prompts begin alike, beyond what the cache does not care about: a beginning that is found there can have been
// computed with another form of attention, and then last bits differ.
function requestsOf(first) {
  return Array.from({ length: 30 }, (_, at) => {
    const fields = { max_tokens: 20 + at, ...(at % 2 ? { temperature: 1, seed: at } : {}) };
    const content = `${first + 7 * at} stories about the wind, please.`;
    if (at % 5 === 1) return ["/v1/completions", { model, prompt: `${first + 7 * at} days ago, Anna`, temperature: 0, ...fields }];
    if (at % 5 === 2) return ["/v1/chat/completions", chat(content, { ...fields, n: 2 })];
    if (at % 5 === 3) return ["/v1/chat/completions", chat(content, { ...fields, regex: "[A-Za-z ,.]{12,40}", logprobs: true, top_logprobs: 2 })];
    if (at % 5 === 4) return ["/v1/chat/completions", chat(content, { ...fields, thinking: { type: "enabled" } })];
    return ["/v1/chat/completions", chat(content, fields)];
  });
}
const requests = requestsOf(100);
const leavers = requestsOf(500);

/** What an answer says; not its id and time, nor what it found in the cache. */
const said = ({ choices, usage }) => ({ choices, tokens: [usage.prompt_tokens, usage.completion_tokens] });

async function alone() {
  const server = await Server.start();
  const answers = [];
  for (const [path, body] of requests) {
    const reply = await server.post(path, body);
    assert.equal(reply.status, 200, JSON.stringify(reply.body));
    answers.push(said(assertIs(path === "/v1/completions" ? "Completion" : "ChatCompletion", reply.body)));
  }
  await server.stop();
  return answers;
}

let expected;
for (const [what, args] of [
  ["with room for all", ["--together", "32"]],
  ["in a queue", ["--together", "4"]],
  ["with a cache too small for all, so that some give theirs up", ["--together", "16", "--cache-tokens", "640", "--context", "512"]],
]) {
  test(`30 requests at once and clients that leave: ${what}`, async () => {
    expected ??= await alone();
    const server = await Server.start(args);
    try {
      const random = mulberry32(1);
      let leaving = true;
      const aborts = Array.from({ length: 4 }, async () => {
        while (leaving) {
          const [path, body] = leavers[Math.floor(random() * leavers.length)];
          const raw = new RawConnection(server.port).post(path, { ...body, stream: random() < 0.5, ignore_eos: true, max_tokens: 200 });
          await new Promise((settle) => setTimeout(settle, random() * 120));
          raw.close();
        }
      });
      const replies = await Promise.all(requests.map(([path, body]) => server.post(path, body)));
      leaving = false;
      await Promise.all(aborts);
      for (const [at, reply] of replies.entries()) {
        assert.equal(reply.status, 200, JSON.stringify(reply.body));
        assert.deepEqual(said(reply.body), expected[at], `request ${at}`);
      }
      await server.idle(2);
      const { cache, requests: counts } = await server.status();
      assert.equal(cache.free + cache.kept, cache.pages);
      assert.ok(counts.cancelled > 3, `${counts.cancelled} cancelled`);
      if (what.includes("too small")) assert.match(await (await server.fetch("/metrics")).text(), /^fathom_preemptions_total [1-9]/m);
    } finally {
      const { code } = await server.stop();
      assert.equal(code, 0, server.stderr.slice(-1000));
    }
  });
}

test("300 connections", async () => {
  const server = await Server.start();
  try {
    const connections = Array.from({ length: 300 }, () => new RawConnection(server.port));
    await Promise.all(connections.map((connection) => connection.connected));
    await eventually(async () => Number((await (await server.fetch("/metrics")).text()).match(/^fathom_connections (\d+)/m)[1]) > 300, "300 connections");
    for (const connection of connections) connection.post("/v1/completions", { model, prompt: "Hi", max_tokens: 1, temperature: 0 });
    await Promise.all(connections.map((connection) => connection.until(/\}\]?\}?$/, 30)));
    const texts = new Set(connections.map((connection) => JSON.parse(connection.reply().body).choices[0].text));
    assert.equal(texts.size, 1);
    connections.forEach((connection) => connection.close());
    await server.idle();
  } finally {
    await server.stop();
  }
});
