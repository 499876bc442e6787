import { failureKinds, type FailureKind } from '../api/error';
import type { Usage } from '../api/chat-stream';
import { countOf, isFields, listOf, numberOf, oneOf, textOf } from '../base/decode';
import { newId } from '../base/id';
import { defaultSettings, readSettings, type Settings } from './settings';

export const finishes = [
  'stop',
  'length',
  'tool_calls',
  'insufficient_system_resource',
  'stopped',
  'broken',
  'failed',
] as const;

/**
 * How an answer ended. The first four are the server's words. stopped: by the user. broken: the stream ended in the middle,
 * or the page was closed. failed: an error, which `failure` tells.
 */
export type Finish = (typeof finishes)[number];

export interface Failure {
  kind: FailureKind;
  /** In the server's words; may be empty. */
  message: string;
}

/** Measured in the page, so the way through the network is in it. Milliseconds. */
export interface Timing {
  /** From sending to the first piece. */
  first: number;
  /** From the first piece to the last. */
  generating: number;
  /** From the first thought to the first word of the answer (or the end, where none came). 0 without thoughts. */
  thinking: number;
}

/** A message of the tree. Messages are never changed: a change is a new object, so what is drawn of the others can stay. */
export interface Message {
  id: string;
  /** The message that this one answers or follows; null for a first one. */
  parent: string | null;
  role: 'user' | 'assistant';
  content: string;
  reasoning: string;
  /** Unix time in milliseconds. */
  created: number;
  /** Which model answered; empty if it is not known, and for the user's messages. */
  model: string;
  /** null while the answer comes, and for the user's messages. */
  finish: Finish | null;
  failure: Failure | null;
  usage: Usage | null;
  timing: Timing | null;
}

/** A tree of messages: every edit and every new answer is a branch beside the old one. */
export interface Conversation {
  id: string;
  /** The beginning of the first question, until the user gives another one. */
  title: string;
  created: number;
  updated: number;
  /** The model to ask; empty for the server's first. */
  model: string;
  settings: Settings;
  /** Parents come before their children, siblings in the order in which they were made. */
  messages: readonly Message[];
  /** The last message of the branch that is shown; null if there are no messages. */
  leaf: string | null;
}

export function newConversation(settings: Settings = defaultSettings, model = ''): Conversation {
  const now = Date.now();
  return {
    id: newId(),
    title: '',
    created: now,
    updated: now,
    model,
    settings,
    messages: [],
    leaf: null,
  };
}

export function newMessage(fields: Pick<Message, 'parent' | 'role' | 'content'> & Partial<Message>): Message {
  return {
    id: newId(),
    reasoning: '',
    created: Date.now(),
    model: '',
    finish: null,
    failure: null,
    usage: null,
    timing: null,
    ...fields,
  };
}

/** The first line of a text, short enough for a list. */
export function titleOf(text: string): string {
  const line = text.trim().split('\n', 1)[0]?.replace(/\s+/g, ' ') ?? '';
  // By code points, so that no emoji is cut into halves.
  const letters = Array.from(line);
  return letters.length > 60 ? `${letters.slice(0, 59).join('').trimEnd()}…` : line;
}

// Generous, but bounded: a file may come from anybody.
const mostMessages = 20_000;
const goodId = /^[A-Za-z0-9_-]{1,64}$/;

function readFailure(value: unknown): Failure | null {
  if (!isFields(value)) return null;
  return { kind: oneOf(value['kind'], failureKinds, 'server'), message: textOf(value['message']) };
}

function readTiming(value: unknown): Timing | null {
  if (!isFields(value)) return null;
  return {
    first: countOf(value['first']),
    generating: countOf(value['generating']),
    thinking: countOf(value['thinking']),
  };
}

function readStoredUsage(value: unknown): Usage | null {
  if (!isFields(value)) return null;
  return {
    prompt: countOf(value['prompt']),
    cached: countOf(value['cached']),
    completion: countOf(value['completion']),
    reasoning: countOf(value['reasoning']),
  };
}

/** What keeps a value from being a conversation. */
export class Flaw {
  constructor(
    /** The field that is missing or wrong; empty where the whole is no object. */
    readonly field: string,
    /** The number of the message, from 1; null if it is the conversation's own field. */
    readonly message: number | null = null,
  ) {}
}

/**
 * A conversation from a value of unknown form (a file, the browser's store). Fields that only decorate become defaults where
 * they are wrong. A flaw if there is no list of messages, or a message has no id of its own, no role, no text, or a parent that does not
 * come before it (which also rules out circles).
 */
export function readConversation(value: unknown): Conversation | Flaw {
  if (!isFields(value)) return new Flaw('');
  const items = value['messages'];
  if (!Array.isArray(items) || items.length > mostMessages) return new Flaw('messages');

  const messages: Message[] = [];
  const ids = new Set<string>();
  for (const [index, item] of listOf(items).entries()) {
    const message = readMessage(item, ids);
    if (typeof message === 'string') return new Flaw(message, index + 1);
    messages.push(message);
    ids.add(message.id);
  }

  const id = textOf(value['id']);
  const leaf = textOf(value['leaf']);
  const created = numberOf(value['created'], Date.now());
  const firstQuestion = messages.find((message) => message.role === 'user');
  return {
    id: goodId.test(id) ? id : newId(),
    title: textOf(value['title']).slice(0, 200) || titleOf(firstQuestion?.content ?? ''),
    created,
    updated: numberOf(value['updated'], created),
    model: textOf(value['model']),
    settings: readSettings(value['settings']),
    messages,
    leaf: ids.has(leaf) ? leaf : (messages.at(-1)?.id ?? null),
  };
}

/** A message, or the name of its wrong field. `earlier`: the ids before it. */
function readMessage(item: unknown, earlier: ReadonlySet<string>): Message | string {
  if (!isFields(item)) return '';
  const id = textOf(item['id']);
  if (!goodId.test(id) || earlier.has(id)) return 'id';
  const role = oneOf(item['role'], ['user', 'assistant'] as const, null);
  if (role === null) return 'role';
  if (typeof item['content'] !== 'string') return 'content';
  const parent = item['parent'] ?? null;
  if (parent !== null && (typeof parent !== 'string' || !earlier.has(parent))) return 'parent';
  return {
    id,
    parent,
    role,
    content: item['content'],
    reasoning: textOf(item['reasoning']),
    created: numberOf(item['created'], Date.now()),
    model: textOf(item['model']),
    // An answer that was still coming when it was written down was cut off by that.
    finish: role === 'user' ? null : oneOf(item['finish'], finishes, 'broken'),
    failure: readFailure(item['failure']),
    usage: readStoredUsage(item['usage']),
    timing: readTiming(item['timing']),
  };
}
