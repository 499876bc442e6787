// The `openai` package against the server, as its documentation shows it.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { assertIs } from "./support/openapi.mjs";
import { Server, eventually, model } from "./support/server.mjs";

const server = await Server.forFile(["--context", "2048"]);
const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0, timeout: 20_000 });
const story = [{ role: "user", content: "Tell me a story." }];
const ask = (fields) => client.chat.completions.create({ model, messages: story, temperature: 0, max_tokens: 24, ...fields });

async function collect(stream, schema) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(assertIs(schema, chunk));
  return chunks;
}

test("a chat", async () => {
  const answer = assertIs("ChatCompletion", await ask());
  const [choice] = answer.choices;
  assert.equal(choice.message.role, "assistant");
  assert.ok(choice.message.content.length > 20);
  assert.equal(choice.finish_reason, "length");
  assert.equal(answer.usage.completion_tokens, 24);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + 24);
  assert.ok(Math.abs(answer.created - Date.now() / 1000) < 60);
});

test("an answer that ends by itself", async () => {
  const answer = await ask({ max_tokens: undefined });
  assert.equal(answer.choices[0].finish_reason, "stop");
  assert.ok(answer.usage.completion_tokens > 24);
  assert.ok(!answer.choices[0].message.content.includes("<｜"));
});

test("a stream says what the whole answer says, and its usage", async () => {
  const whole = await ask();
  const chunks = await collect(await ask({ stream: true, stream_options: { include_usage: true } }), "ChatCompletionChunk");
  assert.equal(chunks[0].choices[0].delta.role, "assistant");
  assert.ok(chunks.slice(1).every((chunk) => chunk.choices[0]?.delta.role === undefined));
  assert.equal(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""), whole.choices[0].message.content);
  assert.deepEqual(chunks.map((chunk) => chunk.choices[0]?.finish_reason).filter(Boolean), ["length"]);
  assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);
  const last = chunks.at(-1);
  assert.deepEqual(last.choices, []);
  assert.equal(last.usage.completion_tokens, 24);
  assert.ok(chunks.slice(0, -1).every((chunk) => chunk.usage === null));
  const without = await collect(await ask({ stream: true }), "ChatCompletionChunk");
  assert.ok(without.every((chunk) => chunk.usage === undefined && chunk.choices.length === 1));
});

test("the client's own stream helper", async () => {
  const runner = client.chat.completions.stream({ model, messages: story, temperature: 0, max_tokens: 24 });
  let text = "";
  runner.on("content", (delta) => (text += delta));
  const final = await runner.finalChatCompletion();
  assert.equal(final.choices[0].message.content, text);
  assert.equal(text, (await ask()).choices[0].message.content);
});

const weather = (strict) => ({
  type: "function",
  function: {
    name: "get_weather",
    description: "The weather of a city.",
    strict,
    parameters: {
      type: "object",
      properties: { city: { enum: ["Paris", "Rome"] }, days: { type: "integer", minimum: 1, maximum: 7 } },
      required: ["city", "days"],
      additionalProperties: false,
    },
  },
});
const time = {
  type: "function",
  function: { name: "get_time", strict: true, parameters: { type: "object", properties: { zone: { enum: ["UTC", "CET"] } }, required: ["zone"], additionalProperties: false } },
};

function assertWeather(call) {
  assert.equal(call.function.name, "get_weather");
  const { city, days, ...rest } = JSON.parse(call.function.arguments);
  assert.ok(["Paris", "Rome"].includes(city) && days >= 1 && days <= 7 && Number.isInteger(days));
  assert.deepEqual(rest, {});
}

test("tools: auto answers or calls", async () => {
  const answer = assertIs("ChatCompletion", await ask({ tools: [weather(true), time] }));
  const [choice] = answer.choices;
  // This model was not trained to call tools; whatever it does has to be in order.
  if (choice.finish_reason === "tool_calls") choice.message.tool_calls.forEach((call) => JSON.parse(call.function.arguments));
  else assert.ok(choice.message.content.length > 0);
});

test("tools: required calls one, in the schema of a strict tool", async () => {
  const answer = assertIs("ChatCompletion", await ask({ tools: [weather(true), time], tool_choice: "required", max_tokens: 400 }));
  const [choice] = answer.choices;
  assert.equal(choice.finish_reason, "tool_calls");
  assert.equal(choice.message.content, null);
  for (const call of choice.message.tool_calls) {
    if (call.function.name === "get_weather") assertWeather(call);
    else assert.ok(["UTC", "CET"].includes(JSON.parse(call.function.arguments).zone));
  }
});

test("tools: a named one, streamed", async () => {
  const fields = { tools: [weather(true), time], tool_choice: { type: "function", function: { name: "get_weather" } }, parallel_tool_calls: false, max_tokens: 400 };
  const whole = assertIs("ChatCompletion", await ask(fields));
  assert.equal(whole.choices[0].message.tool_calls.length, 1);
  assertWeather(whole.choices[0].message.tool_calls[0]);

  const chunks = await collect(await ask({ ...fields, stream: true }), "ChatCompletionChunk");
  const pieces = chunks.flatMap((chunk) => chunk.choices[0].delta.tool_calls ?? []);
  assert.equal(pieces[0].function.name, "get_weather");
  assert.match(pieces[0].id, /^call_/);
  assert.ok(pieces.slice(1).every((piece) => piece.index === 0 && piece.id === undefined && piece.function.name === undefined));
  assert.equal(pieces.map((piece) => piece.function.arguments).join(""), whole.choices[0].message.tool_calls[0].function.arguments);
  assert.equal(chunks.at(-1).choices[0].finish_reason, "tool_calls");
});

test("tools: parallel_tool_calls false gives at most one, whatever the seed", async () => {
  for (let seed = 0; seed < 6; ++seed) {
    const answer = await ask({ tools: [weather(true), time], tool_choice: "required", parallel_tool_calls: false, temperature: 1.5, seed, max_tokens: 400 });
    assert.equal(answer.choices[0].message.tool_calls.length, 1);
    assert.equal(answer.choices[0].finish_reason, "tool_calls");
  }
});

test("tools: the output goes back into the conversation", async () => {
  const fields = { tools: [weather(true)], tool_choice: "required", parallel_tool_calls: false, max_tokens: 400 };
  const { message } = (await ask(fields)).choices[0];
  const [call] = message.tool_calls;
  const messages = [...story, message, { role: "tool", tool_call_id: call.id, content: "sunny" }];
  const answer = assertIs("ChatCompletion", await ask({ messages, tools: [weather(true)] }));
  assert.ok(answer.usage.prompt_tokens > 40);
});

test("tools: the client's runTools and zodFunction", async () => {
  const calls = [];
  const runner = client.chat.completions.runTools({
    model,
    messages: story,
    temperature: 0,
    max_tokens: 300,
    tool_choice: { type: "function", function: { name: "add" } },
    parallel_tool_calls: false,
    tools: [
      zodFunction({
        name: "add",
        parameters: z.object({ a: z.number().int().min(0).max(9), b: z.number().int().min(0).max(9) }),
        function: ({ a, b }) => {
          calls.push([a, b]);
          return String(a + b);
        },
      }),
    ],
  }, { maxChatCompletions: 1 });
  await runner.done();
  assert.equal(calls.length, 1);
  assert.ok(calls[0].every((digit) => digit >= 0 && digit <= 9));
});

test("tools: a loose one gets a JSON object", async () => {
  // Its arguments may be of any length, so that only the beginning is certain.
  const tool = { type: "function", function: { name: "note", parameters: { type: "object" } } };
  for (const seed of [1, 2, 3]) {
    const answer = await ask({ tools: [tool], tool_choice: "required", parallel_tool_calls: false, temperature: 1, seed, max_tokens: 120 });
    const [choice] = answer.choices;
    const text = choice.message.tool_calls[0].function.arguments;
    assert.match(text, /^\{/);
    if (choice.finish_reason === "tool_calls") assert.equal(typeof JSON.parse(text), "object");
    else assert.equal(choice.finish_reason, "length");
  }
});

test("response_format json_object", async () => {
  let whole = 0;
  for (const seed of [1, 2, 3, 4]) {
    const answer = await ask({ response_format: { type: "json_object" }, temperature: 1, seed, max_tokens: 150 });
    const { content } = answer.choices[0].message;
    assert.match(content, /^\n{0,2}\{/);
    if (answer.choices[0].finish_reason !== "stop") continue;
    ++whole;
    assert.equal(Object.prototype.toString.call(JSON.parse(content)), "[object Object]");
  }
  console.log(`${whole} of 4 objects were whole`);
});

test("response_format json_schema, parsed by the client", async () => {
  const Animal = z.object({
    name: z.string().max(12),
    legs: z.number().int().min(0).max(8),
    kind: z.enum(["bird", "fish", "cat"]),
    tags: z.array(z.enum(["wild", "tame"])).max(2),
  });
  for (const seed of [1, 2, 3]) {
    const answer = await client.chat.completions.parse({
      model,
      messages: story,
      temperature: 1,
      seed,
      max_tokens: 400,
      response_format: zodResponseFormat(Animal, "animal"),
    });
    assert.equal(answer.choices[0].finish_reason, "stop");
    Animal.parse(answer.choices[0].message.parsed);
  }
});

test("Fathom's own regex and grammar", async () => {
  const regex = await ask({ regex: "(red|blue), [0-9]{3}" });
  assert.match(regex.choices[0].message.content, /^(red|blue), [0-9]{3}$/);
  assert.equal(regex.choices[0].finish_reason, "stop");
  const grammar = await ask({ grammar: 'root ::= ("a" | "b"){4} "."' });
  assert.match(grammar.choices[0].message.content, /^[ab]{4}\.$/);
});

test("schemas and grammars that are not understood are refused by name", async () => {
  const cases = [
    [{ response_format: { type: "json_schema", json_schema: { name: "x", schema: { type: "object", properties: { a: { not: {} } } } } } }, "response_format", /not/],
    [{ regex: "(?=a)b" }, "regex", /lookahead|\(\?=/],
    [{ regex: "(" }, "regex", /./],
    [{ grammar: "root ::= missing" }, "grammar", /missing/],
    [{ grammar: "root ::= root" }, "grammar", /root/],
    [{ tools: [{ ...time, function: { ...time.function, parameters: { type: "object", properties: { a: {} } } } }] }, "tools", /get_time/],
    [{ tools: [time, time] }, "tools", /get_time/],
  ];
  for (const [fields, param, message] of cases) {
    await assert.rejects(ask(fields), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError, String(error));
      assert.equal(error.param, param);
      assert.match(error.message, message);
      return true;
    });
  }
});

test("completions", async () => {
  const answer = assertIs("Completion", await client.completions.create({ model, prompt: "One day, Anna", temperature: 0, max_tokens: 12 }));
  assert.ok(answer.choices[0].text.length > 10);
  const echo = await client.completions.create({ model, prompt: "One day, Anna", temperature: 0, max_tokens: 12, echo: true });
  assert.equal(echo.choices[0].text, `One day, Anna${answer.choices[0].text}`);
  const short = await client.completions.create({ model, prompt: "One day, Anna", temperature: 0 });
  assert.equal(short.usage.completion_tokens, 16);
  const chunks = await collect(
    await client.completions.create({ model, prompt: "One day, Anna", temperature: 0, max_tokens: 12, echo: true, stream: true, stream_options: { include_usage: true } }),
    "CompletionChunk",
  );
  assert.equal(chunks.map((chunk) => chunk.choices[0]?.text ?? "").join(""), echo.choices[0].text);
  assert.equal(chunks.at(-1).usage.completion_tokens, 12);
});

test("completions of several prompts, as texts and as ids", async () => {
  const prompts = ["One day, Anna", "The sum of 2 and 3", "A list:"];
  const together = assertIs("Completion", await client.completions.create({ model, prompt: prompts, temperature: 0, max_tokens: 8, n: 2 }));
  assert.deepEqual(together.choices.map(({ index }) => index), [0, 1, 2, 3, 4, 5]);
  let tokens = 0;
  for (const [index, prompt] of prompts.entries()) {
    const alone = await client.completions.create({ model, prompt, temperature: 0, max_tokens: 8 });
    tokens += alone.usage.prompt_tokens;
    assert.equal(together.choices[2 * index].text, alone.choices[0].text);
    assert.equal(together.choices[2 * index + 1].text, alone.choices[0].text);
  }
  assert.equal(together.usage.prompt_tokens, tokens);
  const { body } = await server.post("/tokenize", { prompt: prompts[0] });
  const ids = await client.completions.create({ model, prompt: body.tokens, temperature: 0, max_tokens: 8 });
  assert.equal(ids.choices[0].text, together.choices[0].text);
  const mixed = await client.completions.create({ model, prompt: [body.tokens, prompts[1]], temperature: 0, max_tokens: 8 });
  assert.deepEqual(mixed.choices.map(({ text }) => text), [together.choices[0].text, together.choices[2].text]);
});

test("logprobs of a chat", async () => {
  const answer = assertIs("ChatCompletion", await ask({ logprobs: true, top_logprobs: 3 }));
  const { content } = answer.choices[0].logprobs;
  assert.equal(content.length, 24);
  assert.equal(Buffer.from(content.flatMap(({ bytes }) => bytes)).toString(), answer.choices[0].message.content);
  for (const { logprob, top_logprobs, token } of content) {
    assert.equal(top_logprobs.length, 3);
    assert.ok(top_logprobs[0].logprob >= top_logprobs[1].logprob);
    // Greedy: the token is the likeliest one.
    assert.equal(token, top_logprobs[0].token);
    assert.equal(logprob, top_logprobs[0].logprob);
    assert.ok(top_logprobs.reduce((sum, top) => sum + Math.exp(top.logprob), 0) <= 1.0001);
  }
  const chunks = await collect(await ask({ logprobs: true, top_logprobs: 3, stream: true }), "ChatCompletionChunk");
  assert.deepEqual(chunks.flatMap((chunk) => chunk.choices[0].logprobs.content), content);
  const plain = await ask({ logprobs: true });
  assert.ok(plain.choices[0].logprobs.content.every(({ top_logprobs }) => top_logprobs.length === 0));
  assert.equal((await ask()).choices[0].logprobs, null);
});

test("logprobs of a completion", async () => {
  const fields = { model, prompt: "One day, Anna", temperature: 0, max_tokens: 12, logprobs: 2 };
  const answer = assertIs("Completion", await client.completions.create(fields));
  const { tokens, token_logprobs, top_logprobs, text_offset } = answer.choices[0].logprobs;
  assert.equal(tokens.join(""), answer.choices[0].text);
  assert.equal(token_logprobs.length, 12);
  assert.deepEqual(text_offset, tokens.map((_, at) => Buffer.byteLength(tokens.slice(0, at).join(""))));
  top_logprobs.forEach((top, at) => assert.equal(top[tokens[at]], token_logprobs[at]));
  const chunks = await collect(await client.completions.create({ ...fields, stream: true }), "CompletionChunk");
  assert.deepEqual(chunks.flatMap((chunk) => chunk.choices[0].logprobs.tokens), tokens);
  assert.deepEqual(chunks.flatMap((chunk) => chunk.choices[0].logprobs.text_offset), text_offset);
});

test("the same seed gives the same answer, another one another", async () => {
  const text = async (fields) => (await ask({ temperature: 1, ...fields })).choices.map(({ message }) => message.content);
  const [first] = await text({ seed: 7 });
  assert.deepEqual(await text({ seed: 7 }), [first]);
  assert.notDeepEqual(await text({ seed: 8 }), [first]);
  const unseeded = [await text(), await text(), await text()];
  assert.ok(new Set(unseeded.map(String)).size > 1);
  // The i-th of several answers has the seed + i.
  const three = await text({ seed: 7, n: 3 });
  assert.deepEqual(three, [first, ...(await text({ seed: 8 })), ...(await text({ seed: 9 }))]);
});

test("n answers, streamed", async () => {
  const whole = await ask({ temperature: 1, seed: 3, n: 4 });
  assert.equal(whole.usage.completion_tokens, 96);
  const chunks = await collect(await ask({ temperature: 1, seed: 3, n: 4, stream: true }), "ChatCompletionChunk");
  for (const { index, message } of whole.choices) {
    const mine = chunks.filter((chunk) => chunk.choices[0].index === index);
    assert.equal(mine.map((chunk) => chunk.choices[0].delta.content ?? "").join(""), message.content);
    assert.equal(mine[0].choices[0].delta.role, "assistant");
    assert.equal(mine.at(-1).choices[0].finish_reason, "length");
  }
});

test("stop strings", async () => {
  const { content } = (await ask()).choices[0].message;
  const stop = content.slice(10, 14);
  const cut = content.slice(0, content.indexOf(stop));
  const whole = await ask({ stop });
  assert.equal(whole.choices[0].message.content, cut);
  assert.equal(whole.choices[0].finish_reason, "stop");
  const chunks = await collect(await ask({ stop: ["no such text", stop], stream: true }), "ChatCompletionChunk");
  assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join(""), cut);
});

test("sampling options do what they say", async () => {
  const text = async (fields) => (await ask(fields)).choices[0].message.content;
  const greedy = await text();
  assert.equal(await text({ temperature: 1.9, top_k: 1 }), greedy);
  assert.equal(await text({ temperature: 1.9, top_p: 1e-9 }), greedy);
  assert.equal(await text({ temperature: 1.9, min_p: 1 }), greedy);
  const { body } = await server.post("/tokenize", { prompt: greedy.slice(0, 12), add_special_tokens: false });
  const biased = await text({ logit_bias: { [body.tokens[0]]: -100 } });
  assert.notEqual(biased.slice(0, 4), greedy.slice(0, 4));
  assert.notEqual(await text({ repetition_penalty: 5, max_tokens: 64 }), await text({ max_tokens: 64 }));
  const forever = await ask({ ignore_eos: true, max_tokens: 400 });
  assert.equal(forever.usage.completion_tokens, 400);
});

test("models", async () => {
  const list = [];
  for await (const entry of client.models.list()) list.push(assertIs("Model", entry));
  assert.deepEqual(list.map(({ id }) => id), [model]);
  assertIs("Model", await client.models.retrieve(model));
  await assert.rejects(client.models.retrieve("gpt-4"), OpenAI.NotFoundError);
});

test("errors have the client's classes", async () => {
  const cases = [
    [() => ask({ model: "gpt-4" }), OpenAI.NotFoundError, "model", "model_not_found"],
    [() => ask({ temperature: 3 }), OpenAI.UnprocessableEntityError, "temperature", "invalid_request_error"],
    [() => ask({ temperature: "hot" }), OpenAI.BadRequestError, "temperature", "invalid_request_error"],
    [() => ask({ functions: [] }), OpenAI.BadRequestError, "functions", "invalid_request_error"],
    [() => ask({ messages: [] }), OpenAI.BadRequestError, "messages", "invalid_request_error"],
    [() => ask({ messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "x" } }] }] }), OpenAI.BadRequestError, "messages[0].content[0].type", "invalid_request_error"],
    [() => client.embeddings.create({ model, input: "x" }), OpenAI.BadRequestError, null, "unsupported"],
  ];
  for (const [call, type, param, code] of cases) {
    await assert.rejects(call(), (error) => {
      assert.ok(error instanceof type, `${error.constructor.name}: ${error.message}`);
      assert.equal(error.param, param);
      assert.equal(error.code, code);
      assert.ok(error.message.length > 10);
      return true;
    });
  }
});

test("a stream that is left in its middle ends on the server", async () => {
  const before = await server.status();
  for (const leave of [(stream) => stream.controller.abort(), () => {}]) {
    const stream = await ask({ stream: true, ignore_eos: true, max_tokens: 1900 });
    let chunks = 0;
    for await (const chunk of stream) {
      assertIs("ChatCompletionChunk", chunk);
      if (++chunks === 5) {
        leave(stream);
        break;
      }
    }
    await server.idle(1);
  }
  const after = await server.status();
  assert.equal(after.requests.cancelled - before.requests.cancelled, 2);
  assert.ok(after.tokens.generated - before.tokens.generated < 2 * 1900);
  await server.logged((line) => line.finish_reason === "gone");
});

test("a whole answer that is not waited for ends on the server", async () => {
  const controller = new AbortController();
  const call = client.chat.completions.create(
    { model, messages: story, ignore_eos: true, max_tokens: 1900 },
    { signal: controller.signal },
  );
  await eventually(async () => (await server.status()).requests.running > 0, "a request that runs");
  controller.abort();
  await assert.rejects(call, OpenAI.APIUserAbortError);
  await server.idle(1);
});

test("the client's timeout", async () => {
  const call = client.chat.completions.create({ model, messages: story, ignore_eos: true, max_tokens: 1900 }, { timeout: 150 });
  await assert.rejects(call, OpenAI.APIConnectionTimeoutError);
  await server.idle(1);
});
