import { describe, expect, it } from 'vitest';
import { continued } from '../../src/chat/continued';
import { newMessage } from '../../src/chat/conversation';
import { lengthCause } from '../../src/chat/length-cause';
import { chatRequest } from '../../src/chat/request';
import { countChanged, defaultSettings, inRange, readSettings } from '../../src/chat/settings';

const user = (content: string) => newMessage({ parent: null, role: 'user', content });
const assistant = (content: string, more = {}) => newMessage({ parent: null, role: 'assistant', content, ...more });

describe('chatRequest', () => {
  it('sends nothing that the user did not set', () => {
    expect(chatRequest([user('Hi')], defaultSettings, 'm')).toEqual({
      model: 'm',
      messages: [{ role: 'user', content: 'Hi' }],
      stream: true,
      stream_options: { include_usage: true },
    });
  });

  it('sends what the user set', () => {
    const settings = readSettings({
      system: 'Be brief.',
      thinking: 'on',
      temperature: 0,
      topP: 0.9,
      maxTokens: 100,
      seed: 7,
      presencePenalty: -1,
      frequencyPenalty: 0.5,
      stop: ['END'],
    });
    expect(chatRequest([user('Hi')], settings, 'm')).toMatchObject({
      messages: [
        { role: 'system', content: 'Be brief.' },
        { role: 'user', content: 'Hi' },
      ],
      thinking: { type: 'enabled' },
      temperature: 0,
      top_p: 0.9,
      max_tokens: 100,
      seed: 7,
      presence_penalty: -1,
      frequency_penalty: 0.5,
      stop: ['END'],
    });
    expect(chatRequest([user('Hi')], { ...defaultSettings, thinking: 'off' }, 'm').thinking).toEqual({ type: 'disabled' });
  });

  it('keeps thoughts and empty answers to itself', () => {
    const path = [user('a'), assistant('b', { reasoning: 'secret' }), user('c'), assistant(''), user('d')];
    expect(chatRequest(path, defaultSettings, 'm').messages).toEqual([
      { role: 'user', content: 'a' },
      { role: 'assistant', content: 'b' },
      { role: 'user', content: 'c' },
      { role: 'user', content: 'd' },
    ]);
  });

  it('asks to continue an answer that is last', () => {
    expect(chatRequest([user('a'), assistant('half')], defaultSettings, 'm').messages.at(-1)).toEqual({
      role: 'assistant',
      content: 'half',
      prefix: true,
    });
  });
});

describe('settings', () => {
  it.each([
    ['temperature', 3, 2],
    ['temperature', -1, 0],
    ['temperature', 0.1 + 0.2, 0.3],
    ['topP', 0, 0.01],
    ['maxTokens', 0, 1],
    ['maxTokens', 12.6, 13],
    ['seed', 1e300, Number.MAX_SAFE_INTEGER],
    ['seed', NaN, null],
    ['presencePenalty', null, null],
  ] as const)('%s %s becomes %s', (setting, value, result) => {
    expect(inRange(setting, value)).toBe(result);
  });

  it('counts what is not default', () => {
    expect(countChanged(defaultSettings)).toBe(0);
    expect(countChanged({ ...defaultSettings, temperature: 0, stop: ['x'], thinking: 'off' })).toBe(3);
    expect(countChanged(readSettings({}))).toBe(0);
  });
});

describe('lengthCause', () => {
  const answer = (prompt: number, completion: number) =>
    assistant('', { usage: { prompt, completion, cached: 0, reasoning: 0 } });
  it.each([
    ['context', answer(4000, 96), null, 4096],
    ['context', answer(4000, 95), 95, 4096],
    ['limit', answer(10, 50), 50, 4096],
    ['limit', answer(10, 50), 50, 0],
    ['unknown', answer(10, 50), null, 4096],
    ['unknown', assistant(''), 50, 4096],
  ])('%s', (cause, message, maxTokens, context) => {
    expect(lengthCause(message, { ...defaultSettings, maxTokens }, context)).toBe(cause);
  });
});

describe('continued', () => {
  it('adds text, tokens and times', () => {
    const before = assistant('one', {
      usage: { prompt: 10, cached: 2, completion: 5, reasoning: 1 },
      timing: { first: 100, generating: 200, thinking: 50 },
    });
    const after = {
      content: ' two',
      reasoning: '',
      finish: 'stop' as const,
      failure: null,
      usage: { prompt: 15, cached: 15, completion: 3, reasoning: 0 },
      timing: { first: 20, generating: 100, thinking: 0 },
    };
    expect(continued(before, after)).toEqual({
      content: 'one two',
      reasoning: '',
      finish: 'stop',
      failure: null,
      usage: { prompt: 10, cached: 2, completion: 8, reasoning: 1 },
      timing: { first: 100, generating: 300, thinking: 50 },
    });
  });
});
