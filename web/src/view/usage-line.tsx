import type { VNode } from 'preact';
import type { Usage } from '../api/chat-stream';
import type { Timing } from '../chat/conversation';
import { useText } from '../text/language';

/** Tokens and speed of an answer. */
export function UsageLine({ usage, timing }: { usage: Usage | null; timing: Timing | null }): VNode | null {
  const { t, f } = useText();
  if (!usage && !timing) return null;
  const facts: [text: string, hint: string][] = [];
  if (usage) {
    facts.push([t.tokensIn(f.count(usage.prompt)), t.tokensInHint]);
    if (usage.cached > 0) facts.push([t.tokensCached(f.count(usage.cached)), t.tokensCachedHint]);
    facts.push([t.tokensOut(f.count(usage.completion)), t.tokensOutHint]);
  }
  // The first token belongs to the time before it; what came all at once has no speed.
  if (usage && timing && usage.completion > 1 && timing.generating > 1) {
    const rate = (usage.completion - 1) / (timing.generating / 1000);
    facts.push([t.tokensPerSecond(f.rate(rate)), t.tokensPerSecondHint]);
  }
  if (timing) facts.push([t.firstAfter(f.duration(timing.first)), t.firstAfterHint]);
  return (
    <ul class="usage">
      {facts.map(([text, hint]) => (
        <li key={hint} title={hint}>
          {text}
        </li>
      ))}
    </ul>
  );
}
