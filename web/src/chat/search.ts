import type { Conversation } from './conversation';

export interface Found {
  conversation: Conversation;
  /** The surroundings of the place that matched; empty if the title did. */
  excerpt: string;
}

const before = 24;
const after = 64;

/** Conversations whose title or messages hold the text, in any case of letters, in the order given. */
export function search(conversations: readonly Conversation[], text: string): Found[] {
  const wanted = text.trim().toLowerCase();
  if (wanted === '') return conversations.map((conversation) => ({ conversation, excerpt: '' }));
  const found: Found[] = [];
  for (const conversation of conversations) {
    if (conversation.title.toLowerCase().includes(wanted)) {
      found.push({ conversation, excerpt: '' });
      continue;
    }
    for (const { content } of conversation.messages) {
      const place = content.toLowerCase().indexOf(wanted);
      if (place < 0) continue;
      const from = Math.max(0, place - before);
      const cut = content.slice(from, place + wanted.length + after).replace(/\s+/g, ' ');
      found.push({ conversation, excerpt: from > 0 ? `…${cut}` : cut });
      break;
    }
  }
  return found;
}
