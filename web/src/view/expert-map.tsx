import type { TargetedPointerEvent, VNode } from 'preact';
import { useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks';
import { preferences } from '../storage/preferences';
import { useStore } from '../base/use-store';
import { useText } from '../text/language';

interface Cell {
  layer: number;
  expert: number;
  /** How much of an equal share. */
  share: number;
}

/** Twice the equal share, or more, has the full colour. */
const fullShare = 2;

/** The load of every expert of every layer: a row per layer, the darker the more. */
export function ExpertMap({ load }: { load: readonly (readonly number[])[] }): VNode {
  const { t, f } = useText();
  // The colours are read from the style sheet, so they have to be read again for another theme.
  const { theme } = useStore(preferences);
  const canvas = useRef<HTMLCanvasElement>(null);
  const [pointed, setPointed] = useState<{ layer: number; expert: number } | null>(null);
  const cells = useMemo(() => sharesOf(load), [load]);
  const columns = Math.max(0, ...load.map((layer) => layer.length));
  useLayoutEffect(() => {
    if (canvas.current) draw(canvas.current, cells, columns);
  }, [cells, columns, theme]);

  if (cells.length === 0) return <p class="status-note">{t.expertsNone}</p>;
  const busiest = cells.reduce((most, cell) => (cell.share > most.share ? cell : most));
  const shown = cells.find(({ layer, expert }) => layer === pointed?.layer && expert === pointed.expert);
  const say = ({ layer, expert, share }: Cell, words: typeof t.expertsCell): string =>
    words(f.count(layer + 1), f.count(expert + 1), f.rate(share));
  const point = (event: TargetedPointerEvent<HTMLCanvasElement>): void => {
    const box = event.currentTarget.getBoundingClientRect();
    setPointed({
      layer: Math.floor(((event.clientY - box.top) / box.height) * load.length),
      expert: Math.floor(((event.clientX - box.left) / box.width) * columns),
    });
  };
  return (
    <figure class="expert-map">
      <canvas
        ref={canvas}
        role="img"
        aria-label={say(busiest, t.expertsBusiest)}
        onPointerMove={point}
        onPointerLeave={() => setPointed(null)}
      />
      <figcaption>
        {shown ? say(shown, t.expertsCell) : say(busiest, t.expertsBusiest)}
        <span class="scale" aria-hidden="true">
          0 <i /> {fullShare}×
        </span>
      </figcaption>
    </figure>
  );
}

function sharesOf(load: readonly (readonly number[])[]): Cell[] {
  return load.flatMap((counts, layer) => {
    const mean = counts.reduce((sum, count) => sum + count, 0) / counts.length;
    if (!(mean > 0)) return [];
    return counts.map((count, expert) => ({ layer, expert, share: count / mean }));
  });
}

function draw(canvas: HTMLCanvasElement, cells: readonly Cell[], columns: number): void {
  const rows = 1 + Math.max(...cells.map(({ layer }) => layer));
  // One pixel a cell, scaled up by the style sheet, while there are many; few cells get a gap between them.
  const cellSize = columns * rows <= 4096 ? 8 : 1;
  const gap = cellSize > 1 ? 1 : 0;
  canvas.width = columns * cellSize;
  canvas.height = rows * cellSize;
  canvas.style.aspectRatio = `${columns} / ${Math.max(rows, columns / 6)}`;
  const context = canvas.getContext('2d');
  if (!context) return;
  context.fillStyle = getComputedStyle(canvas).color;
  for (const { layer, expert, share } of cells) {
    context.globalAlpha = 0.06 + 0.94 * Math.min(1, share / fullShare);
    context.fillRect(expert * cellSize, layer * cellSize, cellSize - gap, cellSize - gap);
  }
}
