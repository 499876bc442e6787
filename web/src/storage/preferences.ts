import { fieldsOf, oneOf } from '../base/decode';
import { createStore } from '../base/store';
import { readLocalJson, writeLocal } from './local';

// public/theme.js reads this entry too, before the page is drawn.
const name = 'fathom.preferences';

export const themes = ['system', 'light', 'dark'] as const;
export const languageChoices = ['auto', 'en', 'zh'] as const;

/** What a user chose for this browser. */
export interface Preferences {
  theme: (typeof themes)[number];
  language: (typeof languageChoices)[number];
  /** Whether the list of conversations stands beside them, where there is room. */
  sidebar: boolean;
}

function read(): Preferences {
  const fields = fieldsOf(readLocalJson(name));
  return {
    theme: oneOf(fields['theme'], themes, 'system'),
    language: oneOf(fields['language'], languageChoices, 'auto'),
    sidebar: fields['sidebar'] !== false,
  };
}

export const preferences = createStore<Preferences>(read());

export function prefer(change: Partial<Preferences>): void {
  preferences.update((now) => ({ ...now, ...change }));
  writeLocal('local', name, JSON.stringify(preferences.get()));
}
