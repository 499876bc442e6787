import type { Language } from './strings';

/** Numbers and times as a language writes them. */
export interface Format {
  count(value: number): string;
  /** With one or two decimals where the value is small. */
  rate(value: number): string;
  percent(fraction: number): string;
  /** 0.31 s, 3.2 s, 42 s, 2 min 5 s, 3 h 20 min, 4 d 2 h. */
  duration(milliseconds: number): string;
  /** Whole seconds, rounded up: for counting down. */
  countdown(milliseconds: number): string;
  bytes(value: number): string;
}

const units = {
  en: { day: 'd', hour: 'h', minute: 'min', second: 's' },
  zh: { day: '天', hour: '小时', minute: '分', second: '秒' },
} as const;

function createFormat(language: Language): Format {
  const unit = units[language];
  const whole = new Intl.NumberFormat(language, { maximumFractionDigits: 0 });
  const decimals = [0, 1, 2].map(
    (digits) => new Intl.NumberFormat(language, { minimumFractionDigits: digits, maximumFractionDigits: digits }),
  );
  const fixed = (value: number, digits: 0 | 1 | 2): string => decimals[digits]?.format(value) ?? String(value);
  const pair = (value: number, base: number, big: string, small: string): string =>
    `${whole.format(Math.floor(value / base))} ${big} ${whole.format(Math.floor(value % base))} ${small}`;

  return {
    count: (value) => whole.format(value),
    rate: (value) => fixed(value, value < 10 ? 2 : value < 100 ? 1 : 0),
    percent: (fraction) => `${fixed(fraction * 100, fraction > 0 && fraction < 0.995 ? 1 : 0)} %`,
    duration(milliseconds) {
      const seconds = milliseconds / 1000;
      if (seconds < 0.995) return `${fixed(seconds, 2)} ${unit.second}`;
      if (seconds < 59.95) return `${fixed(seconds, seconds < 9.95 ? 1 : 0)} ${unit.second}`;
      if (seconds < 3600) return pair(Math.round(seconds), 60, unit.minute, unit.second);
      if (seconds < 86_400) return pair(Math.floor(seconds / 60), 60, unit.hour, unit.minute);
      return pair(Math.floor(seconds / 3600), 24, unit.day, unit.hour);
    },
    countdown: (milliseconds) => `${whole.format(Math.max(0, Math.ceil(milliseconds / 1000)))} ${unit.second}`,
    bytes(value) {
      const names = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
      const step = Math.max(0, Math.min(names.length - 1, Math.floor(Math.log2(Math.max(1, value)) / 10)));
      const scaled = value / 1024 ** step;
      return `${fixed(scaled, step > 0 && scaled < 100 ? 1 : 0)} ${names[step] ?? ''}`;
    },
  };
}

export const formats: Readonly<Record<Language, Format>> = { en: createFormat('en'), zh: createFormat('zh') };
