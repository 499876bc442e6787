import type { RefObject } from 'preact';
import { useCallback, useLayoutEffect, useRef, useState } from 'preact/hooks';

/** So near to the end counts as at the end. */
const nearPixels = 40;

/**
 * Keeps a scrolling element at its end while its content grows, unless the reader has scrolled away from there. It begins
 * at its end if `atFirst` says so: a conversation does, the examples of a new one are read from their top.
 */
export function useStickToEnd(
  scroller: RefObject<HTMLElement | null>,
  content: RefObject<HTMLElement | null>,
  atFirst: boolean,
): { atEnd: boolean; toEnd: (smooth: boolean) => void } {
  const [atEnd, setAtEnd] = useState(true);
  const sticks = useRef(atFirst);

  const toEnd = useCallback((smooth: boolean): void => {
    sticks.current = true;
    setAtEnd(true);
    scroller.current?.scrollTo({ top: scroller.current.scrollHeight, behavior: smooth ? 'smooth' : 'instant' });
  }, []);

  useLayoutEffect(() => {
    const box = scroller.current;
    const inner = content.current;
    if (!box || !inner) return undefined;
    let lastTop = box.scrollTop;
    const look = (): void => {
      const isNear = box.scrollHeight - box.scrollTop - box.clientHeight < nearPixels;
      // Only the reader moves up; content that grows under a resting view must not let go of the end.
      if (isNear) sticks.current = true;
      else if (box.scrollTop < lastTop) sticks.current = false;
      lastTop = box.scrollTop;
      setAtEnd(isNear || sticks.current);
    };
    const watch = new ResizeObserver(() => {
      if (sticks.current) box.scrollTop = box.scrollHeight;
    });
    watch.observe(inner);
    // A keyboard on the screen, or a message box that grows, makes the view itself smaller.
    watch.observe(box);
    box.addEventListener('scroll', look, { passive: true });
    return () => {
      watch.disconnect();
      box.removeEventListener('scroll', look);
    };
  }, []);

  useLayoutEffect(() => {
    if (atFirst) toEnd(false);
  }, []);
  return { atEnd, toEnd };
}
