import type { Message } from './conversation';
import type { Outcome } from './run';

/** What an answer is after it was continued: text and times of both parts; the prompt is that of the first part. */
export function continued(before: Message, after: Outcome): Partial<Message> {
  return {
    content: before.content + after.content,
    reasoning: before.reasoning + after.reasoning,
    finish: after.finish,
    failure: after.failure,
    usage:
      before.usage && after.usage
        ? {
            ...before.usage,
            completion: before.usage.completion + after.usage.completion,
            reasoning: before.usage.reasoning + after.usage.reasoning,
          }
        : (before.usage ?? after.usage),
    timing:
      before.timing && after.timing
        ? {
            first: before.timing.first,
            generating: before.timing.generating + after.timing.generating,
            thinking: before.timing.thinking + after.timing.thinking,
          }
        : (before.timing ?? after.timing),
  };
}
