import type { Message } from './conversation';
import type { Settings } from './settings';

/**
 * Why an answer ended with "length", which the API does not tell apart: the conversation fills the model's context, the
 * answer is as long as `max_tokens` allows, or (without usage) nobody can say.
 */
export function lengthCause(message: Message, settings: Settings, context: number): 'context' | 'limit' | 'unknown' {
  if (!message.usage) return 'unknown';
  const { prompt, completion } = message.usage;
  if (context > 0 && prompt + completion >= context - 1) return 'context';
  return settings.maxTokens !== null && completion >= settings.maxTokens ? 'limit' : 'unknown';
}
