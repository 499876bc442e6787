import { parseJson } from '../base/decode';

/** The browser's small stores, which throw where the user forbids them: then nothing is kept, and nothing breaks. */
export function readLocal(storage: 'local' | 'session', name: string): string | null {
  try {
    return (storage === 'local' ? localStorage : sessionStorage).getItem(name);
  } catch {
    return null;
  }
}

/** null removes. */
export function writeLocal(storage: 'local' | 'session', name: string, value: string | null): void {
  try {
    const store = storage === 'local' ? localStorage : sessionStorage;
    if (value === null) store.removeItem(name);
    else store.setItem(name, value);
  } catch {
    // Forbidden or full: it holds for this visit only.
  }
}

export function readLocalJson(name: string): unknown {
  const text = readLocal('local', name);
  return text === null ? undefined : parseJson(text);
}
