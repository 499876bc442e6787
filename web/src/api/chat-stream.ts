import { countOf, fieldsOf, isFields, listOf, parseJson, textOf } from '../base/decode';
import { ApiError, kindOfStatus, messageOf } from './error';
import { readEvents } from './sse';

/** Tokens of one request. `completion` contains `reasoning`, `prompt` contains `cached`. */
export interface Usage {
  prompt: number;
  cached: number;
  completion: number;
  reasoning: number;
}

/** A piece of an answer: any of the fields may be empty. */
export interface Chunk {
  reasoning: string;
  content: string;
  /** As the server says it ("stop", "length", …); null while the answer goes on. */
  finish: string | null;
  usage: Usage | null;
}

export function readUsage(value: unknown): Usage | null {
  if (!isFields(value)) return null;
  const prompt = countOf(value['prompt_tokens']);
  // DeepSeek's field, or OpenAI's.
  const cached =
    countOf(value['prompt_cache_hit_tokens']) || countOf(fieldsOf(value['prompt_tokens_details'])['cached_tokens']);
  return {
    prompt,
    cached: Math.min(cached, prompt),
    completion: countOf(value['completion_tokens']),
    reasoning: countOf(fieldsOf(value['completion_tokens_details'])['reasoning_tokens']),
  };
}

function readChunk(data: string): Chunk {
  const body = parseJson(data);
  if (!isFields(body)) throw new ApiError('server', 0, 'The stream holds something that is not JSON.');
  if (body['error'] !== undefined && body['error'] !== null) {
    const code = Number(fieldsOf(body['error'])['code']);
    const kind = Number.isInteger(code) && code >= 400 ? kindOfStatus(code) : 'server';
    throw new ApiError(kind, 0, messageOf(body) || 'The server broke off the answer.');
  }
  const choice = fieldsOf(listOf(body['choices'])[0]);
  const delta = fieldsOf(choice['delta']);
  return {
    reasoning: textOf(delta['reasoning_content']),
    content: textOf(delta['content']),
    finish: textOf(choice['finish_reason']) || null,
    usage: readUsage(body['usage']),
  };
}

/**
 * The chunks of a streamed answer up to `[DONE]`. Returns whether `[DONE]` came: an answer without it and without a finish
 * reason was cut off. Throws ApiError for an error inside the stream and for one that cannot be read; what a connection
 * that breaks throws is passed on.
 */
export async function* readChunks(body: ReadableStream<Uint8Array>): AsyncGenerator<Chunk, boolean, void> {
  for await (const { data } of readEvents(body)) {
    if (data === '[DONE]') return true;
    yield readChunk(data);
  }
  return false;
}
