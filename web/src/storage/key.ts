import { createStore, type Store } from '../base/store';
import { readLocal, writeLocal } from './local';

const name = 'fathom.key';

/** The API key and where it is kept: until the tab closes, or in this browser. */
export interface ApiKey {
  key: string;
  keep: 'session' | 'local';
}

export const apiKey: Store<ApiKey> = createStore(read());

function read(): ApiKey {
  const local = readLocal('local', name);
  if (local) return { key: local, keep: 'local' };
  return { key: readLocal('session', name) ?? '', keep: 'session' };
}

/** An empty key forgets it. It never stands in both places. */
export function setApiKey(next: ApiKey): void {
  writeLocal('session', name, next.keep === 'session' && next.key !== '' ? next.key : null);
  writeLocal('local', name, next.keep === 'local' && next.key !== '' ? next.key : null);
  apiKey.set(next);
}
