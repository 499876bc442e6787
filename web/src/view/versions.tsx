import type { VNode } from 'preact';
import { switchVersion } from '../app/answers';
import type { Message } from '../chat/conversation';
import { useText } from '../text/language';
import { IconButton } from './icon-button';

interface Props {
  conversation: string;
  message: Message;
  /** From 1. */
  place: number;
  count: number;
}

/** ‹ 2 / 3 ›: which wording of a message, or which answer to it, is shown. */
export function Versions({ conversation, message, place, count }: Props): VNode | null {
  const { t, f } = useText();
  if (count < 2) return null;
  return (
    <span class="versions" role="group" aria-label={t.versionOf(f.count(place), f.count(count))}>
      <IconButton
        icon="left"
        label={t.previousVersion}
        disabled={place === 1}
        onClick={() => switchVersion(conversation, message, -1)}
      />
      <span aria-hidden="true">
        {f.count(place)}/{f.count(count)}
      </span>
      <IconButton
        icon="right"
        label={t.nextVersion}
        disabled={place === count}
        onClick={() => switchVersion(conversation, message, 1)}
      />
    </span>
  );
}
