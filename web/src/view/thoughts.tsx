import type { VNode } from 'preact';
import { useState } from 'preact/hooks';
import { useText } from '../text/language';
import { MarkdownView } from './markdown-view';
import { useClock } from './use-clock';

interface Props {
  text: string;
  /** performance.now() when the model began to think, while it does; null afterwards. */
  thinkingSince: number | null;
  /** Milliseconds; 0 if nobody measured (an imported answer). */
  duration: number;
}

/** What the model thought before it answered: folded, with the time that it took. */
export function Thoughts({ text, thinkingSince, duration }: Props): VNode {
  const { t, f } = useText();
  const [open, setOpen] = useState(false);
  const thinks = thinkingSince !== null;
  // A tenth of a second is what the time shows.
  useClock(thinks ? 100 : 0);
  const label = thinks
    ? t.thinkingFor(f.duration(performance.now() - thinkingSince))
    : duration > 0
      ? t.thoughtFor(f.duration(duration))
      : t.thoughts;
  return (
    <details class={`thoughts ${thinks ? 'thoughts-live' : ''}`} open={open} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>{label}</summary>
      {open && (
        <div class="thoughts-text">
          <MarkdownView text={text} growing={thinks} />
        </div>
      )}
    </details>
  );
}
