import { preferences } from '../storage/preferences';

/** Keeps the document's theme as the preferences say; without a choice the style sheet follows the system. */
export function followTheme(): void {
  const apply = (): void => {
    const { theme } = preferences.get();
    if (theme === 'system') delete document.documentElement.dataset['theme'];
    else document.documentElement.dataset['theme'] = theme;
  };
  apply();
  preferences.subscribe(apply);
}
