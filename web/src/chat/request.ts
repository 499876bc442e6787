import type { ChatRequest } from '../api/client';
import type { Message } from './conversation';
import type { Settings } from './settings';

/**
 * The request for an answer to this path of messages. Thoughts of earlier answers are not sent: the models' templates drop
 * them, and DeepSeek's API refuses them. If the last message is an answer, it is to be continued (`prefix`, as in DeepSeek's
 * chat prefix completion).
 */
export function chatRequest(path: readonly Message[], settings: Settings, model: string): ChatRequest {
  const messages: ChatRequest['messages'] = [];
  if (settings.system.trim() !== '') messages.push({ role: 'system', content: settings.system });
  for (const message of path) {
    // An answer of which nothing came (an error, a stop before the first word) says nothing to the model.
    if (message.role === 'assistant' && message.content === '') continue;
    messages.push({ role: message.role, content: message.content });
  }
  const last = messages.at(-1);
  if (last?.role === 'assistant') last.prefix = true;

  const request: ChatRequest = { model, messages, stream: true, stream_options: { include_usage: true } };
  if (settings.thinking !== 'auto') request.thinking = { type: settings.thinking === 'on' ? 'enabled' : 'disabled' };
  if (settings.temperature !== null) request.temperature = settings.temperature;
  if (settings.topP !== null) request.top_p = settings.topP;
  if (settings.maxTokens !== null) request.max_tokens = settings.maxTokens;
  if (settings.seed !== null) request.seed = settings.seed;
  if (settings.presencePenalty !== null) request.presence_penalty = settings.presencePenalty;
  if (settings.frequencyPenalty !== null) request.frequency_penalty = settings.frequencyPenalty;
  if (settings.stop.length > 0) request.stop = [...settings.stop];
  return request;
}
