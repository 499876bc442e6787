import { afterEach, describe, expect, it, vi } from 'vitest';
import { createClient } from '../../src/api/client';
import { readRetryAfter } from '../../src/api/error';

function answerWith(response: () => Response): ReturnType<typeof vi.fn<typeof fetch>> {
  const fake = vi.fn<typeof fetch>(async () => response());
  vi.stubGlobal('fetch', fake);
  return fake;
}

afterEach(() => vi.unstubAllGlobals());

const headersOf = (fake: ReturnType<typeof vi.fn<typeof fetch>>): Headers => new Headers(fake.mock.calls[0]?.[1]?.headers);

describe('createClient', () => {
  it('asks at addresses relative to the page', async () => {
    const fake = answerWith(() => Response.json({ data: [{ id: 'a' }, { id: 7 }, null, { id: 'b' }] }));
    expect(await createClient(() => '').models()).toEqual(['a', 'b']);
    expect(fake.mock.calls[0]?.[0]).toBe('v1/models');
    expect(headersOf(fake).has('authorization')).toBe(false);
  });

  it('sends the key', async () => {
    const fake = answerWith(() => Response.json({ data: [] }));
    await createClient(() => 'secret').models();
    expect(headersOf(fake).get('authorization')).toBe('Bearer secret');
  });

  it.each([
    [401, 'unauthorised'],
    [403, 'unauthorised'],
    [400, 'refused'],
    [422, 'refused'],
    [429, 'busy'],
    [503, 'busy'],
    [500, 'server'],
  ])('tells what status %i means', async (status, kind) => {
    answerWith(() => Response.json({ error: { message: 'words' } }, { status, headers: { 'retry-after': '7' } }));
    await expect(createClient(() => '').models()).rejects.toMatchObject({ kind, status, message: 'words', retryAfter: 7 });
  });

  it('shows the status of an error page, not its HTML', async () => {
    answerWith(() => new Response('<html>Bad gateway</html>', { status: 502, statusText: 'Bad Gateway' }));
    await expect(createClient(() => '').models()).rejects.toMatchObject({ kind: 'server', message: '502 Bad Gateway' });
  });

  it('tells a server that is not there from one that fails', async () => {
    vi.stubGlobal('fetch', () => Promise.reject(new TypeError('Failed to fetch')));
    await expect(createClient(() => '').status()).rejects.toMatchObject({ kind: 'unreachable' });
  });

  it('refuses a list of models that is not JSON', async () => {
    answerWith(() => new Response('<html>A hotel greets you</html>'));
    await expect(createClient(() => '').models()).rejects.toMatchObject({ kind: 'server' });
  });

  it('reads a status of which half is missing or wrong', async () => {
    answerWith(() => Response.json({ model: 'm', thinking: 'yes', requests: 3, cache: { pages: -1 }, experts: { load: [[1, 'x'], 7] } }));
    expect(await createClient(() => '').status()).toMatchObject({
      model: 'm',
      thinking: null,
      requests: { running: 0 },
      cache: { pages: 0 },
      experts: [[1, 0], []],
    });
  });
});

describe('readRetryAfter', () => {
  const now = Date.parse('2026-01-01T00:00:00Z');
  it.each([
    [null, null],
    ['', null],
    ['soon', null],
    ['12', 12],
    ['-1', 0],
    ['Thu, 01 Jan 2026 00:00:30 GMT', 30],
    ['Wed, 31 Dec 2025 00:00:30 GMT', 0],
  ])('%s', (header, seconds) => {
    expect(readRetryAfter(header, now)).toBe(seconds);
  });
});
