import { describe, expect, it } from 'vitest';
import { Flaw, newConversation, newMessage, readConversation, titleOf, type Conversation } from '../../src/chat/conversation';
import { exportJson, exportMarkdown, fileName, importJson } from '../../src/chat/exchange';
import { defaultSettings } from '../../src/chat/settings';
import { addMessage } from '../../src/chat/tree';

function sample(): Conversation {
  const question = newMessage({ id: 'q', parent: null, role: 'user', content: 'What is 17 + 25?' });
  const answer = newMessage({
    id: 'a',
    parent: 'q',
    role: 'assistant',
    content: '17 + 25 = 42.',
    reasoning: 'Units first.\nThen tens.',
    model: 'fathom-tiny',
    finish: 'stop',
    usage: { prompt: 8, cached: 4, completion: 20, reasoning: 9 },
    timing: { first: 80, generating: 400, thinking: 200 },
  });
  const empty = {
    ...newConversation({ ...defaultSettings, system: 'Be brief.', temperature: 0.6, stop: ['END'] }),
    title: 'A sum',
  };
  return addMessage(addMessage(empty, question), answer);
}

const wrap = (...conversations: unknown[]): string =>
  JSON.stringify({ format: 'fathom-conversations', version: 1, conversations });
const message = (fields: object): object => ({ id: 'm', parent: null, role: 'user', content: 'x', ...fields });

describe('export and import', () => {
  it('brings back what was written', () => {
    const conversation = sample();
    expect(importJson(exportJson([conversation]))).toEqual({ conversations: [conversation], problems: [] });
  });

  it('takes a byte order mark', () => {
    expect(importJson(`\uFEFF${exportJson([sample()])}`).conversations).toHaveLength(1);
  });

  it.each([
    ['', 'not-json'],
    ['{', 'not-json'],
    ['null', 'not-an-export'],
    ['[]', 'not-an-export'],
    ['"text"', 'not-an-export'],
    ['{"conversations":[]}', 'not-an-export'],
    ['{"format":"fathom-conversations","version":2,"conversations":[]}', 'version'],
    ['{"format":"fathom-conversations","conversations":[]}', 'version'],
    ['{"format":"fathom-conversations","version":1}', 'no-list'],
    ['{"format":"fathom-conversations","version":1,"conversations":{}}', 'no-list'],
    ['['.repeat(100_000), 'not-json'],
  ])('says what is wrong with %.40s', (text, what) => {
    expect(importJson(text)).toMatchObject({ conversations: [], problems: [{ what }] });
  });

  it.each<[unknown, string, number | null]>([
    [null, '', null],
    [[], '', null],
    ['x', '', null],
    [{}, 'messages', null],
    [{ messages: {} }, 'messages', null],
    [{ messages: [null] }, '', 1],
    [{ messages: [message({ id: 7 })] }, 'id', 1],
    [{ messages: [message({ id: '__proto__ x' })] }, 'id', 1],
    [{ messages: [message({}), message({})] }, 'id', 2],
    [{ messages: [message({ role: 'system' })] }, 'role', 1],
    [{ messages: [message({ content: null })] }, 'content', 1],
    [{ messages: [message({ content: ['x'] })] }, 'content', 1],
    [{ messages: [message({ parent: 'm' })] }, 'parent', 1],
    [{ messages: [message({ parent: 'n' }), message({ id: 'n', parent: 'm' })] }, 'parent', 1],
    [{ messages: [message({ parent: 7 })] }, 'parent', 1],
  ])('names the flaw of %j', (conversation, field, number) => {
    expect(readConversation(conversation)).toEqual(new Flaw(field, number));
  });

  it('takes the good conversations of a file and names the others', () => {
    const imported = importJson(wrap(sample(), { messages: 1 }, { messages: [message({})] }));
    expect(imported.conversations).toHaveLength(2);
    expect(imported.problems).toEqual([{ what: 'conversation', conversation: 2, flaw: new Flaw('messages') }]);
  });

  it('gives what only decorates its default', () => {
    const read = readConversation({
      id: '../../etc',
      title: 7,
      leaf: 'nobody',
      settings: { temperature: 99, topP: 'x', seed: 1.5, stop: ['a', '', 7], thinking: 'maybe', system: [] },
      messages: [message({ created: 'yesterday' }), message({ id: 'n', parent: 'm', role: 'assistant', finish: 'never', usage: 3, failure: [], timing: {} })],
    });
    expect(read).toMatchObject({
      title: 'x',
      leaf: 'n',
      settings: { ...defaultSettings, temperature: 2, seed: 2, stop: ['a'] },
      messages: [{ finish: null }, { finish: 'broken', usage: null, failure: null, timing: { first: 0 } }],
    });
    expect((read as Conversation).id).toMatch(/^[0-9a-f]{24}$/);
  });

  it('does not let a file reach into prototypes', () => {
    importJson('{"format":"fathom-conversations","version":1,"conversations":[{"__proto__":{"polluted":1},"messages":[{"id":"__proto__","role":"user","content":"","__proto__":{"polluted":1}}],"settings":{"__proto__":{"polluted":1}}}]}');
    expect(({} as Record<string, unknown>)['polluted']).toBeUndefined();
  });

  it('never throws, whatever is damaged', () => {
    // A fixed sequence (mulberry32), so that a failure comes again.
    let state = 1;
    const random = (): number => {
      state = (state + 0x6d2b79f5) | 0;
      let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
      mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
    };
    const whole = exportJson([sample(), sample()]);
    const junk = ['null', '-1', '[]', '{}', '"', '\\', '1e999', 'true', '\u0000', '"x":', '__proto__'];
    for (let round = 0; round < 3000; round++) {
      const at = Math.floor(random() * whole.length);
      const to = at + Math.floor(random() * 40);
      const piece = junk[Math.floor(random() * junk.length)] ?? '';
      expect(() => importJson(whole.slice(0, at) + piece + whole.slice(to))).not.toThrow();
    }
  });

  it('writes the shown branch as Markdown', () => {
    const names = { user: 'You', assistant: 'Model', thoughts: 'Thoughts', system: 'System prompt' };
    expect(exportMarkdown(sample(), names)).toBe(
      [
        '# A sum',
        '## System prompt\n\nBe brief.',
        '## You\n\nWhat is 17 + 25?',
        '## fathom-tiny\n\n> **Thoughts**\n>\n> Units first.\n> Then tens.\n\n17 + 25 = 42.',
      ].join('\n\n') + '\n',
    );
  });

  it.each([
    ['A sum: 17 + 25?', 'A-sum-17-25.json'],
    ['../../etc/passwd', 'etc-passwd.json'],
    ['深海里的故事', '深海里的故事.json'],
    ['???', 'conversation.json'],
  ])('makes a file name of %s', (title, name) => {
    expect(fileName(title, 'json')).toBe(name);
  });

  it('makes a title of a first line, without cutting a letter into halves', () => {
    expect(titleOf('  Hello \t world\nmore')).toBe('Hello world');
    expect(titleOf('🌊'.repeat(80))).toBe(`${'🌊'.repeat(59)}…`);
    expect(titleOf('')).toBe('');
  });
});
