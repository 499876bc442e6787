import type { VNode } from 'preact';
import { continueAnswer, regenerate } from '../app/answers';
import { show } from '../app/route';
import { server } from '../app/server';
import { dialog } from '../app/ui';
import { useSelected } from '../base/use-store';
import type { Message } from '../chat/conversation';
import { lengthCause } from '../chat/length-cause';
import type { Settings } from '../chat/settings';
import type { Format } from '../text/format';
import { useText } from '../text/language';
import type { Strings } from '../text/strings';
import { Icon } from './icons';

interface Props {
  conversation: string;
  message: Message;
  settings: Settings;
  /** Only the last answer can be continued: what follows an earlier one was said to it as it is. */
  isLast: boolean;
}

type Remedy = 'continue' | 'retry' | 'new' | 'key';

interface Told {
  text: string;
  /** In the server's words. */
  detail?: string;
  remedies: readonly Remedy[];
}

/** Why an answer is not whole, and what can be done. Nothing for one that is. */
export function Notice({ conversation, message, settings, isLast }: Props): VNode | null {
  const { t, f } = useText();
  const context = useSelected(server, (now) => now.context);
  const told = tell(message, settings, context, t, f);
  if (!told) return null;
  const buttons: Record<Remedy, VNode> = {
    continue: <button type="button" onClick={() => continueAnswer(conversation, message)}>{t.continueAnswer}</button>,
    retry: <button type="button" onClick={() => void regenerate(conversation, message)}>{t.retry}</button>,
    new: <button type="button" onClick={() => show(null)}>{t.newConversation}</button>,
    key: <button type="button" onClick={() => dialog.set('key')}>{t.enterKey}</button>,
  };
  return (
    <div class={`notice ${message.finish === 'failed' ? 'notice-error' : ''}`}>
      <Icon name="warning" />
      <p>
        {told.text} {told.detail && <span class="notice-detail">{told.detail}</span>}
      </p>
      <div class="notice-actions">
        {told.remedies.filter((remedy) => isLast || remedy !== 'continue').map((remedy) => buttons[remedy])}
      </div>
    </div>
  );
}

function tell(message: Message, settings: Settings, context: number, t: Strings, f: Format): Told | null {
  // DeepSeek's prefix completion goes on with the answer's text; thoughts alone cannot be continued.
  const goOn: readonly Remedy[] = message.content === '' ? ['retry'] : ['continue', 'retry'];
  switch (message.finish) {
    case 'stop':
      return message.content === '' ? { text: t.wasEmpty, remedies: ['retry'] } : null;
    case 'stopped':
      return { text: t.wasStopped, remedies: goOn };
    // An answer that is neither whole nor coming was left behind when the page went away.
    case null:
    case 'broken':
      return { text: message.content + message.reasoning === '' ? t.wasBrokenEmpty : t.wasBroken, remedies: goOn };
    case 'length': {
      const cause = lengthCause(message, settings, context);
      if (cause === 'context') return { text: t.atContext(f.count(context)), remedies: ['new', 'retry'] };
      if (cause === 'limit') return { text: t.atLimit(f.count(settings.maxTokens ?? 0)), remedies: goOn };
      return { text: t.atSomeLength, remedies: goOn };
    }
    case 'insufficient_system_resource':
      return { text: t.noResources, remedies: goOn };
    case 'tool_calls':
      return { text: t.calledTools, remedies: ['retry'] };
    case 'failed':
      return tellFailure(message, goOn, t);
  }
}

function tellFailure({ failure }: Message, goOn: readonly Remedy[], t: Strings): Told {
  const detail = failure?.message ?? '';
  switch (failure?.kind) {
    // The browser's own words for it ("Failed to fetch") add nothing.
    case 'unreachable':
      return { text: t.failedUnreachable, remedies: goOn };
    case 'unauthorised':
      return { text: t.failedUnauthorised, detail, remedies: ['key', 'retry'] };
    case 'busy':
      return { text: t.failedBusy, detail, remedies: goOn };
    case 'refused':
      return { text: t.failedRefused, detail, remedies: goOn };
    case 'server':
    case undefined:
      return { text: t.failedServer, detail, remedies: goOn };
  }
}
