import { describe, expect, it } from 'vitest';
import { readChunks, readUsage, type Chunk } from '../../src/api/chat-stream';
import { ApiError } from '../../src/api/error';

function body(...events: string[]): ReadableStream<Uint8Array> {
  return new Blob(events.map((event) => `data: ${event}\n\n`)).stream();
}

async function readAll(stream: ReadableStream<Uint8Array>): Promise<{ chunks: Chunk[]; done: boolean }> {
  const chunks: Chunk[] = [];
  const reading = readChunks(stream);
  for (;;) {
    const { done, value } = await reading.next();
    if (done) return { chunks, done: value };
    chunks.push(value);
  }
}

const nothing: Chunk = { reasoning: '', content: '', finish: null, usage: null };

describe('readChunks', () => {
  it('reads thoughts, text, the end and the usage', async () => {
    const { chunks, done } = await readAll(
      body(
        '{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}',
        '{"choices":[{"index":0,"delta":{"content":null,"reasoning_content":"hm"}}]}',
        '{"choices":[{"index":0,"delta":{"content":"42"}}]}',
        '{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}',
        '{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":3,"prompt_cache_hit_tokens":8,"completion_tokens_details":{"reasoning_tokens":1}}}',
        '[DONE]',
      ),
    );
    expect(done).toBe(true);
    expect(chunks).toEqual([
      nothing,
      { ...nothing, reasoning: 'hm' },
      { ...nothing, content: '42' },
      { ...nothing, finish: 'stop' },
      { ...nothing, usage: { prompt: 10, cached: 8, completion: 3, reasoning: 1 } },
    ]);
  });

  it('says that [DONE] did not come', async () => {
    expect((await readAll(body('{"choices":[{"delta":{"content":"a"}}]}'))).done).toBe(false);
  });

  it.each([
    ['an error object', '{"error":{"message":"The disk is full.","code":"500"}}', 'server', 'The disk is full.'],
    ['an error that says when', '{"error":{"message":"later","code":429}}', 'busy', 'later'],
    ['an error without words', '{"error":{}}', 'server', 'The server broke off the answer.'],
    ['an error that is a text', '{"error":"no"}', 'server', 'no'],
    ['what is not JSON', '<html>', 'server', 'The stream holds something that is not JSON.'],
    ['what is no object', '7', 'server', 'The stream holds something that is not JSON.'],
  ])('throws for %s', async (_, event, kind, message) => {
    const error = await readAll(body(event)).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(ApiError);
    expect(error).toMatchObject({ kind, message });
  });

  it.each(['{}', '{"choices":null}', '{"choices":[{}]}', '{"choices":[{"delta":7}]}', '{"choices":[{"delta":{"content":["a"]}}]}'])(
    'passes over a chunk that says nothing: %s',
    async (event) => {
      expect((await readAll(body(event, '[DONE]'))).chunks).toEqual([nothing]);
    },
  );
});

describe('readUsage', () => {
  it("reads OpenAI's name for cached tokens too", () => {
    expect(readUsage({ prompt_tokens: 9, completion_tokens: 1, prompt_tokens_details: { cached_tokens: 4 } })).toEqual({
      prompt: 9,
      cached: 4,
      completion: 1,
      reasoning: 0,
    });
  });

  it('believes no nonsense', () => {
    expect(readUsage(null)).toBeNull();
    expect(readUsage({ prompt_tokens: -5, completion_tokens: '7', prompt_cache_hit_tokens: 9 })).toEqual({
      prompt: 0,
      cached: 0,
      completion: 0,
      reasoning: 0,
    });
  });
});
