import type { ServerStatus } from './status';

/** One look at the server. */
export interface Sample {
  tokensPerSecond: number;
  running: number;
  /** Of all pages, those that requests hold. */
  cacheInUse: number;
  /** Of the prompt tokens since the look before, those that were in the cache; null if there were none. */
  hitRate: number | null;
  /** Of the drafts since the look before, the accepted ones; null if there were none. */
  acceptance: number | null;
}

/** A minute, at one look a second. */
export const mostSamples = 60;

export function share(part: number, whole: number): number | null {
  return whole > 0 ? Math.min(1, Math.max(0, part / whole)) : null;
}

/** Pages that requests hold. */
export function pagesInUse({ pages, free, kept }: ServerStatus['cache']): number {
  return Math.max(0, pages - free - kept);
}

/** `before` is null at the first look. */
export function sampleOf(now: ServerStatus, before: ServerStatus | null): Sample {
  // A server that was started anew counts from zero again: there is nothing to compare with.
  const since = before && before.uptime <= now.uptime ? before : null;
  const grown = (count: (status: ServerStatus) => number): number => (since ? count(now) - count(since) : 0);
  return {
    tokensPerSecond: now.tokens.perSecond,
    running: now.requests.running,
    cacheInUse: share(pagesInUse(now.cache), now.cache.pages) ?? 0,
    hitRate: share(grown(({ tokens }) => tokens.cached), grown(({ tokens }) => tokens.prompt)),
    acceptance: share(grown(({ speculation }) => speculation.accepted), grown(({ speculation }) => speculation.proposed)),
  };
}
