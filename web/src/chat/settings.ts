import { fieldsOf, listOf, numberOf, oneOf, textOf } from '../base/decode';

export const thinkingChoices = ['auto', 'on', 'off'] as const;
export type ThinkingChoice = (typeof thinkingChoices)[number];

/** How a conversation asks. null: not sent, so the server's own default holds. */
export interface Settings {
  system: string;
  /** auto: not sent. */
  thinking: ThinkingChoice;
  temperature: number | null;
  topP: number | null;
  maxTokens: number | null;
  presencePenalty: number | null;
  frequencyPenalty: number | null;
  seed: number | null;
  /** At most 16, none empty. */
  stop: readonly string[];
}

export const defaultSettings: Settings = {
  system: '',
  thinking: 'auto',
  temperature: null,
  topP: null,
  maxTokens: null,
  presencePenalty: null,
  frequencyPenalty: null,
  seed: null,
  stop: [],
};

export type NumberSetting = 'temperature' | 'topP' | 'maxTokens' | 'presencePenalty' | 'frequencyPenalty' | 'seed';

export interface Range {
  least: number;
  most: number;
  step: number;
  /** Where a slider stands while the server's default holds: what OpenAI's and DeepSeek's APIs take then. */
  usual: number;
}

/** The API's ranges (shared with the server, which refuses what lies outside). */
export const ranges: Readonly<Record<NumberSetting, Range>> = {
  temperature: { least: 0, most: 2, step: 0.05, usual: 1 },
  // 0 would leave no token at all.
  topP: { least: 0.01, most: 1, step: 0.01, usual: 1 },
  maxTokens: { least: 1, most: 1_048_576, step: 1, usual: 1024 },
  presencePenalty: { least: -2, most: 2, step: 0.1, usual: 0 },
  frequencyPenalty: { least: -2, most: 2, step: 0.1, usual: 0 },
  // What a JavaScript number, and so the JSON, holds exactly.
  seed: { least: 0, most: Number.MAX_SAFE_INTEGER, step: 1, usual: 0 },
};

export const mostStops = 16;

/** The nearest value in the range, on its steps; null stays null. */
export function inRange(setting: NumberSetting, value: number | null): number | null {
  if (value === null || !Number.isFinite(value)) return null;
  const { least, most, step } = ranges[setting];
  const bounded = Math.min(most, Math.max(least, value));
  // Two decimals are all that a step has; without this 0.1 * 3 would show as 0.30000000000000004.
  return step >= 1 ? Math.round(bounded) : Number(bounded.toFixed(2));
}

export function readSettings(value: unknown): Settings {
  const fields = fieldsOf(value);
  const number = (setting: NumberSetting): number | null => inRange(setting, numberOf(fields[setting], null));
  return {
    system: textOf(fields['system']),
    thinking: oneOf(fields['thinking'], thinkingChoices, 'auto'),
    temperature: number('temperature'),
    topP: number('topP'),
    maxTokens: number('maxTokens'),
    presencePenalty: number('presencePenalty'),
    frequencyPenalty: number('frequencyPenalty'),
    seed: number('seed'),
    stop: listOf(fields['stop'])
      .map((stop) => textOf(stop))
      .filter((stop) => stop !== '')
      .slice(0, mostStops),
  };
}

/** How many settings are not the default: shown at the button that opens them. */
export function countChanged(settings: Settings): number {
  const names = Object.keys(defaultSettings) as (keyof Settings)[];
  return names.filter((name) =>
    name === 'stop' ? settings.stop.length > 0 : settings[name] !== defaultSettings[name],
  ).length;
}
