import type { VNode } from 'preact';
import { dialog } from '../app/ui';
import { useText } from '../text/language';
import { Modal } from './modal';
import { shortcuts } from './shortcuts';

export function HelpDialog(): VNode {
  const { t } = useText();
  return (
    <Modal title={t.help} onClose={() => dialog.set(null)}>
      <dl class="shortcuts">
        {shortcuts.map(({ keys, says }) => (
          <div key={says}>
            <dt>
              {keys.map((key) => (
                <kbd key={key}>{key}</kbd>
              ))}
            </dt>
            <dd>{t[says]}</dd>
          </div>
        ))}
      </dl>
    </Modal>
  );
}
