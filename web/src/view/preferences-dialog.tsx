import type { VNode } from 'preact';
import { checkServer } from '../app/server';
import { exportAll, importFiles } from '../app/transfer';
import { dialog } from '../app/ui';
import { library } from '../app/library';
import { useStore } from '../base/use-store';
import { apiKey, setApiKey } from '../storage/key';
import { languageChoices, prefer, preferences, themes } from '../storage/preferences';
import { useText } from '../text/language';
import { Choice } from './choice';
import { Modal } from './modal';

/** What holds for this browser and not for one conversation. */
export function PreferencesDialog(): VNode {
  const { t } = useText();
  const { theme, language } = useStore(preferences);
  const { key } = useStore(apiKey);
  const conversations = useStore(library);
  const themeNames = { system: t.themeSystem, light: t.themeLight, dark: t.themeDark };
  // Each language in its own words: who landed in the wrong one must find the way out.
  const languageNames = { auto: t.languageAuto, en: 'English', zh: '中文' };
  return (
    <Modal title={t.preferences} onClose={() => dialog.set(null)}>
      <Choice
        name={t.appearance}
        options={themes.map((choice) => [choice, themeNames[choice]])}
        value={theme}
        onChange={(chosen) => prefer({ theme: chosen })}
      />
      <Choice
        name={t.language}
        options={languageChoices.map((choice) => [choice, languageNames[choice]])}
        value={language}
        onChange={(chosen) => prefer({ language: chosen })}
      />
      <section class="field">
        <h3 class="field-name">{t.apiKey}</h3>
        <p>{key === '' ? t.noKey : t.keySaved}</p>
        <div class="button-row">
          <button type="button" class="button" onClick={() => dialog.set('key')}>
            {t.changeKey}
          </button>
          {key !== '' && (
            <button
              type="button"
              class="button"
              onClick={() => {
                setApiKey({ ...apiKey.get(), key: '' });
                void checkServer();
              }}
            >
              {t.forgetKey}
            </button>
          )}
        </div>
      </section>
      <section class="field">
        <h3 class="field-name">{t.data}</h3>
        <div class="button-row">
          <button type="button" class="button" disabled={!conversations?.length} onClick={exportAll}>
            {t.exportAll}
          </button>
          <button type="button" class="button" onClick={importFiles}>
            {t.importFile}
          </button>
        </div>
      </section>
      <p class="small-print">
        <a href="licenses.txt" target="_blank" rel="noopener">
          {t.licenses}
        </a>
      </p>
    </Modal>
  );
}
