import { isFields, parseJson } from '../base/decode';
import { Flaw, readConversation, type Conversation, type Message } from './conversation';
import { shownPath } from './tree';

const format = 'fathom-conversations';
const version = 1;

/** The file that importing understands. */
export function exportJson(conversations: readonly Conversation[]): string {
  return `${JSON.stringify({ format, version, exported: new Date().toISOString(), conversations }, null, 2)}\n`;
}

/** Why something was not imported. `conversation`: its number in the file, from 1. */
export type Problem =
  | { what: 'not-json' | 'not-an-export' | 'no-list' }
  | { what: 'version'; version: string }
  | { what: 'conversation'; conversation: number; flaw: Flaw };

export interface Imported {
  conversations: Conversation[];
  problems: Problem[];
}

/** Takes what is good of a file and says what is not. Never throws. */
export function importJson(text: string): Imported {
  const nothing = (problem: Problem): Imported => ({ conversations: [], problems: [problem] });
  const body = parseJson(text.replace(/^\uFEFF/, ''));
  if (body === undefined) return nothing({ what: 'not-json' });
  if (!isFields(body) || body['format'] !== format) return nothing({ what: 'not-an-export' });
  if (body['version'] !== version) return nothing({ what: 'version', version: JSON.stringify(body['version'] ?? null) });
  if (!Array.isArray(body['conversations'])) return nothing({ what: 'no-list' });

  const imported: Imported = { conversations: [], problems: [] };
  for (const [index, item] of body['conversations'].entries()) {
    const read = readConversation(item);
    if (read instanceof Flaw) imported.problems.push({ what: 'conversation', conversation: index + 1, flaw: read });
    else imported.conversations.push(read);
  }
  return imported;
}

function exportMessage(message: Message, names: { user: string; assistant: string; thoughts: string }): string {
  const parts = [`## ${message.role === 'user' ? names.user : message.model || names.assistant}`];
  if (message.reasoning.trim() !== '') {
    const quoted = message.reasoning.trim().split('\n').map((line) => `> ${line}`.trimEnd());
    parts.push(`> **${names.thoughts}**\n>\n${quoted.join('\n')}`);
  }
  if (message.content.trim() !== '') parts.push(message.content.trim());
  return parts.join('\n\n');
}

/** The branch that is shown, as a Markdown document. */
export function exportMarkdown(
  conversation: Conversation,
  names: { user: string; assistant: string; thoughts: string; system: string },
): string {
  const parts = [`# ${conversation.title}`];
  if (conversation.settings.system.trim() !== '') {
    parts.push(`## ${names.system}\n\n${conversation.settings.system.trim()}`);
  }
  for (const message of shownPath(conversation)) parts.push(exportMessage(message, names));
  return `${parts.join('\n\n')}\n`;
}

/** A name that every file system takes. */
export function fileName(title: string, extension: string): string {
  const stem = title
    .normalize('NFC')
    .replace(/[^\p{L}\p{N}]+/gu, '-')
    .replace(/^-+|-+$/g, '')
    .slice(0, 48);
  return `${stem || 'conversation'}.${extension}`;
}
