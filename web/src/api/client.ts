import { fieldsOf, listOf, parseJson, textOf } from '../base/decode';
import { readChunks, type Chunk } from './chat-stream';
import { ApiError, errorOfResponse } from './error';
import { readStatus, type ServerStatus } from './status';

/** The body of `POST v1/chat/completions`. Sampling fields that are absent are the server's choice. */
export interface ChatRequest {
  model: string;
  messages: { role: 'system' | 'user' | 'assistant'; content: string; prefix?: true }[];
  stream: true;
  stream_options: { include_usage: true };
  thinking?: { type: 'enabled' | 'disabled' };
  temperature?: number;
  top_p?: number;
  max_tokens?: number;
  seed?: number;
  presence_penalty?: number;
  frequency_penalty?: number;
  stop?: string[];
}

/** The server's API, at addresses relative to the page, so that a proxy may put both under a prefix. */
export interface Client {
  /** Names of the models that are served. */
  models(signal?: AbortSignal): Promise<string[]>;
  status(signal?: AbortSignal): Promise<ServerStatus>;
  /** Chunks of the answer; see readChunks for how it ends. */
  chat(request: ChatRequest, signal: AbortSignal): AsyncGenerator<Chunk, boolean, void>;
}

/** All calls throw ApiError, or the AbortError of their signal. `key` is asked at each request; empty for none. */
export function createClient(key: () => string): Client {
  const ask = async (path: string, init: RequestInit): Promise<Response> => {
    const headers = new Headers(init.headers);
    if (key() !== '') headers.set('authorization', `Bearer ${key()}`);
    let response: Response;
    try {
      response = await fetch(path, { ...init, headers, cache: 'no-store', credentials: 'same-origin' });
    } catch (error) {
      if (init.signal?.aborted) throw error;
      throw new ApiError('unreachable', 0, error instanceof Error ? error.message : '');
    }
    if (!response.ok) throw await errorOfResponse(response);
    return response;
  };

  const askJson = async (path: string, signal?: AbortSignal): Promise<unknown> => {
    const response = await ask(path, signal ? { signal } : {});
    const body = parseJson(await response.text());
    if (body === undefined) throw new ApiError('server', response.status, `${path} did not answer with JSON.`);
    return body;
  };

  return {
    async models(signal) {
      const body = fieldsOf(await askJson('v1/models', signal));
      return listOf(body['data'])
        .map((model) => textOf(fieldsOf(model)['id']))
        .filter((id) => id !== '');
    },
    async status(signal) {
      return readStatus(await askJson('status', signal));
    },
    async *chat(request, signal) {
      const response = await ask('v1/chat/completions', {
        method: 'POST',
        headers: { 'content-type': 'application/json', accept: 'text/event-stream' },
        body: JSON.stringify(request),
        signal,
      });
      if (!response.body) throw new ApiError('server', response.status, 'The answer has no body.');
      return yield* readChunks(response.body);
    },
  };
}
