import { preferences } from '../storage/preferences';
import { useSelected } from '../base/use-store';
import { formats, type Format } from './format';
import { strings, type Language, type Strings } from './strings';

/** The chosen language, or the first of the browser's that the page speaks. */
function currentLanguage(): Language {
  const { language } = preferences.get();
  if (language !== 'auto') return language;
  for (const wanted of navigator.languages) {
    if (/^zh\b/i.test(wanted)) return 'zh';
    if (/^en\b/i.test(wanted)) return 'en';
  }
  return 'en';
}

/** Words for code outside of components. */
export function currentStrings(): Strings {
  return strings[currentLanguage()];
}

export function currentFormat(): Format {
  return formats[currentLanguage()];
}

/** Words, numbers and the language's name for a component, which is drawn again when another one is chosen. */
export function useText(): { t: Strings; f: Format; language: Language } {
  const language = useSelected(preferences, currentLanguage);
  return { t: strings[language], f: formats[language], language };
}

/** Keeps the document's language up to date: screen readers and line breaking go by it. */
export function followLanguage(): void {
  const apply = (): void => {
    document.documentElement.lang = currentLanguage() === 'zh' ? 'zh-CN' : 'en';
  };
  apply();
  preferences.subscribe(apply);
}
