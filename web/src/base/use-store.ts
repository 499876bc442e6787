import { useLayoutEffect, useReducer, useRef } from 'preact/hooks';
import type { Store } from './store';

function useRedraw(): () => void {
  const [, redraw] = useReducer<number, void>((count) => count + 1, 0);
  return redraw as () => void;
}

/** The part of a store that a component shows: it is drawn again only when that part is another one (by Object.is). */
export function useSelected<T, S>(store: Store<T>, select: (value: T) => S): S {
  const redraw = useRedraw();
  const selected = select(store.get());
  const shown = useRef({ select, selected });
  shown.current = { select, selected };
  useLayoutEffect(() => {
    const look = (): void => {
      if (!Object.is(shown.current.select(store.get()), shown.current.selected)) redraw();
    };
    look();
    return store.subscribe(look);
  }, [store]);
  return selected;
}

export function useStore<T>(store: Store<T>): T {
  return useSelected(store, (value) => value);
}

/**
 * A store that changes faster than the screen, such as an answer while it comes: drawn at most once a frame, and never
 * more than a third of the time, so that a long answer on a slow machine leaves room for typing and scrolling.
 */
export function useFrames<T>(store: Store<T> | null): T | null {
  const redraw = useRedraw();
  const drawn = useRef({ asked: 0, cost: 0 });
  useLayoutEffect(() => {
    if (drawn.current.asked === 0) return;
    drawn.current.cost = performance.now() - drawn.current.asked;
    drawn.current.asked = 0;
  });
  useLayoutEffect(() => {
    if (!store) return undefined;
    let timer = 0;
    let frame = 0;
    let lastDrawn = 0;
    const draw = (): void => {
      frame = 0;
      lastDrawn = performance.now();
      drawn.current.asked = lastDrawn;
      redraw();
    };
    const look = (): void => {
      if (timer !== 0 || frame !== 0) return;
      const rest = lastDrawn + 3 * drawn.current.cost - performance.now();
      if (rest < 16) {
        frame = requestAnimationFrame(draw);
      } else {
        timer = window.setTimeout(() => {
          timer = 0;
          frame = requestAnimationFrame(draw);
        }, rest);
      }
    };
    const end = store.subscribe(look);
    return () => {
      end();
      clearTimeout(timer);
      cancelAnimationFrame(frame);
    };
  }, [store]);
  return store ? store.get() : null;
}
