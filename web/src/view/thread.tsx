import type { VNode } from 'preact';
import { useLayoutEffect, useRef } from 'preact/hooks';
import { answering, isAnswering } from '../app/answers';
import { panel } from '../app/ui';
import { useSelected } from '../base/use-store';
import type { Conversation } from '../chat/conversation';
import { shownPath, siblings } from '../chat/tree';
import { useText } from '../text/language';
import { EmptyState } from './empty-state';
import { Icon } from './icons';
import { MessageView } from './message-view';
import { useStickToEnd } from './stick-to-end';

/** The shown branch of a conversation. */
export function Thread({ conversation }: { conversation: Conversation }): VNode {
  const { t } = useText();
  const scroller = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const path = shownPath(conversation);
  const { atEnd, toEnd } = useStickToEnd(scroller, content, path.length > 0);
  const isBusy = useSelected(answering, () => isAnswering(conversation.id));
  // Who sends, or asks again, wants to see what comes.
  useLayoutEffect(() => {
    if (isBusy) toEnd(false);
  }, [isBusy]);

  return (
    <div class="thread" ref={scroller}>
      <div class="thread-content" ref={content} role="log" aria-live="off" aria-label={t.messages} aria-busy={isBusy}>
        {path.length === 0 && <EmptyState conversation={conversation} />}
        {path.length > 0 && conversation.settings.system.trim() !== '' && (
          <button type="button" class="system-note" onClick={() => panel.set('settings')}>
            <b>{t.systemPrompt}</b> {conversation.settings.system}
          </button>
        )}
        {path.map((message) => {
          const all = siblings(conversation, message);
          return (
            <MessageView
              key={message.id}
              conversation={conversation.id}
              message={message}
              settings={conversation.settings}
              place={all.findIndex((other) => other.id === message.id) + 1}
              count={all.length}
              isLast={message.id === conversation.leaf}
            />
          );
        })}
      </div>
      {!atEnd && path.length > 0 && (
        <button type="button" class="to-end" aria-label={t.toEnd} title={t.toEnd} onClick={() => toEnd(true)}>
          <Icon name="down" />
        </button>
      )}
    </div>
  );
}
