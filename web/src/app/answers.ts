import type { ChatRequest } from '../api/client';
import { createStore } from '../base/store';
import { continued } from '../chat/continued';
import { newMessage, titleOf, type Conversation, type Message } from '../chat/conversation';
import { chatRequest } from '../chat/request';
import { Run, type Live, type Outcome } from '../chat/run';
import { addMessage, changeMessage, messageOf, pathTo, removeMessage, showSibling } from '../chat/tree';
import { currentStrings } from '../text/language';
import { change, conversationOf, fresh, keep, writeAside } from './library';
import { replaceShown } from './route';
import { checkServer, client, server } from './server';
import { announce, editing } from './ui';

interface Answering {
  conversation: string;
  run: Run;
  /** Settled when the outcome stands in the conversation. */
  settled: Promise<void>;
}

/** Answers that are coming, by the id of their message. */
export const answering = createStore<ReadonlyMap<string, Answering>>(new Map());

export function isAnswering(conversation: string): boolean {
  return [...answering.get().values()].some((answer) => answer.conversation === conversation);
}

/** Stops what comes for this conversation; done when all that came is in it. */
export async function stopAnswer(conversation: string): Promise<void> {
  const answers = [...answering.get().values()].filter((answer) => answer.conversation === conversation);
  for (const { run } of answers) run.stop();
  await Promise.all(answers.map(({ settled }) => settled));
}

/** Asks the model. Does nothing while an answer is coming, or for an empty text. */
export function send(id: string, text: string): void {
  const conversation = conversationOf(id);
  if (!conversation || text.trim() === '' || isAnswering(id)) return;
  const isFresh = fresh.get().id === id;
  askUnder(conversation, conversation.leaf, text);
  if (isFresh) replaceShown(id);
}

/**
 * A new wording of a message: a branch beside it. A user's message is sent, an answer only stands there. An answer that is
 * coming is stopped, here and where another one is asked for.
 */
export async function editMessage(id: string, message: Message, text: string): Promise<void> {
  if (text.trim() === '') return;
  editing.set(null);
  await stopAnswer(id);
  const conversation = conversationOf(id);
  if (!conversation) return;
  if (message.role === 'user') {
    askUnder(conversation, message.parent, text);
  } else {
    const edited = newMessage({ parent: message.parent, role: 'assistant', content: text, model: message.model, finish: 'stop' });
    keep(addMessage(conversation, edited));
  }
}

/** Another answer, beside this one; in its place if nothing came of it. */
export async function regenerate(id: string, { id: answer }: Message): Promise<void> {
  await stopAnswer(id);
  const conversation = conversationOf(id);
  // As it is now: what had come of it may have been added just before.
  const message = conversation && messageOf(conversation, answer);
  if (!message) return;
  const isEmpty = message.content === '' && message.reasoning === '';
  answerUnder(isEmpty ? removeMessage(conversation, message.id) : conversation, message.parent);
}

/** The model goes on where this answer ends. */
export function continueAnswer(id: string, message: Message): void {
  const conversation = conversationOf(id);
  if (!conversation || isAnswering(id)) return;
  const model = modelOf(conversation);
  const request = chatRequest(pathTo(conversation, message.id), conversation.settings, model);
  keep(changeMessage(conversation, message.id, { finish: null, failure: null }));
  start(id, message.id, request, (outcome) => continued(message, outcome));
}

export function switchVersion(id: string, message: Message, step: -1 | 1): void {
  change(id, (conversation) => showSibling(conversation, message, step));
}

/** The model that a conversation asks: the one chosen for it while the server has it, or else the server's first. */
export function modelOf(conversation: Conversation): string {
  const { models } = server.get();
  return models.includes(conversation.model) ? conversation.model : (models[0] ?? conversation.model);
}

function askUnder(conversation: Conversation, parent: string | null, text: string): void {
  const question = newMessage({ parent, role: 'user', content: text });
  const titled = conversation.title === '' ? { ...conversation, title: titleOf(text) } : conversation;
  answerUnder(addMessage(titled, question), question.id);
}

function answerUnder(conversation: Conversation, parent: string | null): void {
  const model = modelOf(conversation);
  const answer = newMessage({ parent, role: 'assistant', content: '', model });
  keep(addMessage(conversation, answer));
  const request = chatRequest(pathTo(conversation, parent), conversation.settings, model);
  start(conversation.id, answer.id, request, (outcome) => outcome);
}

function start(
  conversation: string,
  message: string,
  request: ChatRequest,
  result: (outcome: Outcome) => Partial<Message>,
): void {
  const run = new Run(client, request);
  const endAnnouncing = announcePhases(run);
  const endWriting = writeNowAndThen(conversation, message, run);
  const settled = run.outcome().then((outcome) => {
    endAnnouncing();
    endWriting();
    answering.update((now) => new Map([...now].filter(([id]) => id !== message)));
    change(conversation, (now) => changeMessage(now, message, result(outcome)));
    announceEnd(outcome);
    // The banner tells it, and asks again until the server is back.
    if (outcome.failure?.kind === 'unreachable') void checkServer();
  });
  answering.update((now) => new Map(now).set(message, { conversation, run, settled }));
}

/** The answer so far is on the disk, should the page go away; once a second, since each time writes the whole conversation. */
function writeNowAndThen(conversation: string, message: string, run: Run): () => void {
  let written: Live | null = null;
  const timer = window.setInterval(() => {
    const live = run.live.get();
    const now = conversationOf(conversation);
    const before = now && messageOf(now, message);
    if (live === written || !now || !before) return;
    written = live;
    const content = before.content + live.content;
    const reasoning = before.reasoning + live.reasoning;
    writeAside(changeMessage(now, message, { content, reasoning }));
  }, 1000);
  return () => clearInterval(timer);
}

function announcePhases(run: Run): () => void {
  const t = currentStrings();
  announce(t.announceWaiting);
  let phase: Live['phase'] = 'waiting';
  return run.live.subscribe(() => {
    const now = run.live.get().phase;
    if (now === phase) return;
    phase = now;
    if (phase === 'thinking') announce(t.announceThinking);
    if (phase === 'answering') announce(t.announceAnswering);
  });
}

function announceEnd({ finish }: Outcome): void {
  const t = currentStrings();
  if (finish === 'stopped') announce(t.announceStopped);
  else if (finish === 'broken' || finish === 'failed') announce(t.announceBroken);
  else announce(t.announceDone);
}
