/**
 * Reading values of unknown form: replies of a server, files that were imported, what an older version of the page left
 * in the browser. Nothing here throws; what is missing or of another kind becomes the fallback.
 */
export type Fields = Readonly<Record<string, unknown>>;

export function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function fieldsOf(value: unknown): Fields {
  return isFields(value) ? value : {};
}

export function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

export function textOf(value: unknown, fallback = ''): string {
  return typeof value === 'string' ? value : fallback;
}

/** A finite number, or the fallback. */
export function numberOf<F>(value: unknown, fallback: F): number | F {
  return typeof value === 'number' && Number.isFinite(value) ? value : fallback;
}

/** A count: a finite number that is not negative, or 0. */
export function countOf(value: unknown): number {
  return Math.max(0, numberOf(value, 0));
}

export function oneOf<T extends string, F>(value: unknown, choices: readonly T[], fallback: F): T | F {
  return choices.find((choice) => choice === value) ?? fallback;
}

/** The value of a JSON text; undefined if it is none. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
