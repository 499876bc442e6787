import type { VNode } from 'preact';
import { checkServer, server } from '../app/server';
import { dialog } from '../app/ui';
import { useStore } from '../base/use-store';
import { useText } from '../text/language';
import { Icon } from './icons';
import { useClock } from './use-clock';

/** Says above everything why nothing can be asked now. */
export function Banner(): VNode | null {
  const { t, f } = useText();
  const { reach, message, retryAt } = useStore(server);
  const isLost = reach === 'unreachable' || reach === 'failing';
  useClock(isLost ? 500 : 0);
  if (reach === 'unauthorised') {
    return (
      <div class="banner" role="alert">
        <Icon name="warning" />
        <p>{t.needsKey}</p>
        <button type="button" onClick={() => dialog.set('key')}>
          {t.enterKey}
        </button>
      </div>
    );
  }
  if (!isLost) return null;
  const rest = Math.max(0, retryAt - performance.now());
  return (
    <div class="banner" role="alert">
      <Icon name="warning" />
      <p>
        {reach === 'unreachable' ? t.unreachable : `${t.serverFails} ${message}`}{' '}
        {/* Not for screen readers, which would read every second of it. */}
        <span aria-hidden="true">{t.unreachableNote(f.countdown(rest))}</span>
      </p>
      <button type="button" onClick={() => void checkServer()}>
        {t.tryNow}
      </button>
    </div>
  );
}
