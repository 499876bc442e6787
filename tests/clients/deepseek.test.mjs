// What DeepSeek's API has beside OpenAI's: thoughts, prefix and FIM completion, the cache's share of a prompt.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { assertError, assertIs } from "./support/openapi.mjs";
import { Server, chat, model } from "./support/server.mjs";

const server = await Server.forFile(["--name", model, "--name", "deepseek-reasoner"]);
const clientAt = (base) => new OpenAI({ baseURL: server.url + base, apiKey: "none", maxRetries: 0 });
const beta = clientAt("/beta");
const sum = "What is 23 + 45?";
const thinking = { thinking: { type: "enabled" }, max_tokens: 300 };
const ask = (content, fields) => server.post("/chat/completions", chat(content, fields)).then(({ status, body }) => {
  assert.equal(status, 200, JSON.stringify(body));
  return assertIs("ChatCompletion", body);
});

/** Joins a streamed answer as DeepSeek's documentation does. */
async function collect(stream) {
  const parts = { reasoning: "", content: "", order: [], last: null };
  for await (const chunk of stream) {
    assertIs("ChatCompletionChunk", chunk);
    const delta = chunk.choices[0]?.delta;
    if (delta?.reasoning_content) {
      assert.equal(delta.content, null);
      parts.reasoning += delta.reasoning_content;
      parts.order.push("reasoning");
    } else if (delta?.content) {
      parts.content += delta.content;
      parts.order.push("content");
    }
    parts.last = chunk;
  }
  return parts;
}

test("the three base addresses are one API", async () => {
  const texts = [];
  for (const base of ["", "/v1", "/beta"]) {
    const client = clientAt(base);
    const answer = await client.chat.completions.create(chat("Tell me a story."));
    texts.push(answer.choices[0].message.content);
    assert.deepEqual((await client.models.list()).data.map(({ id }) => id), [model, "deepseek-reasoner"]);
  }
  assert.equal(new Set(texts).size, 1);
});

test("thoughts, whole", async () => {
  const answer = await ask(sum, thinking);
  const { message, finish_reason } = answer.choices[0];
  assert.equal(finish_reason, "stop");
  assert.ok(message.reasoning_content.length > 10);
  assert.match(message.content, /68/);
  assert.doesNotMatch(message.content + message.reasoning_content, /<.?think>/);
  const { completion_tokens, completion_tokens_details } = answer.usage;
  assert.ok(completion_tokens_details.reasoning_tokens > 5);
  assert.ok(completion_tokens_details.reasoning_tokens < completion_tokens);

  const without = await ask(sum);
  assert.equal(without.choices[0].message.reasoning_content, undefined);
  assert.equal(without.usage.completion_tokens_details.reasoning_tokens, 0);
});

test("thoughts, streamed before the content", async () => {
  const whole = (await ask(sum, thinking)).choices[0].message;
  const stream = await beta.chat.completions.create({ ...chat(sum, thinking), stream: true, stream_options: { include_usage: true } });
  const { reasoning, content, order, last } = await collect(stream);
  assert.equal(reasoning, whole.reasoning_content);
  assert.equal(content, whole.content);
  assert.ok(order.lastIndexOf("reasoning") < order.indexOf("content"));
  assert.ok(last.usage.completion_tokens_details.reasoning_tokens > 5);
});

test("thoughts are switched on in four ways", async () => {
  const { reasoning_content: expected } = (await ask(sum, thinking)).choices[0].message;
  const ways = [
    { model: "deepseek-reasoner" },
    { reasoning_effort: "high" },
    { chat_template_kwargs: { thinking: true } },
    { chat_template_kwargs: { enable_thinking: true } },
  ];
  for (const way of ways) {
    const answer = await ask(sum, { max_tokens: 300, ...way });
    assert.equal(answer.choices[0].message.reasoning_content, expected, JSON.stringify(way));
    assert.equal(answer.model, model);
  }
  for (const way of [{ model: "deepseek-reasoner", thinking: { type: "disabled" } }, { reasoning_effort: "minimal" }, { reasoning_effort: "none" }]) {
    assert.equal((await ask(sum, way)).choices[0].message.reasoning_content, undefined, JSON.stringify(way));
  }
  assertError(await server.post("/chat/completions", chat(sum, { thinking: { type: "enabled" }, reasoning_effort: "none" })), 400, { param: "reasoning_effort" });
});

test("thoughts that max_tokens cuts off leave no content", async () => {
  const answer = await ask(sum, { ...thinking, max_tokens: 5 });
  assert.equal(answer.choices[0].finish_reason, "length");
  assert.equal(answer.choices[0].message.content, "");
  assert.equal(answer.usage.completion_tokens_details.reasoning_tokens, 5);
});

test("thoughts have log-probabilities of their own", async () => {
  const answer = await ask(sum, { ...thinking, logprobs: true, top_logprobs: 1 });
  const { logprobs, message } = answer.choices[0];
  const text = (list) => Buffer.from(list.flatMap(({ bytes }) => bytes)).toString();
  assert.equal(text(logprobs.content).trim(), message.content.trim());
  assert.ok(text(logprobs.reasoning_content).includes(message.reasoning_content));
  assert.equal(logprobs.content.length + logprobs.reasoning_content.length, answer.usage.completion_tokens);
});

test("thoughts of earlier answers are not sent back", async () => {
  const { message } = (await ask(sum, thinking)).choices[0];
  const messages = [{ role: "user", content: sum }, message, { role: "user", content: "Tell me a story." }];
  assertError(await server.post("/chat/completions", { ...chat(""), messages }), 400, { param: "messages[1].reasoning_content" });
  delete message.reasoning_content;
  assert.ok((await ask("", { messages })).choices[0].message.content);
});

test("a form holds behind the thoughts", async () => {
  const schema = { type: "object", properties: { sum: { type: "integer", minimum: 0, maximum: 99 } }, required: ["sum"], additionalProperties: false };
  const answer = await ask(sum, { ...thinking, response_format: { type: "json_schema", json_schema: { name: "sum", schema } } });
  const { message, finish_reason } = answer.choices[0];
  assert.equal(finish_reason, "stop");
  assert.ok(message.reasoning_content.length > 10);
  assert.deepEqual(Object.keys(JSON.parse(message.content)), ["sum"]);
});

test("a call that is required comes behind the thoughts", async () => {
  const parameters = { type: "object", properties: { sum: { enum: [68, 70] } }, required: ["sum"], additionalProperties: false };
  const tools = [{ type: "function", function: { name: "say", strict: true, parameters } }];
  const answer = await ask(sum, { ...thinking, max_tokens: 400, tools, tool_choice: "required", parallel_tool_calls: false });
  const { message, finish_reason } = answer.choices[0];
  // This model may think to the end when tools are described to it.
  if (finish_reason === "length") return assert.equal(message.tool_calls, undefined);
  assert.equal(finish_reason, "tool_calls");
  assert.ok(message.reasoning_content.length > 0);
  assert.ok([68, 70].includes(JSON.parse(message.tool_calls[0].function.arguments).sum));
});

test("prefix completion goes on from the last message, up to a stop string", async () => {
  const messages = [{ role: "user", content: "Tell me a story." }, { role: "assistant", content: "Once upon a time, Greta", prefix: true }];
  const fields = { model, messages, temperature: 0, max_tokens: 40 };
  const answer = assertIs("ChatCompletion", await beta.chat.completions.create(fields));
  const { content } = answer.choices[0].message;
  assert.ok(!content.startsWith("Once"));
  // The same tokens as a plain prompt.
  const { body: rendered } = await server.post("/tokenize", { messages: messages.slice(0, 1) });
  const { body: start } = await server.post("/tokenize", { prompt: messages[1].content, add_special_tokens: false });
  const plain = await beta.completions.create({ ...fields, messages: undefined, prompt: [...rendered.tokens, ...start.tokens] });
  assert.equal(plain.choices[0].text, content);
  assert.equal(plain.usage.prompt_tokens, answer.usage.prompt_tokens);

  const stop = content.slice(8, 12);
  const cut = await beta.chat.completions.create({ ...fields, stop: [stop] });
  assert.equal(cut.choices[0].message.content, content.slice(0, content.indexOf(stop)));
  assert.equal(cut.choices[0].finish_reason, "stop");
  const streamed = await collect(await beta.chat.completions.create({ ...fields, stop: [stop], stream: true }));
  assert.equal(streamed.content, cut.choices[0].message.content);
});

test("a prefix of the thoughts", async () => {
  const messages = [{ role: "user", content: sum }, { role: "assistant", content: "", prefix: true, reasoning_content: "23 + 45:" }];
  const { message } = (await ask("", { messages, ...thinking })).choices[0];
  assert.ok(message.reasoning_content.length > 0);
  const both = await ask("", { messages: [messages[0], { ...messages[1], content: "The sum is" }], ...thinking });
  assert.equal(both.choices[0].message.reasoning_content, "");
  assert.ok(both.choices[0].message.content.length > 0);
  assert.equal(both.usage.completion_tokens_details.reasoning_tokens, 0);
});

test("FIM: the text between prompt and suffix", async () => {
  const fields = { model, prompt: "One day, Anna", suffix: " and went home.", temperature: 0, max_tokens: 12 };
  const answer = assertIs("Completion", await beta.completions.create(fields));
  const plain = await beta.completions.create({ ...fields, suffix: undefined });
  // Three more control tokens, and the suffix.
  const { body: suffix } = await server.post("/tokenize", { prompt: fields.suffix, add_special_tokens: false });
  assert.equal(answer.usage.prompt_tokens, plain.usage.prompt_tokens + 3 + suffix.count);
  const ids = await Promise.all(["<｜fim▁begin｜>", fields.prompt, "<｜fim▁hole｜>", fields.suffix, "<｜fim▁end｜>"].map(async (prompt, at) =>
    (await server.post("/tokenize", { prompt, add_special_tokens: at === 0 })).body.tokens));
  const same = await beta.completions.create({ ...fields, suffix: undefined, prompt: ids.flat() });
  assert.equal(same.choices[0].text, answer.choices[0].text);
  const echo = await beta.completions.create({ ...fields, echo: true });
  assert.equal(echo.choices[0].text, fields.prompt + answer.choices[0].text);
  const empty = await beta.completions.create({ ...fields, suffix: "" });
  assert.equal(empty.usage.prompt_tokens, plain.usage.prompt_tokens + 3);
});

test("/beta/completions has DeepSeek's defaults", async () => {
  const { body } = await server.post("/beta/completions", { model, temperature: 0, stop: "\n" });
  assertIs("Completion", body);
  assert.ok(body.usage.completion_tokens > 16);
  const { body: same } = await server.post("/v1/completions", { model, temperature: 0, prompt: "Once upon a time,", stop: "\n" });
  assert.equal(same.usage.completion_tokens, 16);
  assert.ok(body.choices[0].text.startsWith(same.choices[0].text));
});

test("the cache's share of a prompt that comes again", async () => {
  const facts = Array.from({ length: 30 }, (_, at) => `The code of box ${at} is ${1000 + 37 * at}.`).join(" ");
  const usages = [];
  for (const content of [facts, facts, `${facts} Tell me a story.`, `No. ${facts}`]) usages.push((await ask(content, { max_tokens: 4 })).usage);
  for (const usage of usages) {
    assert.equal(usage.prompt_cache_hit_tokens + usage.prompt_cache_miss_tokens, usage.prompt_tokens);
    assert.equal(usage.prompt_tokens_details.cached_tokens, usage.prompt_cache_hit_tokens);
  }
  const [first, again, longer, other] = usages;
  assert.ok(first.prompt_cache_hit_tokens < 10);
  assert.ok(again.prompt_cache_miss_tokens < 64);
  assert.ok(longer.prompt_cache_hit_tokens > first.prompt_tokens - 64);
  assert.ok(other.prompt_cache_hit_tokens < 10);
});

test("a conversation computes only what is new", async () => {
  const messages = [{ role: "user", content: "Tell me a story." }];
  const first = await ask("", { messages, max_tokens: 200 });
  messages.push(first.choices[0].message, { role: "user", content: "Who was in it?" });
  const second = await ask("", { messages, max_tokens: 4 });
  assert.ok(second.usage.prompt_cache_hit_tokens > first.usage.prompt_tokens);
});

test("--deepseek-temperature maps temperatures", async () => {
  const mapped = await Server.start(["--deepseek-temperature"]);
  try {
    for (const [api, own] of [[1, 0.3], [0.5, 0.15], [1.7, 1]]) {
      const { body: theirs } = await mapped.post("/chat/completions", chat("Tell me a story.", { temperature: api, seed: 5, max_tokens: 40 }));
      const ours = await ask("Tell me a story.", { temperature: own, seed: 5, max_tokens: 40 });
      assert.equal(theirs.choices[0].message.content, ours.choices[0].message.content, `${api}`);
    }
  } finally {
    await mapped.stop();
  }
});
