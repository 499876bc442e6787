import type { Conversation, Message } from './conversation';

/** The message with this id. */
export function messageOf(conversation: Conversation, id: string | null): Message | null {
  return conversation.messages.find((message) => message.id === id) ?? null;
}

/** From the first message of the shown branch to its last. */
export function shownPath(conversation: Conversation): Message[] {
  return pathTo(conversation, conversation.leaf);
}

/** From the first message down to this one. */
export function pathTo(conversation: Conversation, id: string | null): Message[] {
  const byId = new Map(conversation.messages.map((message) => [message.id, message]));
  const path: Message[] = [];
  let at = id === null ? undefined : byId.get(id);
  while (at) {
    path.push(at);
    at = at.parent === null ? undefined : byId.get(at.parent);
  }
  return path.reverse();
}

/** The message and those that stand beside it: other wordings of a question, other answers to it. Oldest first. */
export function siblings(conversation: Conversation, message: Message): Message[] {
  return conversation.messages.filter((other) => other.parent === message.parent);
}

/** Shows the branch of this message: from it down, the newest message each time. */
export function showBranch(conversation: Conversation, id: string): Conversation {
  const newestChild = new Map<string, string>();
  for (const message of conversation.messages) {
    if (message.parent !== null) newestChild.set(message.parent, message.id);
  }
  let leaf = id;
  for (let child: string | undefined = id; child !== undefined; child = newestChild.get(leaf)) leaf = child;
  return { ...conversation, leaf };
}

/** Shows the sibling `step` places further; the conversation as it is if there is none. */
export function showSibling(conversation: Conversation, message: Message, step: -1 | 1): Conversation {
  const all = siblings(conversation, message);
  const next = all[all.findIndex((other) => other.id === message.id) + step];
  return next ? showBranch(conversation, next.id) : conversation;
}

/** Adds a message, whose parent is in the conversation, and shows it. */
export function addMessage(conversation: Conversation, message: Message): Conversation {
  return {
    ...conversation,
    messages: [...conversation.messages, message],
    leaf: message.id,
    updated: message.created,
  };
}

export function changeMessage(conversation: Conversation, id: string, change: Partial<Message>): Conversation {
  return {
    ...conversation,
    messages: conversation.messages.map((message) => (message.id === id ? { ...message, ...change } : message)),
  };
}

/** Removes a message and all that follow from it. If it was shown, its nearest sibling is, or else its parent. */
export function removeMessage(conversation: Conversation, id: string): Conversation {
  const message = messageOf(conversation, id);
  if (!message) return conversation;
  const gone = new Set([id]);
  for (const other of conversation.messages) {
    if (other.parent !== null && gone.has(other.parent)) gone.add(other.id);
  }
  const all = siblings(conversation, message);
  const place = all.findIndex((other) => other.id === id);
  const beside = all[place - 1] ?? all[place + 1];
  const rest = { ...conversation, messages: conversation.messages.filter((other) => !gone.has(other.id)) };
  if (conversation.leaf === null || !gone.has(conversation.leaf)) return rest;
  return beside ? showBranch(rest, beside.id) : { ...rest, leaf: message.parent };
}
