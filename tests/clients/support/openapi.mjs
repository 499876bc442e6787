// The server's own description of its API, and what can be checked against it.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import assert from "node:assert/strict";
import Ajv2020 from "ajv/dist/2020.js";
import addFormats from "ajv-formats";
import { root } from "./server.mjs";

export const openapi = JSON.parse(readFileSync(join(root, "src/serve/openapi.json"), "utf8"));

/** Follows `$ref`s inside the description, of schemas and of paths. */
export function resolved(node, document = openapi) {
  while (node.$ref) {
    const steps = decodeURIComponent(node.$ref.slice(2)).split("/");
    node = steps.reduce((at, step) => at[step.replaceAll("~1", "/").replaceAll("~0", "~")], document);
  }
  return node;
}

/** Responses as they are now: a field that is not described is an error, though clients must take new ones. */
function closed(node) {
  if (Array.isArray(node)) return node.map(closed);
  if (node === null || typeof node !== "object") return node;
  const copy = Object.fromEntries(Object.entries(node).map(([key, value]) => [key, closed(value)]));
  if (copy.properties && copy.additionalProperties === undefined && copy.unevaluatedProperties === undefined) {
    copy.unevaluatedProperties = false;
  }
  return copy;
}

function compiler(document) {
  const ajv = new Ajv2020({ strict: false, allErrors: true });
  addFormats(ajv);
  ajv.addSchema({ $id: "https://fathom/openapi.json", ...document });
  const compiled = new Map();
  return (name) => {
    if (!compiled.has(name)) {
      compiled.set(name, ajv.compile({ $ref: `https://fathom/openapi.json#/components/schemas/${name}` }));
    }
    return compiled.get(name);
  };
}

// Parts that others extend with allOf stay open; what extends them is closed.
const open = new Set(["Logprob"]);
const closedDocument = structuredClone(openapi);
for (const [name, schema] of Object.entries(openapi.components.schemas)) {
  if (!open.has(name)) closedDocument.components.schemas[name] = closed(schema);
}
const response = compiler(closedDocument);
const request = compiler(openapi);

/** `value` is as the response schema `name` says, without any field beside. */
export function assertIs(name, value) {
  const validate = response(name);
  assert.ok(validate(value), `${name}: ${JSON.stringify(validate.errors?.slice(0, 3))} in ${JSON.stringify(value).slice(0, 600)}`);
  return value;
}

/** Whether a request is one by the schema `name`. */
export function allows(name, value) {
  return request(name)(value);
}

/** An error body whose status and param (if given) are these. */
export function assertError(reply, status, { param, code, message } = {}) {
  assert.equal(reply.status, status, JSON.stringify(reply.body));
  assertIs("Error", reply.body);
  if (param !== undefined) assert.equal(reply.body.error.param, param, JSON.stringify(reply.body));
  if (code !== undefined) assert.equal(reply.body.error.code, code);
  if (message !== undefined) assert.match(reply.body.error.message, message);
}
