import { createClient } from '../api/client';
import { ApiError } from '../api/error';
import { createStore } from '../base/store';
import { apiKey } from '../storage/key';
import { currentStrings } from '../text/language';
import { announce } from './ui';

export const client = createClient(() => apiKey.get().key);

/** What is known of the server. */
export interface ServerState {
  reach: 'asking' | 'there' | 'unreachable' | 'unauthorised' | 'failing';
  /** Its sentence, where `reach` is an error. */
  message: string;
  models: readonly string[];
  /** Tokens; 0 if it is not known. */
  context: number;
  /** Whether the model's template has thoughts; null if it is not known. */
  thinking: boolean | null;
  /** When it is asked again by itself (performance.now()); 0 if it is not. */
  retryAt: number;
}

export const server = createStore<ServerState>({
  reach: 'asking',
  message: '',
  models: [],
  context: 0,
  thinking: null,
  retryAt: 0,
});

const longestWait = 30_000;
let wait = 1000;
let timer = 0;
let asking: Promise<void> | null = null;

/** Asks which models there are, and keeps asking, ever more slowly, while the server cannot be reached. */
export function checkServer(): Promise<void> {
  asking ??= ask().finally(() => {
    asking = null;
  });
  return asking;
}

async function ask(): Promise<void> {
  clearTimeout(timer);
  try {
    const models = await client.models();
    wait = 1000;
    if (['unreachable', 'failing'].includes(server.get().reach)) announce(currentStrings().reachedAgain);
    server.update((now) => ({ ...now, reach: 'there', message: '', models, retryAt: 0 }));
  } catch (error) {
    const kind = error instanceof ApiError ? error.kind : 'server';
    const message = error instanceof ApiError ? error.message : '';
    if (kind === 'unauthorised') {
      server.update((now) => ({ ...now, reach: 'unauthorised', message, retryAt: 0 }));
      return;
    }
    wait = Math.min(longestWait, wait * 2);
    timer = window.setTimeout(() => void checkServer(), wait);
    const reach = kind === 'unreachable' ? 'unreachable' : 'failing';
    server.update((now) => ({ ...now, reach, message, retryAt: performance.now() + wait }));
    return;
  }
  // Not every server with this API has a status: without it the page knows neither context nor thoughts.
  const status = await client.status().catch(() => null);
  if (status) server.update((now) => ({ ...now, context: status.context, thinking: status.thinking }));
}

/** Asks now, and again when the machine comes back to the network. */
export function followServer(): void {
  void checkServer();
  window.addEventListener('online', () => void checkServer());
}
