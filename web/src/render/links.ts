const protocols = new Set(['http:', 'https:', 'mailto:']);

/**
 * Whether a link of a model's answer may become one. It has to name its protocol: a relative address would lead to a page of
 * this server. The browser's own parser decides what the protocol is, so no spelling of `javascript:` gets past it.
 */
export function isSafeLink(address: string): boolean {
  try {
    return protocols.has(new URL(address).protocol);
  } catch {
    return false;
  }
}
