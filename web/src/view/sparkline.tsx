import type { VNode } from 'preact';
import { mostSamples } from '../api/status-history';

interface Props {
  /** The newest last; null where nothing was measured. */
  values: readonly (number | null)[];
  /** What the height stands for; 0 for the greatest value. */
  top: number;
  label: string;
}

const width = 120;
const height = 28;

/** The last minute of a value as a line. */
export function Sparkline({ values, top, label }: Props): VNode {
  const most = top > 0 ? top : Math.max(1e-9, ...values.map((value) => value ?? 0));
  const step = width / (mostSamples - 1);
  const first = width - (values.length - 1) * step;
  // Pieces between the gaps; a piece of one point is drawn as a dot by the round ends of the line.
  const pieces: string[] = [];
  let isOpen = false;
  for (const [index, value] of values.entries()) {
    if (value !== null) {
      const x = (first + index * step).toFixed(1);
      const y = (height - 2 - (Math.min(value, most) / most) * (height - 4)).toFixed(1);
      pieces.push(`${isOpen ? 'L' : 'M'}${x} ${y}${isOpen ? '' : 'h.01'}`);
    }
    isOpen = value !== null;
  }
  return (
    <svg class="sparkline" viewBox={`0 0 ${width} ${height}`} preserveAspectRatio="none" role="img" aria-label={label}>
      <path d={pieces.join('')} />
    </svg>
  );
}
