import type { TargetedSubmitEvent, VNode } from 'preact';
import { useState } from 'preact/hooks';
import { checkServer, server } from '../app/server';
import { dialog } from '../app/ui';
import { apiKey, setApiKey, type ApiKey } from '../storage/key';
import { useText } from '../text/language';
import { Choice } from './choice';
import { Modal } from './modal';

/** Asks for the API key, tries it, and stays open if the server does not take it. */
export function KeyDialog(): VNode {
  const { t } = useText();
  const [key, setKey] = useState('');
  const [keep, setKeep] = useState<ApiKey['keep']>(apiKey.get().keep);
  const [isRefused, setRefused] = useState(false);
  const [isBusy, setBusy] = useState(false);
  const submit = async (event: TargetedSubmitEvent<HTMLFormElement>): Promise<void> => {
    event.preventDefault();
    if (key.trim() === '' || isBusy) return;
    setBusy(true);
    setApiKey({ key: key.trim(), keep });
    await checkServer();
    setBusy(false);
    if (server.get().reach !== 'unauthorised') {
      dialog.set(null);
      return;
    }
    setRefused(true);
    setApiKey({ key: '', keep });
  };
  return (
    <Modal title={t.apiKey} onClose={() => dialog.set(null)}>
      <form class="key-form" onSubmit={(event) => void submit(event)}>
        <p>
          {t.needsKey} {t.apiKeyNote}
        </p>
        <label class="field">
          <span class="field-name">{t.apiKey}</span>
          <input
            type="password"
            autocomplete="off"
            autofocus
            value={key}
            aria-invalid={isRefused}
            aria-describedby="key-error"
            onInput={(event) => {
              setKey(event.currentTarget.value);
              setRefused(false);
            }}
          />
        </label>
        <p id="key-error" class="error" role="alert">
          {isRefused && t.keyRefused}
        </p>
        <Choice
          name={t.keepWhere}
          options={[
            ['session', t.keepForTab],
            ['local', t.keepInBrowser],
          ]}
          value={keep}
          onChange={setKeep}
        />
        <button type="submit" class="button button-main" disabled={key.trim() === '' || isBusy}>
          {t.useKey}
        </button>
      </form>
    </Modal>
  );
}
