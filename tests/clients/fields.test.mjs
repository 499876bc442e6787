// Every field of every request, taken from the API's description: what the description forbids is refused by name, and
// what it allows is taken.
import assert from "node:assert/strict";
import { test } from "node:test";
import Ajv2020 from "ajv/dist/2020.js";
import { openapi, resolved, assertError, assertIs } from "./support/openapi.mjs";
import { Server, model } from "./support/server.mjs";

const context = 512;
const server = await Server.forFile(["--context", String(context), "--name", model, "--name", "deepseek-reasoner"]);

// The description of this server: limits that depend on its options are set.
const limits = { "the context, or --most-tokens": context, "--most-answers, 16 without it": 16 };
const document = JSON.parse(JSON.stringify(openapi), (_, node) => {
  const limit = node?.["x-maximum"];
  if (limit === undefined) return node;
  assert.ok(limits[limit], limit);
  return { ...node, maximum: limits[limit] };
});
const ajv = new Ajv2020({ strict: false });
ajv.addSchema({ $id: "https://fathom/api", ...document });
const schema = (name) => ajv.compile({ $ref: `https://fathom/api#/components/schemas/${name}` });

// Bodies that are right, and together have every field.
const one = { model, max_tokens: 1, temperature: 0 };
const user = { role: "user", content: "Hi" };
const parameters = {
  type: "object",
  properties: { city: { type: "string", maxLength: 8 } },
  required: ["city"],
  additionalProperties: false,
};
const fields = {
  ...one,
  top_p: 0.5,
  top_k: 5,
  min_p: 0.1,
  repetition_penalty: 1.1,
  presence_penalty: 0.5,
  frequency_penalty: 0.5,
  logit_bias: { 100: 1 },
  seed: 1,
  n: 1,
  stop: ["\n\n"],
  user: "u",
  user_id: "u",
  safety_identifier: "u",
  prompt_cache_key: "k",
  metadata: { any: "thing" },
  store: false,
  service_tier: "auto",
};
const streamed = { stream: true, stream_options: { include_usage: true, include_obfuscation: false } };
const jsonSchema = {
  type: "json_schema",
  json_schema: { name: "form", description: "d", strict: true, schema: parameters },
};
const call = { id: "call_1", index: 0, type: "function", function: { name: "weather", arguments: "{}" } };
const tool = { type: "function", function: { name: "weather", description: "d", parameters, strict: true } };
const bodies = {
  ChatCompletionRequest: [
    { ...fields, messages: [user] },
    { ...one, messages: [user], ...streamed },
    { ...one, messages: [user], ignore_eos: true },
    { model, messages: [user], max_completion_tokens: 1, logprobs: true, top_logprobs: 2, modalities: ["text"] },
    { ...one, messages: [user], thinking: { type: "enabled" }, reasoning_effort: "high", chat_template_kwargs: { thinking: true, enable_thinking: true } },
    { ...one, messages: [user], response_format: jsonSchema },
    { ...one, messages: [user], response_format: { type: "json_object" } },
    { ...one, messages: [user], regex: "[a-z]+" },
    { ...one, messages: [user], grammar: 'root ::= "a"' },
    { ...one, messages: [user], tools: [tool], tool_choice: "auto", parallel_tool_calls: false },
    { ...one, messages: [user], tools: [tool], tool_choice: { type: "function", function: { name: "weather" } } },
    {
      ...one,
      messages: [
        { role: "system", content: "Be brief.", name: "s" },
        { role: "user", content: [{ type: "text", text: "Hi" }], name: "u" },
        { role: "assistant", content: null, name: "a", tool_calls: [call], refusal: "" },
        { role: "tool", content: "sunny", tool_call_id: "call_1", name: "t" },
        { role: "assistant", content: "It is", prefix: true },
      ],
    },
    { ...one, messages: [user, { role: "assistant", content: "", prefix: true, reasoning_content: "Well," }], thinking: { type: "enabled" } },
  ],
  CompletionRequest: [
    { ...fields, prompt: "Hi" },
    { ...one, prompt: "Hi", ...streamed },
    { ...one, prompt: "Hi", ignore_eos: true, suffix: "!", logprobs: 2 },
    { ...one, prompt: "Hi", echo: true, n: 2, best_of: 2 },
    { ...one, prompt: [5, 6] },
    { ...one, prompt: ["a", [7]] },
    { ...one, prompt: "Hi", response_format: jsonSchema },
    { ...one, prompt: "Hi", regex: "[a-z]+" },
    { ...one, prompt: "Hi", grammar: 'root ::= "a"' },
  ],
  TokenizeRequest: [
    { model, prompt: "Hi", add_special_tokens: false },
    { model, messages: [user], thinking: true },
  ],
  DetokenizeRequest: [{ model, tokens: [1, 2] }],
};
bodies.BetaCompletionRequest = bodies.CompletionRequest.slice(2, 5);
const routes = {
  ChatCompletionRequest: "/v1/chat/completions",
  CompletionRequest: "/v1/completions",
  BetaCompletionRequest: "/beta/completions",
  TokenizeRequest: "/tokenize",
  DetokenizeRequest: "/detokenize",
};

// What may stand in every place.
const values = [
  null, true, -1e9, -2.5, -1, 0, 0.5, 1, 2.5, 17, 21, 101, context + 1, 3000, 2 ** 31, "", "text", "required",
  "x".repeat(65), [], ["text"], [""], [1], Array(17).fill("s"), {}, { type: "no such" },
];
// Where the chat has been through all of them.
const fewValues = [null, true, -1e9, 1.5, "text", [[]], {}];

// What the description allows and the server refuses for a reason that a schema does not say.
const otherwise = [
  [/^model$/, /is not served here/],
  [/^(regex|grammar|response_format)/, /: (line|#|the |The )|only one of them/],
  [/^top_logprobs|^logprobs/, /needs "logprobs": true/],
  [/^stream_options|^stream$/, /only a streamed answer/],
  [/^n$|^best_of/, /can only be equal to n/],
  [/^tools|^tool_choice/, /is not among the tools|parameters/],
  [/^messages/, /thoughts of earlier answers|Exactly one of|is missing/],
  [/^prompt/, /at most 16 answers|Exactly one of|a suffix needs/],
  [/^(tokens|prompt)/, /expected token ids/],
];

function* places(value, path = []) {
  if (path.length > 0) yield path;
  // The inside of a JSON Schema is no matter of the API's description.
  if (["schema", "parameters"].includes(path.at(-1))) return;
  if (value !== null && typeof value === "object") {
    for (const key of Object.keys(value)) yield* places(value[key], [...path, Array.isArray(value) ? Number(key) : key]);
  }
}

function withChange(body, path, change) {
  const copy = structuredClone(body);
  const last = path.at(-1);
  const parent = path.slice(0, -1).reduce((at, step) => at[step], copy);
  change(parent, last);
  return copy;
}

/** The path as error.param spells it. */
function spelled(path) {
  return path.map((step, at) => (typeof step === "number" ? `[${step}]` : at > 0 ? `.${step}` : step)).join("");
}

/** Every body with one thing changed: {path, body}. A place that was changed in an earlier body is left as it is. */
function* changes(body, shared, changed) {
  for (const path of places(body)) {
    // The same place in messages of other roles is another one.
    const place = spelled(path) + (path[0] === "messages" ? JSON.stringify(body.messages[path[1]]?.role) : "");
    if (changed.has(place)) continue;
    changed.add(place);
    for (const value of shared.has(path[0]) ? fewValues : values) {
      yield { path, body: withChange(body, path, (parent, key) => (parent[key] = value)) };
    }
    if (typeof path.at(-1) === "string") yield { path, body: withChange(body, path, (parent, key) => delete parent[key]) };
  }
  const objects = [[], ...places(body)].filter((path) => {
    const at = path.reduce((node, step) => node[step], body);
    return at !== null && typeof at === "object" && !Array.isArray(at);
  });
  for (const path of objects) {
    const unknown = [...path, "no_such_field"];
    yield { path: unknown, body: withChange(body, unknown, (parent, key) => (parent[key] = 1)) };
    yield { path: unknown, body: withChange(body, unknown, (parent, key) => (parent[key] = null)) };
  }
}

async function ask(route, body) {
  const reply = await server.fetch(route, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  const text = await reply.text();
  const streams = reply.headers.get("content-type").startsWith("text/event-stream");
  return { status: reply.status, body: streams ? text : JSON.parse(text) };
}

/** Runs `work` over all items, several at a time. */
async function each(items, work) {
  const rest = items[Symbol.iterator]();
  const run = async () => {
    for (const item of rest) await work(item);
  };
  await Promise.all(Array.from({ length: 8 }, run));
}

for (const [name, route] of Object.entries(routes)) {
  const shared = new Set(name === "ChatCompletionRequest" ? [] : Object.keys(openapi.components.schemas.AnswerFields.properties));
  test(`${route}: what ${name} forbids is refused by name, what it allows is taken`, async (t) => {
    const validate = schema(name);
    const seen = new Set();
    const changed = new Set();
    let refused = 0;
    let taken = 0;
    for (const body of bodies[name]) {
      assert.ok(validate(body), `${JSON.stringify(body)}: ${JSON.stringify(validate.errors)}`);
      for (const path of places(body)) path.filter((step) => typeof step === "string").forEach((step) => seen.add(step));
      await each(changes(body, shared, changed), async ({ path, body: other }) => {
        const allowed = validate(other);
        const reply = await ask(route, other);
        const what = `${spelled(path)} in ${JSON.stringify(other).slice(0, 400)} -> ${JSON.stringify(reply.body).slice(0, 300)}`;
        if (reply.status === 200) {
          assert.ok(allowed, `taken, but the description forbids it: ${what}`);
          ++taken;
          return;
        }
        assertIs("Error", reply.body);
        const { param, message } = reply.body.error;
        if (allowed) {
          const known = otherwise.some(([place, reason]) => place.test(spelled(path)) && reason.test(message));
          assert.ok(known, `refused, but the description allows it: ${what}`);
        }
        ++refused;
        assert.ok([400, 404, 422].includes(reply.status), what);
        if (path.at(-1) === "no_such_field" && !allowed && path[0] !== "logit_bias") {
          assert.equal(reply.status, 400, what);
          assert.equal(param, spelled(path), what);
        }
        assert.notEqual(param, null, what);
        if (allowed) return;
        // It is the field, one inside it or around it; or, of a union, one beside it.
        const [place, around] = [spelled(path), spelled(path.slice(0, -1))];
        const named = param.startsWith(place) || place.startsWith(param) || (around !== "" && param.startsWith(around));
        assert.ok(named, `param ${param}: ${what}`);
      });
    }
    assert.ok(refused > 50 && taken > 10, `${refused} refused, ${taken} taken`);
    t.diagnostic(`${refused} refused, ${taken} taken`);
    // Nothing in the description is left out here.
    const described = new Set();
    const collect = (node, at = new Set()) => {
      node = resolved(node);
      if (at.has(node)) return;
      at.add(node);
      for (const [property, inner] of Object.entries(node.properties ?? {})) {
        described.add(property);
        collect(inner, at);
      }
      for (const part of [...(node.allOf ?? []), ...(node.anyOf ?? []), ...(node.oneOf ?? [])]) collect(part, at);
      if (node.items) collect(node.items, at);
    };
    collect(openapi.components.schemas[name]);
    if (name === "TokenizeRequest") return;  // messages: as those of a chat
    const missing = [...described].filter((property) => !seen.has(property) && !shared.size);
    assert.deepEqual(missing, []);
  });
}

test("the borders of every range are inside it", async () => {
  const numbers = [];
  const collect = (node) => {
    for (const part of node.allOf ?? []) collect(resolved(part, document));
    for (const [property, inner] of Object.entries(node.properties ?? {})) {
      if (inner.minimum !== undefined || inner.exclusiveMinimum !== undefined) numbers.push([property, inner]);
    }
  };
  collect(document.components.schemas.ChatCompletionRequest);
  assert.ok(numbers.length > 10);
  const integer = (inner) => inner.type[0] === "integer";
  for (const [property, inner] of numbers) {
    const body = { model, messages: [user], max_completion_tokens: 1, logprobs: true };
    const least = inner.minimum ?? inner.exclusiveMinimum;
    const most = inner.maximum;
    if (property === "max_tokens" || property === "max_completion_tokens") delete body.max_completion_tokens;
    const send = (number) => ask("/v1/chat/completions", { ...body, [property]: number });
    // 64-bit borders are no numbers that JavaScript can write.
    if (property === "seed") continue;
    const inside = [inner.exclusiveMinimum !== undefined ? least + 1e-6 : least, ...(property.startsWith("max_") ? [] : [most])];
    const outside = [inner.exclusiveMinimum ?? (integer(inner) ? least - 1 : least - 1e-6), integer(inner) ? most + 1 : most + 1e-6];
    for (const number of inside) assert.equal((await send(number)).status, 200, `${property}: ${number}`);
    for (const number of outside) assertError(await send(number), 422, { param: property });
  }
});

test("64-bit seeds", async () => {
  const send = async (seed) => {
    const text = `{"model":"${model}","messages":[{"role":"user","content":"Hi"}],"max_tokens":1,"seed":${seed}}`;
    return server.post("/v1/chat/completions", text);
  };
  for (const seed of ["9223372036854775807", "-9223372036854775808", "16.0"]) assert.equal((await send(seed)).status, 200, seed);
  for (const seed of ["9223372036854775808", "18446744073709551615"]) assertError(await send(seed), 422, { param: "seed" });
  for (const seed of ["-9223372036854775809", "1e400", "0.5"]) {
    const reply = await send(seed);
    assert.ok([400, 422].includes(reply.status), seed);
    assertIs("Error", reply.body);
  }
});

test("what is no JSON object is refused", async () => {
  const deep = "[".repeat(100_000) + "]".repeat(100_000);
  const bodies = ["", "{", "null", "[]", '"text"', "1", "{}{}", '{"model":1,"model":2}', deep];
  for (const body of bodies) {
    for (const route of Object.values(routes)) {
      const reply = await server.post(route, body);
      assert.equal(reply.status, 400, `${route} ${body.slice(0, 40)}: ${JSON.stringify(reply.body)}`);
      assertIs("Error", reply.body);
      assert.equal(reply.body.error.param, null, `${route} ${body.slice(0, 40)}`);
    }
  }
});
