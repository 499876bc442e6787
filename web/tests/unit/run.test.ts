import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Chunk } from '../../src/api/chat-stream';
import type { ChatRequest, Client } from '../../src/api/client';
import { ApiError } from '../../src/api/error';
import { Run } from '../../src/chat/run';

const request: ChatRequest = { model: 'm', messages: [], stream: true, stream_options: { include_usage: true } };
const chunk = (fields: Partial<Chunk>): Chunk => ({ reasoning: '', content: '', finish: null, usage: null, ...fields });
const later = (milliseconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, milliseconds));

type Script = (signal: AbortSignal) => AsyncGenerator<Chunk, boolean, void>;

/** A client whose n-th chat is the n-th script. */
function clientOf(...scripts: Script[]): Client {
  let asked = 0;
  return {
    models: () => Promise.resolve([]),
    status: () => Promise.reject(new Error('not asked here')),
    chat: (_, signal) => (scripts[asked++] ?? scripts.at(-1)!)(signal),
  };
}

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

async function outcomeOf(run: Run, milliseconds = 200_000): ReturnType<Run['outcome']> {
  const outcome = run.outcome();
  await vi.advanceTimersByTimeAsync(milliseconds);
  return outcome;
}

describe('Run', () => {
  it('gathers an answer and measures it', async () => {
    const run = new Run(
      clientOf(async function* () {
        await later(300);
        yield chunk({ reasoning: 'a' });
        await later(100);
        yield chunk({ reasoning: 'b' });
        await later(100);
        yield chunk({ content: 'c' });
        await later(500);
        yield chunk({ content: 'd' });
        yield chunk({ finish: 'stop' });
        yield chunk({ usage: { prompt: 5, cached: 0, completion: 4, reasoning: 2 } });
        return true;
      }),
      request,
    );
    expect(await outcomeOf(run)).toEqual({
      reasoning: 'ab',
      content: 'cd',
      finish: 'stop',
      failure: null,
      usage: { prompt: 5, cached: 0, completion: 4, reasoning: 2 },
      timing: { first: 300, generating: 700, thinking: 200 },
    });
  });

  it.each([
    ['broken', null, false],
    ['stop', null, true],
    ['length', 'length', false],
    ['stop', 'some_new_reason', true],
  ])('ends with %s for finish %s and [DONE] %s', async (finish, said, done) => {
    const run = new Run(
      clientOf(async function* () {
        yield chunk({ content: 'a', finish: said });
        return done;
      }),
      request,
    );
    expect(await outcomeOf(run)).toMatchObject({ finish, content: 'a' });
  });

  it('keeps what came before the connection broke', async () => {
    const run = new Run(
      clientOf(async function* () {
        yield chunk({ content: 'half' });
        throw new TypeError('network error');
      }),
      request,
    );
    expect(await outcomeOf(run)).toMatchObject({ finish: 'broken', content: 'half', failure: null });
  });

  it('keeps what came before the server told an error', async () => {
    const run = new Run(
      clientOf(async function* () {
        yield chunk({ content: 'half' });
        throw new ApiError('server', 0, 'The disk is full.');
      }),
      request,
    );
    expect(await outcomeOf(run)).toMatchObject({
      finish: 'failed',
      content: 'half',
      failure: { kind: 'server', message: 'The disk is full.' },
    });
  });

  it('stops when it is told to', async () => {
    const run = new Run(
      clientOf(async function* (signal) {
        yield chunk({ content: 'a' });
        await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)));
        return true;
      }),
      request,
    );
    const outcome = run.outcome();
    await vi.advanceTimersByTimeAsync(10);
    run.stop();
    expect(await outcome).toMatchObject({ finish: 'stopped', content: 'a' });
  });

  const busy = (retryAfter: number | null): Script =>
    async function* () {
      throw new ApiError('busy', 429, 'later', retryAfter);
    };
  const fine: Script = async function* () {
    yield chunk({ content: 'a', finish: 'stop' });
    return true;
  };

  it('asks a busy server again after the time that it names', async () => {
    const run = new Run(clientOf(busy(4), fine), request);
    const outcome = run.outcome();
    await vi.advanceTimersByTimeAsync(3900);
    expect(run.live.get().phase).toBe('resting');
    await vi.advanceTimersByTimeAsync(200);
    expect(await outcome).toMatchObject({ finish: 'stop', content: 'a' });
  });

  it('asks again at once when the user wants it', async () => {
    const run = new Run(clientOf(busy(50), fine), request);
    const outcome = run.outcome();
    await vi.advanceTimersByTimeAsync(10);
    run.retryNow();
    expect(await outcome).toMatchObject({ finish: 'stop' });
  });

  it('can be stopped while it rests', async () => {
    const run = new Run(clientOf(busy(50)), request);
    const outcome = run.outcome();
    await vi.advanceTimersByTimeAsync(10);
    run.stop();
    expect(await outcome).toMatchObject({ finish: 'stopped', content: '' });
  });

  it('gives up on a server that stays busy, or wants too long a rest', async () => {
    expect(await outcomeOf(new Run(clientOf(busy(null)), request))).toMatchObject({ finish: 'failed', failure: { kind: 'busy' } });
    expect(await outcomeOf(new Run(clientOf(busy(3600)), request), 10)).toMatchObject({ finish: 'failed' });
  });
});
