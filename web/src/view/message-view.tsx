import type { VNode } from 'preact';
import { answering, regenerate } from '../app/answers';
import { editing } from '../app/ui';
import { memo } from '../base/memo';
import { useFrames, useSelected, useStore } from '../base/use-store';
import type { Message } from '../chat/conversation';
import type { Live, Run } from '../chat/run';
import type { Settings } from '../chat/settings';
import { useText } from '../text/language';
import { CopyButton } from './copy-button';
import { IconButton } from './icon-button';
import { MarkdownView } from './markdown-view';
import { MessageEditor } from './message-editor';
import { Notice } from './notice';
import { Thoughts } from './thoughts';
import { UsageLine } from './usage-line';
import { useClock } from './use-clock';
import { Versions } from './versions';

interface Props {
  conversation: string;
  message: Message;
  settings: Settings;
  /** Which of its siblings it is, from 1, and how many there are. */
  place: number;
  count: number;
  /** Whether nothing follows it in the branch that is shown. */
  isLast: boolean;
}

/** One message of the branch that is shown. Drawn again only when it changes, or grows. */
export const MessageView = memo(function MessageView(props: Props): VNode {
  const { t } = useText();
  const isEdited = useStore(editing) === props.message.id;
  const isUser = props.message.role === 'user';
  return (
    <article class={`message message-${props.message.role}`} aria-label={isUser ? t.you : props.message.model || t.assistant}>
      {isEdited ? (
        <MessageEditor conversation={props.conversation} message={props.message} />
      ) : isUser ? (
        <Question {...props} />
      ) : (
        <Answer {...props} />
      )}
    </article>
  );
});

function Question({ conversation, message, place, count }: Props): VNode {
  const { t } = useText();
  return (
    <>
      <div class="question" dir="auto">
        {message.content}
      </div>
      <div class="message-actions">
        <Versions conversation={conversation} message={message} place={place} count={count} />
        <CopyButton text={message.content} label={t.copyMessage} />
        <IconButton icon="edit" label={t.edit} onClick={() => editing.set(message.id)} />
      </div>
    </>
  );
}

function Answer({ conversation, message, settings, place, count, isLast }: Props): VNode {
  const { t } = useText();
  const run = useSelected(answering, (now) => now.get(message.id)?.run ?? null);
  const live = useFrames(run?.live ?? null);
  // What is coming stands behind what there was before: an answer that is continued.
  const content = message.content + (live?.content ?? '');
  const reasoning = message.reasoning + (live?.reasoning ?? '');
  return (
    <>
      {reasoning !== '' && (
        <Thoughts
          text={reasoning}
          thinkingSince={live?.phase === 'thinking' ? live.thinkingSince : null}
          duration={message.timing?.thinking || (run?.thinkingTime() ?? 0)}
        />
      )}
      <MarkdownView text={content} growing={live !== null} />
      {run && live && <Progress run={run} live={live} />}
      {!run && (
        <>
          <Notice conversation={conversation} message={message} settings={settings} isLast={isLast} />
          <div class="message-actions">
            <Versions conversation={conversation} message={message} place={place} count={count} />
            {/* Without a text the notice above offers all that can be done. */}
            {content !== '' && (
              <>
                <CopyButton text={content} label={t.copyAnswer} />
                <IconButton icon="again" label={t.regenerate} onClick={() => void regenerate(conversation, message)} />
                <IconButton icon="edit" label={t.editAnswer} onClick={() => editing.set(message.id)} />
              </>
            )}
            <UsageLine usage={message.usage} timing={message.timing} />
          </div>
        </>
      )}
    </>
  );
}

/** What happens while there is nothing to read yet. */
function Progress({ run, live }: { run: Run; live: Live }): VNode | null {
  const { t, f } = useText();
  useClock(live.phase === 'resting' ? 500 : 0);
  if (live.phase === 'waiting') {
    return (
      <p class="waiting">
        <span class="pulse" aria-hidden="true" />
        {t.waiting}
      </p>
    );
  }
  if (live.phase !== 'resting') return null;
  return (
    <div class="notice">
      <p>{t.busyFor(f.countdown(live.retryAt - performance.now()))}</p>
      <div class="notice-actions">
        <button type="button" onClick={() => run.retryNow()}>
          {t.tryNow}
        </button>
      </div>
    </div>
  );
}
