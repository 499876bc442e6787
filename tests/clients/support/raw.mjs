// Replies as bytes.
import net from "node:net";

/** A connection whose received bytes are kept with the times they came. */
export class RawConnection {
  received = "";
  pieces = [];  // {at, text}
  ended = false;

  constructor(port, host = "127.0.0.1") {
    this.socket = net.connect({ port, host, noDelay: true });
    this.socket.setEncoding("latin1");
    this.changed = () => {};
    this.socket.on("data", (text) => {
      this.received += text;
      this.pieces.push({ at: Date.now(), text });
      this.changed();
    });
    const end = () => {
      this.ended = true;
      this.changed();
    };
    this.socket.on("end", end);
    this.socket.on("close", end);
    this.socket.on("error", end);
    this.connected = new Promise((settle) => {
      this.socket.on("connect", () => settle(true));
      this.socket.on("error", () => settle(false));
    });
  }

  send(text) {
    this.socket.write(text);
    return this;
  }

  post(path, body, headers = {}) {
    const text = typeof body === "string" ? body : JSON.stringify(body);
    const all = { host: "localhost", "content-type": "application/json", "content-length": Buffer.byteLength(text), ...headers };
    const head = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`).join("");
    return this.send(`POST ${path} HTTP/1.1\r\n${head}\r\n`).send(text);
  }

  /** Waits until what was received matches, or the connection ends. */
  until(pattern, seconds = 10) {
    return new Promise((settle, reject) => {
      const timer = setTimeout(
        () => reject(new Error(`${pattern} did not come within ${seconds} s, but ${JSON.stringify(this.received.slice(-500))}`)),
        seconds * 1000,
      );
      this.changed = () => {
        if (!pattern.test(this.received) && !this.ended) return;
        clearTimeout(timer);
        this.changed = () => {};
        settle(this.received);
      };
      this.changed();
    });
  }

  /** Waits until the server ends the connection. */
  toEnd(seconds) {
    return this.until(/(?!)/, seconds);
  }

  /** The status, headers and (unchunked) body of the reply that was received whole. */
  reply() {
    const end = this.received.indexOf("\r\n\r\n");
    const [line, ...lines] = this.received.slice(0, end).split("\r\n");
    const headers = new Headers(lines.map((header) => header.split(/: (.*)/s).slice(0, 2)));
    let body = this.received.slice(end + 4);
    const chunks = [];
    if (headers.get("transfer-encoding") === "chunked") {
      while (body) {
        const size = parseInt(body, 16);
        const start = body.indexOf("\r\n") + 2;
        if (size === 0) break;
        chunks.push(Buffer.from(body.slice(start, start + size), "latin1").toString());
        body = body.slice(start + size + 2);
      }
      body = chunks.join("");
    } else {
      body = Buffer.from(body, "latin1").toString();
    }
    return { status: Number(line.split(" ")[1]), headers, body, chunks };
  }

  close() {
    this.socket.destroy();
  }
}
