import { describe, expect, it } from 'vitest';
import { newConversation, newMessage, type Conversation } from '../../src/chat/conversation';
import {
  addMessage,
  changeMessage,
  messageOf,
  pathTo,
  removeMessage,
  showBranch,
  showSibling,
  shownPath,
  siblings,
} from '../../src/chat/tree';

/** q1 → a1, a2 (with q2 → a3 under it); q1b is another wording of q1. */
function tree(): Conversation {
  const parents: [id: string, parent: string | null][] = [
    ['q1', null],
    ['a1', 'q1'],
    ['a2', 'q1'],
    ['q2', 'a2'],
    ['a3', 'q2'],
    ['q1b', null],
  ];
  return parents.reduce<Conversation>(
    (conversation, [id, parent]) =>
      addMessage(conversation, newMessage({ id, parent, role: id.startsWith('q') ? 'user' : 'assistant', content: id })),
    newConversation(),
  );
}

const ids = (messages: readonly { id: string }[]): string => messages.map(({ id }) => id).join(' ');

describe('the tree of messages', () => {
  it('shows what was added last', () => {
    expect(ids(shownPath(tree()))).toBe('q1b');
  });

  it('walks from the first message to any', () => {
    expect(ids(pathTo(tree(), 'a3'))).toBe('q1 a2 q2 a3');
    expect(pathTo(tree(), null)).toEqual([]);
    expect(pathTo(tree(), 'nobody')).toEqual([]);
  });

  it('knows who stands beside whom', () => {
    const conversation = tree();
    expect(ids(siblings(conversation, messageOf(conversation, 'a1')!))).toBe('a1 a2');
    expect(ids(siblings(conversation, messageOf(conversation, 'q1')!))).toBe('q1 q1b');
  });

  it('shows a branch down to its newest message', () => {
    expect(ids(shownPath(showBranch(tree(), 'q1')))).toBe('q1 a2 q2 a3');
    expect(ids(shownPath(showBranch(tree(), 'a1')))).toBe('q1 a1');
  });

  it('steps between siblings, not beyond them', () => {
    const conversation = tree();
    const q1b = messageOf(conversation, 'q1b')!;
    expect(ids(shownPath(showSibling(conversation, q1b, -1)))).toBe('q1 a2 q2 a3');
    expect(showSibling(conversation, q1b, 1)).toBe(conversation);
  });

  it('changes one message and leaves the others the same objects', () => {
    const before = tree();
    const after = changeMessage(before, 'a1', { content: 'new' });
    expect(messageOf(after, 'a1')?.content).toBe('new');
    expect(messageOf(after, 'a2')).toBe(messageOf(before, 'a2'));
    expect(messageOf(before, 'a1')?.content).toBe('a1');
  });

  it('removes a message with all that follow from it', () => {
    const conversation = showBranch(tree(), 'a2');
    const after = removeMessage(conversation, 'a2');
    expect(ids(after.messages)).toBe('q1 a1 q1b');
    expect(ids(shownPath(after))).toBe('q1 a1');
  });

  it('shows the parent when the only child goes', () => {
    expect(ids(shownPath(removeMessage(showBranch(tree(), 'a3'), 'a3')))).toBe('q1 a2 q2');
  });

  it('leaves the view alone when something out of sight goes', () => {
    expect(ids(shownPath(removeMessage(tree(), 'q1')))).toBe('q1b');
    const conversation = tree();
    expect(removeMessage(conversation, 'nobody')).toBe(conversation);
  });

  it('is empty when the last message goes', () => {
    const conversation = addMessage(newConversation(), newMessage({ id: 'a', parent: null, role: 'user', content: '' }));
    expect(removeMessage(conversation, 'a')).toMatchObject({ messages: [], leaf: null });
  });
});
