import { createStore } from '../base/store';
import { fresh } from './library';

/** The id of the conversation that the address names (#/c/ID); null for a new one. */
export const shownId = createStore<string | null>(readHash());

function readHash(): string | null {
  return /^#\/c\/([A-Za-z0-9_-]{1,64})$/.exec(location.hash)?.[1] ?? null;
}

export function addressOf(id: string): string {
  return `#/c/${id}`;
}

/** null, or the id of the fresh one, for a new conversation. */
export function show(id: string | null): void {
  const hash = id === null || id === fresh.get().id ? '#/' : addressOf(id);
  if (location.hash !== hash) history.pushState(null, '', hash);
  shownId.set(readHash());
}

/** The conversation got its first message, or its id is gone: the address says so without a step in the history. */
export function replaceShown(id: string | null): void {
  history.replaceState(null, '', id === null ? '#/' : addressOf(id));
  shownId.set(readHash());
}

export function followRoute(): void {
  const read = (): void => shownId.set(readHash());
  window.addEventListener('hashchange', read);
  window.addEventListener('popstate', read);
}
