import { describe, expect, it } from 'vitest';
import { EventParser, readEvents, type ServerEvent } from '../../src/api/sse';

function parse(pieces: readonly string[]): ServerEvent[] {
  const parser = new EventParser();
  return pieces.flatMap((piece) => parser.push(piece));
}

const data = (text: string): ServerEvent => ({ event: 'message', data: text });

const streams: [name: string, text: string, events: ServerEvent[]][] = [
  ['one event', 'data: a\n\n', [data('a')]],
  ['two events', 'data: a\n\ndata: b\n\n', [data('a'), data('b')]],
  ['without a blank behind the colon', 'data:a\n\n', [data('a')]],
  ['only the first blank goes', 'data:  a \n\n', [data(' a ')]],
  ['lines that end with CR LF', 'data: a\r\n\r\ndata: b\r\n\r\n', [data('a'), data('b')]],
  ['lines that end with CR', 'data: a\r\rdata: b\r\r', [data('a'), data('b')]],
  ['mixed ends', 'data: a\r\n\ndata: b\n\r', [data('a'), data('b')]],
  ['several data lines', 'data: a\ndata: b\ndata\n\n', [data('a\nb\n')]],
  ['comments', ': keep-alive\n\n:\ndata: a\n: more\n\n', [data('a')]],
  ['a named event', 'event: error\ndata: a\n\ndata: b\n\n', [{ event: 'error', data: 'a' }, data('b')]],
  ['an event without data is none', 'event: ping\n\ndata: a\n\n', [data('a')]],
  ['empty data is an event', 'data:\n\n', [data('')]],
  ['unknown fields', 'id: 1\nretry: 5\nnonsense\ndata: a\n\n', [data('a')]],
  ['a field that only begins like data', 'database: x\ndata: a\n\n', [data('a')]],
  ['a byte order mark', '\uFEFFdata: a\n\n', [data('a')]],
  ['a byte order mark later is text', 'data: \uFEFFa\n\n', [data('\uFEFFa')]],
  ['an event that the end cuts off', 'data: a\n\ndata: b\n', [data('a')]],
  ['colons in the data', 'data: {"a":"b: c"}\n\n', [data('{"a":"b: c"}')]],
  ['nothing', '', []],
];

describe('EventParser', () => {
  it.each(streams)('%s, in one piece', (_, text, events) => {
    expect(parse([text])).toEqual(events);
  });

  it.each(streams)('%s, character by character', (_, text, events) => {
    expect(parse([...text])).toEqual(events);
  });

  it.each(streams)('%s, cut in two at every place', (_, text, events) => {
    for (let cut = 0; cut <= text.length; cut++) expect(parse([text.slice(0, cut), text.slice(cut)])).toEqual(events);
  });

  it('refuses a line that does not end', () => {
    const parser = new EventParser();
    const piece = 'x'.repeat(1 << 20);
    expect(() => {
      for (let pieces = 0; pieces < 10; pieces++) parser.push(piece);
    }).toThrow(/too long/);
  });
});

describe('readEvents', () => {
  function stream(chunks: readonly Uint8Array[], onCancel: () => void = () => undefined): ReadableStream<Uint8Array> {
    let next = 0;
    return new ReadableStream({
      pull(controller) {
        const chunk = chunks[next++];
        if (chunk) controller.enqueue(chunk);
        else controller.close();
      },
      cancel: onCancel,
    });
  }

  it('puts characters together that the network cut apart', async () => {
    const bytes = new TextEncoder().encode('data: 深い海 🌊\n\n');
    const events: ServerEvent[] = [];
    for await (const event of readEvents(stream(Array.from(bytes, (byte) => Uint8Array.of(byte))))) events.push(event);
    expect(events).toEqual([data('深い海 🌊')]);
  });

  it('cancels the stream when the reader stops', async () => {
    let cancelled = false;
    const chunk = new TextEncoder().encode('data: a\n\n');
    for await (const event of readEvents(stream([chunk, chunk, chunk], () => {
      cancelled = true;
    }))) {
      expect(event).toEqual(data('a'));
      break;
    }
    expect(cancelled).toBe(true);
  });
});
