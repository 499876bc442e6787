import { useStore } from '../base/use-store';
import type { Conversation } from '../chat/conversation';
import { conversationOf, fresh, library } from './library';
import { shownId } from './route';

/** The conversation that is shown; the fresh one if the address names none, or one that is not there. */
export function currentConversation(): Conversation {
  const id = shownId.get();
  return (id === null ? null : conversationOf(id)) ?? fresh.get();
}

export function useCurrentConversation(): Conversation {
  useStore(library);
  useStore(fresh);
  useStore(shownId);
  return currentConversation();
}
