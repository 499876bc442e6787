import type { TargetedKeyboardEvent, VNode } from 'preact';
import { useLayoutEffect, useRef, useState } from 'preact/hooks';
import { answering, isAnswering, send, stopAnswer } from '../app/answers';
import { change } from '../app/library';
import { server } from '../app/server';
import { editing } from '../app/ui';
import { useSelected, useStore } from '../base/use-store';
import type { Conversation } from '../chat/conversation';
import { shownPath } from '../chat/tree';
import { useText } from '../text/language';
import { Icon, StopIcon } from './icons';
import { fitHeight, isSendKey } from './text-area';

/** The id by which shortcuts and dialogs find the message box again. */
export const messageBoxId = 'message';

/** What was typed and not sent, by conversation. */
const drafts = new Map<string, string>();

/** The message box. */
export function Composer({ conversation }: { conversation: Conversation }): VNode {
  const { t } = useText();
  const [text, setText] = useState(drafts.get(conversation.id) ?? '');
  const area = useRef<HTMLTextAreaElement>(null);
  const isBusy = useSelected(answering, () => isAnswering(conversation.id));
  const { reach } = useStore(server);
  useLayoutEffect(() => fitHeight(area.current), [text]);
  // Not on a touch screen, where it would bring up the keyboard over half of the page.
  useLayoutEffect(() => {
    if (!matchMedia('(pointer: coarse)').matches) area.current?.focus();
  }, []);

  const write = (next: string): void => {
    drafts.set(conversation.id, next);
    setText(next);
  };
  const canSend = text.trim() !== '' && !isBusy && reach !== 'unauthorised';
  const submit = (): void => {
    if (!canSend) return;
    send(conversation.id, text);
    write('');
    area.current?.focus();
  };
  const onKeyDown = (event: TargetedKeyboardEvent<HTMLTextAreaElement>): void => {
    if (isSendKey(event)) {
      event.preventDefault();
      submit();
    } else if (event.key === 'ArrowUp' && !event.altKey && text === '' && !isBusy) {
      const last = shownPath(conversation).findLast((message) => message.role === 'user');
      if (last) {
        event.preventDefault();
        editing.set(last.id);
      }
    }
  };
  return (
    <div class="composer">
      <div class="composer-box">
        <textarea
          id={messageBoxId}
          ref={area}
          rows={1}
          value={text}
          placeholder={t.messagePlaceholder}
          aria-label={t.message}
          enterkeyhint="send"
          onInput={(event) => write(event.currentTarget.value)}
          onKeyDown={onKeyDown}
        />
        <div class="composer-row">
          <ThinkSwitch conversation={conversation} />
          <ContextGauge conversation={conversation} />
          {isBusy ? (
            <button type="button" class="send" aria-label={t.stop} title={t.stop} onClick={() => void stopAnswer(conversation.id)}>
              <StopIcon />
            </button>
          ) : (
            <button type="button" class="send" aria-label={t.send} title={t.send} disabled={!canSend} onClick={submit}>
              <Icon name="send" />
            </button>
          )}
        </div>
      </div>
    </div>
  );
}

/** Thinking on or off; not there for a model that cannot. */
function ThinkSwitch({ conversation }: { conversation: Conversation }): VNode | null {
  const { t } = useText();
  const thinking = useSelected(server, (now) => now.thinking);
  if (thinking === false) return null;
  return (
    <button
      type="button"
      class="think-switch"
      aria-pressed={conversation.settings.thinking === 'on'}
      title={t.thinkHint}
      onClick={() => switchThinking(conversation.id)}
    >
      <Icon name="bulb" />
      {t.think}
    </button>
  );
}

export function switchThinking(id: string): void {
  change(id, (now) => {
    const thinking = now.settings.thinking === 'on' ? 'off' : 'on';
    return { ...now, settings: { ...now.settings, thinking } };
  });
}

/** How deep the conversation is in the model's context. */
function ContextGauge({ conversation }: { conversation: Conversation }): VNode | null {
  const { t, f } = useText();
  const context = useSelected(server, (now) => now.context);
  const usage = shownPath(conversation).findLast((message) => message.usage !== null)?.usage;
  if (!usage || context === 0) return <span class="context-gauge" />;
  // Thoughts are forgotten when the next message comes.
  const used = Math.min(context, usage.prompt + usage.completion - usage.reasoning);
  const label = t.contextUsed(f.count(used), f.count(context));
  return (
    <span class="context-gauge" title={t.contextUsedHint}>
      <meter min={0} max={context} high={context * 0.85} value={used} aria-label={t.contextUsedHint}>
        {label}
      </meter>
      <span aria-hidden="true">{label}</span>
    </span>
  );
}
