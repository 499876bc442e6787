import type { Usage } from '../api/chat-stream';
import type { ChatRequest, Client } from '../api/client';
import { ApiError } from '../api/error';
import { createStore, type Store } from '../base/store';
import { finishes, type Failure, type Finish, type Timing } from './conversation';

/** An answer while it comes. Times are performance.now(). */
export interface Live {
  /** waiting: nothing came yet. resting: the server is busy and is asked again at `retryAt`. */
  phase: 'waiting' | 'resting' | 'thinking' | 'answering';
  reasoning: string;
  content: string;
  /** null while no thought has come. */
  thinkingSince: number | null;
  retryAt: number;
}

/** What came of it. */
export interface Outcome {
  reasoning: string;
  content: string;
  finish: Finish;
  failure: Failure | null;
  usage: Usage | null;
  timing: Timing | null;
}

/** A busy server is asked again by itself this many times, and not after longer than this. */
const mostRetries = 5;
const longestRestSeconds = 60;

/** One answer on its way. It ends by itself or by `stop`, always with an outcome: what came is never lost. */
export class Run {
  readonly live: Store<Live> = createStore<Live>({
    phase: 'waiting',
    reasoning: '',
    content: '',
    thinkingSince: null,
    retryAt: 0,
  });
  private readonly abort = new AbortController();
  private endRest: (() => void) | null = null;

  private finish: string | null = null;
  private usage: Usage | null = null;
  private sentAt = 0;
  /** null while nothing has come. */
  private firstAt: number | null = null;
  private lastAt = 0;
  private thoughtUntil = 0;

  constructor(
    private readonly client: Client,
    private readonly request: ChatRequest,
  ) {}

  stop(): void {
    this.abort.abort();
    this.endRest?.();
  }

  /** Ends the rest of a `resting` run. */
  retryNow(): void {
    this.endRest?.();
  }

  /** Milliseconds that the model has thought, as far as it is known now. */
  thinkingTime(): number {
    const { thinkingSince } = this.live.get();
    return thinkingSince === null ? 0 : this.thoughtUntil - thinkingSince;
  }

  async outcome(): Promise<Outcome> {
    for (let retries = 0; ; retries++) {
      try {
        return this.end(await this.receive());
      } catch (error) {
        if (this.abort.signal.aborted) return this.end('stopped');
        const rest = this.restAfter(error, retries);
        if (rest === null) return this.endWithError(error);
        await this.rest(rest);
        if (this.abort.signal.aborted) return this.end('stopped');
      }
    }
  }

  private async receive(): Promise<Finish> {
    this.sentAt = performance.now();
    this.live.update((live) => ({ ...live, phase: 'waiting' }));
    const chunks = this.client.chat(this.request, this.abort.signal);
    for (;;) {
      const { done, value } = await chunks.next();
      if (done) {
        // Without `[DONE]` the answer is whole only if a chunk said so.
        if (this.finish === null) return value ? 'stop' : 'broken';
        return finishes.find((finish) => finish === this.finish) ?? 'stop';
      }
      this.finish = value.finish ?? this.finish;
      this.usage = value.usage ?? this.usage;
      if (value.content !== '' || value.reasoning !== '') this.take(value.reasoning, value.content);
    }
  }

  private take(reasoning: string, content: string): void {
    const now = performance.now();
    this.firstAt ??= now;
    this.lastAt = now;
    this.live.update((live) => {
      const thinkingSince = live.thinkingSince ?? (reasoning === '' ? null : now);
      const answering = content !== '' || live.content !== '';
      if (thinkingSince !== null && live.content === '') this.thoughtUntil = now;
      return {
        ...live,
        phase: answering ? 'answering' : 'thinking',
        reasoning: live.reasoning + reasoning,
        content: live.content + content,
        thinkingSince,
      };
    });
  }

  /** Seconds after which a request that failed is tried again; null if it is not. */
  private restAfter(error: unknown, retries: number): number | null {
    if (!(error instanceof ApiError) || error.kind !== 'busy') return null;
    if (this.firstAt !== null || retries >= mostRetries) return null;
    const seconds = error.retryAfter ?? 2 ** (retries + 1);
    return seconds <= longestRestSeconds ? seconds : null;
  }

  private async rest(seconds: number): Promise<void> {
    this.live.update((live) => ({ ...live, phase: 'resting', retryAt: performance.now() + seconds * 1000 }));
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, seconds * 1000);
      this.endRest = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.endRest = null;
  }

  private endWithError(error: unknown): Outcome {
    if (error instanceof ApiError) return this.end('failed', { kind: error.kind, message: error.message });
    // The server had begun to answer when the connection broke.
    return this.end('broken');
  }

  private end(finish: Finish, failure: Failure | null = null): Outcome {
    const { reasoning, content } = this.live.get();
    const timing: Timing | null =
      this.firstAt === null
        ? null
        : {
            first: this.firstAt - this.sentAt,
            generating: this.lastAt - this.firstAt,
            thinking: this.thinkingTime(),
          };
    return { reasoning, content, finish, failure, usage: this.usage, timing };
  }
}
