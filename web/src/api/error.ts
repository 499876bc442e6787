import { fieldsOf, parseJson, textOf } from '../base/decode';

export const failureKinds = ['unreachable', 'unauthorised', 'busy', 'refused', 'server'] as const;

/**
 * unreachable: no reply came. unauthorised: 401 or 403, a key is needed. busy: 429 or 503, later it may go. refused: the
 * request itself is wrong for this server. server: everything else.
 */
export type FailureKind = (typeof failureKinds)[number];

/** Why a request did not go, in the server's words where it had any. */
export class ApiError extends Error {
  constructor(
    readonly kind: FailureKind,
    /** HTTP status; 0 if there was none. */
    readonly status: number,
    message: string,
    /** Seconds after which the server wants to be asked again; null if it did not say. */
    readonly retryAfter: number | null = null,
  ) {
    super(message);
  }
}

export function kindOfStatus(status: number): FailureKind {
  if (status === 401 || status === 403) return 'unauthorised';
  if (status === 429 || status === 503) return 'busy';
  return status >= 400 && status < 500 ? 'refused' : 'server';
}

/** `Retry-After`: seconds or a date. Null if it is neither. */
export function readRetryAfter(header: string | null, now: number): number | null {
  if (header === null || header.trim() === '') return null;
  const seconds = Number(header);
  if (Number.isFinite(seconds)) return Math.max(0, seconds);
  const date = Date.parse(header);
  return Number.isNaN(date) ? null : Math.max(0, (date - now) / 1000);
}

/** The sentence of an error body `{"error":{"message"}}`; empty if there is none. */
export function messageOf(body: unknown): string {
  const { error } = fieldsOf(body);
  return textOf(error) || textOf(fieldsOf(error)['message']);
}

/** What a reply that is not 2xx says. A body that is no JSON (a proxy's page) is not shown: its status is. */
export async function errorOfResponse(response: Response): Promise<ApiError> {
  const text = await response.text().catch(() => '');
  return new ApiError(
    kindOfStatus(response.status),
    response.status,
    messageOf(parseJson(text)) || `${response.status} ${response.statusText}`.trim(),
    readRetryAfter(response.headers.get('retry-after'), Date.now()),
  );
}
