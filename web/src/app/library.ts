import { newConversation, type Conversation } from '../chat/conversation';
import { createStore } from '../base/store';
import { openConversationStore, type ConversationStore } from '../storage/conversations';
import { currentStrings } from '../text/language';
import { toast } from './ui';

/** All conversations that are kept, the one that was changed last first; null until they have been read. */
export const library = createStore<readonly Conversation[] | null>(null);
/** The conversation that has no message yet. It is kept from its first message on. */
export const fresh = createStore<Conversation>(newConversation());

let store: ConversationStore | null = null;
let complained = false;
/** Tells the other tabs which conversation has changed. */
const tabs = 'BroadcastChannel' in globalThis ? new BroadcastChannel('fathom') : null;

const byUpdated = (a: Conversation, b: Conversation): number => b.updated - a.updated;

/** `isBusy`: an answer comes for this conversation here, so what another tab wrote of it is not taken. */
export async function openLibrary(isBusy: (id: string) => boolean): Promise<void> {
  try {
    store = await openConversationStore();
    library.set((await store.all()).sort(byUpdated));
  } catch {
    store = null;
    library.set([]);
    toast(currentStrings().notKept);
    return;
  }
  tabs?.addEventListener('message', async ({ data }: MessageEvent<unknown>) => {
    if (typeof data !== 'string' || isBusy(data) || !store) return;
    const changed = await store.one(data).catch(() => null);
    library.update((now) => {
      const others = (now ?? []).filter((other) => other.id !== data);
      return changed ? [...others, changed].sort(byUpdated) : others;
    });
  });
}

/** A conversation that is kept, or the fresh one. */
export function conversationOf(id: string): Conversation | null {
  if (fresh.get().id === id) return fresh.get();
  return library.get()?.find((conversation) => conversation.id === id) ?? null;
}

/** Adds conversations or puts them in the place of those with their ids. The fresh one is replaced when it is kept. */
export function keep(...kept: readonly Conversation[]): void {
  const ids = new Set(kept.map((conversation) => conversation.id));
  const others = (library.get() ?? []).filter((other) => !ids.has(other.id));
  library.set([...others, ...kept].sort(byUpdated));
  if (ids.has(fresh.get().id)) fresh.set(newConversation());
  for (const conversation of kept) void write(conversation);
}

/** Changes a conversation where it is; does nothing if it has been removed. */
export function change(id: string, how: (now: Conversation) => Conversation): void {
  const conversation = conversationOf(id);
  if (!conversation) return;
  const next = how(conversation);
  if (next === conversation) return;
  if (fresh.get().id === id && next.messages.length === 0) fresh.set(next);
  else keep(next);
}

/** Returns what was removed, for putting it back. */
export function remove(id: string): Conversation | null {
  const conversation = conversationOf(id);
  if (!conversation) return null;
  library.update((now) => (now ?? []).filter((other) => other.id !== id));
  void attempt(async (open) => {
    await open.remove(id);
    tabs?.postMessage(id);
  });
  return conversation;
}

/** Writes a state that is not final (an answer that is coming) without showing it: it is there if the page goes away. */
export function writeAside(conversation: Conversation): void {
  void write(conversation);
}

async function write(conversation: Conversation): Promise<void> {
  await attempt(async (open) => {
    await open.put(conversation);
    // Another tab would take an answer that is still coming here for one that broke off.
    const isWhole = conversation.messages.every(({ role, finish }) => role === 'user' || finish !== null);
    if (isWhole) tabs?.postMessage(conversation.id);
  });
}

async function attempt(work: (open: ConversationStore) => Promise<void>): Promise<void> {
  if (!store) return;
  try {
    await work(store);
    complained = false;
  } catch {
    // One sentence, not one for each second of an answer.
    if (!complained) toast(currentStrings().notSaved);
    complained = true;
  }
}
