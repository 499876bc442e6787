import { describe, expect, it } from 'vitest';
import { sampleOf } from '../../src/api/status-history';
import { readStatus } from '../../src/api/status';
import { ageOf } from '../../src/chat/age';
import { newConversation, newMessage } from '../../src/chat/conversation';
import { search } from '../../src/chat/search';
import { addMessage } from '../../src/chat/tree';
import { formats } from '../../src/text/format';
import { strings, type Strings } from '../../src/text/strings';

describe('strings', () => {
  const names = Object.keys(strings.en) as (keyof Strings)[];

  it('has the same names in both languages', () => {
    expect(Object.keys(strings.zh)).toEqual(names);
  });

  it.each(names)('%s says something in both languages, with all that it is given', (name) => {
    for (const words of [strings.en[name], strings.zh[name]]) {
      if (typeof words === 'string') {
        expect(words.trim()).not.toBe('');
        continue;
      }
      const given = ['<1>', '<2>', '<3>'].slice(0, words.length);
      const said = (words as (...given: string[]) => string)(...given);
      for (const one of given) expect(said).toContain(one);
    }
  });
});

describe('formats', () => {
  it.each([
    [0, '0.00 s', '0.00 秒'],
    [310, '0.31 s', '0.31 秒'],
    [999, '1.0 s', '1.0 秒'],
    [3240, '3.2 s', '3.2 秒'],
    [9960, '10 s', '10 秒'],
    [59_940, '60 s', '60 秒'],
    [60_000, '1 min 0 s', '1 分 0 秒'],
    [125_000, '2 min 5 s', '2 分 5 秒'],
    [12_000_000, '3 h 20 min', '3 小时 20 分'],
    [353_000_000, '4 d 2 h', '4 天 2 小时'],
  ])('%i ms', (milliseconds, en, zh) => {
    expect(formats.en.duration(milliseconds)).toBe(en);
    expect(formats.zh.duration(milliseconds)).toBe(zh);
  });

  it('writes counts, rates, shares and sizes', () => {
    expect(formats.en.count(1_234_567)).toBe('1,234,567');
    expect([3.14159, 31.4159, 314.159].map(formats.en.rate)).toEqual(['3.14', '31.4', '314']);
    expect([0, 0.1234, 0.999, 1].map(formats.en.percent)).toEqual(['0 %', '12.3 %', '100 %', '100 %']);
    expect([0, 1023, 1536, 268_435_456, 7e11].map(formats.en.bytes)).toEqual(['0 B', '1,023 B', '1.5 KiB', '256 MiB', '652 GiB']);
    expect([-5, 0, 1, 1001].map(formats.en.countdown)).toEqual(['0 s', '0 s', '1 s', '2 s']);
  });
});

describe('ageOf', () => {
  const now = new Date(2026, 2, 30, 9, 0).getTime();
  it.each([
    [new Date(2026, 2, 30, 0, 0), 'today'],
    [new Date(2026, 2, 29, 23, 59), 'yesterday'],
    // The night in which the clocks change in Europe.
    [new Date(2026, 2, 29, 0, 0), 'yesterday'],
    [new Date(2026, 2, 28, 23, 59), 'thisWeek'],
    [new Date(2026, 2, 23, 0, 0), 'thisWeek'],
    [new Date(2026, 2, 22, 23, 59), 'older'],
  ])('%s is %s', (time, age) => {
    expect(ageOf(time.getTime(), now)).toBe(age);
  });
});

describe('search', () => {
  const named = { ...newConversation(), title: 'A Story' };
  const holding = addMessage(
    { ...newConversation(), title: 'Other' },
    newMessage({ parent: null, role: 'user', content: `${'long '.repeat(20)}\nbefore the STORY of the fox` }),
  );

  it('finds titles and texts, whatever the case', () => {
    const found = search([named, holding], ' story ');
    expect(found.map(({ conversation }) => conversation)).toEqual([named, holding]);
    expect(found.map(({ excerpt }) => excerpt)).toEqual(['', '…g long long before the STORY of the fox']);
  });

  it('shows all for nothing', () => {
    expect(search([named, holding], ' ')).toHaveLength(2);
    expect(search([named, holding], 'whale')).toEqual([]);
  });
});

describe('sampleOf', () => {
  const at = (uptime: number, cached: number, prompt: number) =>
    readStatus({
      uptime_seconds: uptime,
      tokens: { prompt, prompt_cached: cached, per_second: 5 },
      cache: { pages: 10, free: 6, kept: 1 },
      speculation: { proposed: 0, accepted: 0 },
    });

  it('compares with the look before', () => {
    expect(sampleOf(at(2, 30, 140), at(1, 20, 100))).toEqual({
      tokensPerSecond: 5,
      running: 0,
      cacheInUse: 0.3,
      hitRate: 0.25,
      acceptance: null,
    });
  });

  it('compares with nothing at first, and after the server was started anew', () => {
    expect(sampleOf(at(2, 30, 140), null).hitRate).toBeNull();
    expect(sampleOf(at(1, 3, 4), at(100, 20, 100)).hitRate).toBeNull();
  });
});
