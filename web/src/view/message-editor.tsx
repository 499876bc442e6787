import type { TargetedKeyboardEvent, VNode } from 'preact';
import { useLayoutEffect, useRef, useState } from 'preact/hooks';
import { editMessage } from '../app/answers';
import { editing } from '../app/ui';
import type { Message } from '../chat/conversation';
import { useText } from '../text/language';
import { fitHeight, isSendKey } from './text-area';

/** A message's text, to be worded anew. */
export function MessageEditor({ conversation, message }: { conversation: string; message: Message }): VNode {
  const { t } = useText();
  const [text, setText] = useState(message.content);
  const area = useRef<HTMLTextAreaElement>(null);
  useLayoutEffect(() => {
    area.current?.focus();
    area.current?.setSelectionRange(text.length, text.length);
  }, []);
  useLayoutEffect(() => fitHeight(area.current), [text]);

  const save = (): void => void editMessage(conversation, message, text);
  const onKeyDown = (event: TargetedKeyboardEvent<HTMLTextAreaElement>): void => {
    if (event.key === 'Escape' && !event.isComposing) {
      event.preventDefault();
      editing.set(null);
    } else if (isSendKey(event)) {
      event.preventDefault();
      save();
    }
  };
  return (
    <div class="message-editor">
      <textarea
        ref={area}
        value={text}
        aria-label={message.role === 'user' ? t.editMessage : t.editAnswer}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={onKeyDown}
      />
      <div class="message-editor-actions">
        <button type="button" class="button" onClick={() => editing.set(null)}>
          {t.cancel}
        </button>
        <button type="button" class="button button-main" disabled={text.trim() === ''} onClick={save}>
          {message.role === 'user' ? t.send : t.save}
        </button>
      </div>
    </div>
  );
}
