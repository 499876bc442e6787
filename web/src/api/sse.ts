/** One server-sent event. */
export interface ServerEvent {
  /** What `event:` said; "message" if nothing. */
  event: string;
  /** The `data:` lines, joined by line feeds. */
  data: string;
}

/** Far above any chunk of an answer; a line that never ends must not fill the memory. */
const mostLineLength = 8 << 20;

/**
 * Takes a stream of text apart into events, as the HTML standard says: lines end with LF, CR or both, in whatever pieces
 * they arrive; comments (`: keep-alive`) and unknown fields are passed over; an event without data is none.
 */
export class EventParser {
  private rest = '';
  private event = '';
  private data: string[] = [];
  /** A line ended with CR at the end of a piece: an LF at the beginning of the next one belongs to it. */
  private afterReturn = false;
  private begun = false;

  /** The events that this piece completes. Throws if a line is longer than 8 Mi characters. */
  push(piece: string): ServerEvent[] {
    if (piece === '') return [];
    if (!this.begun) {
      this.begun = true;
      if (piece.startsWith('\uFEFF')) piece = piece.slice(1);
    }
    if (this.afterReturn && piece.startsWith('\n')) piece = piece.slice(1);
    this.afterReturn = piece.endsWith('\r');

    const lines = piece.split(/\r\n|\n|\r/);
    lines[0] = this.rest + (lines[0] ?? '');
    this.rest = lines.pop() ?? '';
    if (this.rest.length > mostLineLength) throw new Error('A line of the event stream is too long.');

    const events: ServerEvent[] = [];
    for (const line of lines) this.takeLine(line, events);
    return events;
  }

  private takeLine(line: string, events: ServerEvent[]): void {
    if (line === '') {
      if (this.data.length > 0) events.push({ event: this.event || 'message', data: this.data.join('\n') });
      this.event = '';
      this.data = [];
      return;
    }
    const colon = line.indexOf(':');
    if (colon === 0) return;
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? '' : line.slice(colon + 1);
    if (value.startsWith(' ')) value = value.slice(1);
    if (field === 'data') this.data.push(value);
    else if (field === 'event') this.event = value;
  }
}

/** The events of a reply's body. An event that the end of the stream cuts off is dropped, as the standard says. */
export async function* readEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<ServerEvent, void, void> {
  const parser = new EventParser();
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    // Reached also when the consumer stops early: the server learns that nobody listens any more.
    await reader.cancel().catch(() => undefined);
  }
}
