// Starts a real server and stops it again.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { after } from "node:test";
import { fileURLToPath } from "node:url";

export const root = resolve(dirname(fileURLToPath(import.meta.url)), "../../..");
export const binary = process.env.FATHOM_BINARY ?? join(root, "build/fathom");
export const model = "fathom-tiny";
export const modelDirectory = join(root, "models", model);

/** A directory that is removed with the test file's process. */
export function temporaryDirectory() {
  const directory = mkdtempSync(join(tmpdir(), "fathom-clients-"));
  process.on("exit", () => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** Runs `fathom` to its end: {code, signal, stdout, stderr}. */
export function runFathom(args, { env = {}, seconds = 20 } = {}) {
  return new Promise((settle, reject) => {
    const child = spawn(binary, args, { env: environment(env), timeout: seconds * 1000, killSignal: "SIGKILL" });
    const result = { stdout: "", stderr: "" };
    child.stdout.on("data", (data) => (result.stdout += data));
    child.stderr.on("data", (data) => (result.stderr += data));
    child.on("error", reject);
    child.on("close", (code, signal) => settle({ ...result, code, signal }));
  });
}

/** The environment of a server: a key of whoever runs the tests must not get into it. */
function environment(env) {
  const { FATHOM_API_KEY: _, ...rest } = process.env;
  return { ...rest, ...env };
}

/** A running `fathom serve`. */
export class Server {
  stderr = "";
  /** {code, signal} once it has ended. */
  ended = null;

  /** Starts a server on a free port and waits until it says where it is. */
  static async start(args = [], { env = {}, directory = modelDirectory, freePort = true } = {}) {
    const server = new Server();
    server.process = spawn(
      binary,
      // One thread: beside other tests, two would wait for each other in every layer.
      ["serve", "--model", directory, ...(freePort ? ["--port", "0"] : []), "--threads", "1", ...args],
      { env: environment(env), stdio: ["ignore", "ignore", "pipe"] },
    );
    // A test that fails must not leave a server behind.
    const kill = () => server.process.kill("SIGKILL");
    process.on("exit", kill);
    server.end = new Promise((settle) =>
      server.process.on("close", (code, signal) => {
        process.off("exit", kill);
        server.ended = { code, signal };
        settle(server.ended);
      }),
    );
    await new Promise((ready, reject) => {
      server.process.on("error", reject);
      server.process.stderr.on("data", (data) => {
        server.stderr += data;
        const found = server.stderr.match(/ is served at (https?:\/\/(\S+):(\d+)) /);
        if (!found) return;
        server.url = found[1];
        server.port = Number(found[3]);
        ready();
      });
      server.end.then(({ code, signal }) =>
        reject(new Error(`fathom serve ended (${code ?? signal}) before it served: ${server.stderr}`)),
      );
    });
    return server;
  }

  /** The same for all tests of a file; ends with them, and must then end well. */
  static async forFile(args, options) {
    const server = await Server.start(args, options);
    after(async () => {
      const { code, signal } = await server.stop();
      if (code !== 0) throw new Error(`fathom serve ended with ${code ?? signal}: ${server.stderr.slice(-2000)}`);
    });
    return server;
  }

  stop(signal = "SIGTERM") {
    if (!this.ended) this.process.kill(signal);
    return this.end;
  }

  /** The log's lines of requests, parsed. */
  log() {
    return this.stderr
      .split("\n")
      .filter((line) => line.startsWith("{"))
      .map((line) => JSON.parse(line));
  }

  /** Waits for a line in the log: it is written after its reply. */
  async logged(predicate, seconds = 5) {
    return eventually(() => this.log().find(predicate), `a line of the log: ${predicate}`, seconds);
  }

  fetch(path, options) {
    return fetch(this.url + path, options);
  }

  /** POSTs JSON: {status, headers, body} with the reply's JSON. */
  async post(path, body, headers = {}, options = {}) {
    const reply = await this.fetch(path, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body: typeof body === "string" ? body : JSON.stringify(body),
      ...options,
    });
    return { status: reply.status, headers: reply.headers, body: await reply.json() };
  }

  async get(path, headers = {}) {
    const reply = await this.fetch(path, { headers });
    return { status: reply.status, headers: reply.headers, body: await reply.json() };
  }

  status() {
    return this.get("/status").then((reply) => reply.body);
  }

  /** Waits until nothing runs and nothing waits. */
  idle(seconds = 1) {
    return eventually(async () => {
      const { requests } = await this.status();
      return requests.running === 0 && requests.waiting === 0;
    }, "nothing that runs or waits", seconds);
  }
}

/** Waits until `look` gives something; throws after `seconds`. */
export async function eventually(look, what, seconds = 5) {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`${what}: it did not come within ${seconds} s`);
    await new Promise((settle) => setTimeout(settle, 20));
  }
}

export const chat = (content, fields = {}) => ({
  model,
  messages: [{ role: "user", content }],
  temperature: 0,
  max_tokens: 16,
  ...fields,
});
