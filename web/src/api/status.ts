import { countOf, fieldsOf, isFields, listOf, numberOf, textOf } from '../base/decode';

/** What `GET status` says. Times in seconds; counts since the server's start. */
export interface ServerStatus {
  model: string;
  version: string;
  uptime: number;
  /** Tokens of one conversation, prompt and answer together; 0 if it is not known. */
  context: number;
  /** Whether the model's template has thoughts; null if the server does not say. */
  thinking: boolean | null;
  requests: { running: number; waiting: number; finished: number; cancelled: number; refused: number };
  /** `perSecond`: generated, now. */
  tokens: { prompt: number; cached: number; generated: number; perSecond: number };
  /** `kept`: pages that no request holds, kept for a prompt that begins alike. */
  cache: { pages: number; free: number; kept: number; pageTokens: number; bytes: number };
  speculation: { drafts: number; active: boolean; proposed: number; accepted: number };
  /** Tokens that each expert was given: one row per MoE layer. */
  experts: readonly (readonly number[])[];
}

export function readStatus(body: unknown): ServerStatus {
  const status = fieldsOf(body);
  const requests = fieldsOf(status['requests']);
  const tokens = fieldsOf(status['tokens']);
  const cache = fieldsOf(status['cache']);
  const speculation = fieldsOf(status['speculation']);
  const experts = isFields(status['experts']) ? listOf(status['experts']['load']) : [];
  return {
    model: textOf(status['model']),
    version: textOf(status['version']),
    uptime: countOf(status['uptime_seconds']),
    context: countOf(status['context']),
    thinking: typeof status['thinking'] === 'boolean' ? status['thinking'] : null,
    requests: {
      running: countOf(requests['running']),
      waiting: countOf(requests['waiting']),
      finished: countOf(requests['finished']),
      cancelled: countOf(requests['cancelled']),
      refused: countOf(requests['refused']),
    },
    tokens: {
      prompt: countOf(tokens['prompt']),
      cached: countOf(tokens['prompt_cached']),
      generated: countOf(tokens['generated']),
      perSecond: countOf(tokens['per_second']),
    },
    cache: {
      pages: countOf(cache['pages']),
      free: countOf(cache['free']),
      kept: countOf(cache['kept']),
      pageTokens: countOf(cache['page_tokens']),
      bytes: countOf(cache['bytes']),
    },
    speculation: {
      drafts: countOf(speculation['drafts']),
      active: speculation['active'] === true || numberOf(speculation['active'], 0) > 0,
      proposed: countOf(speculation['proposed']),
      accepted: countOf(speculation['accepted']),
    },
    experts: experts.map((layer) => listOf(layer).map(countOf)),
  };
}
