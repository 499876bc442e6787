import { useEffect, useReducer } from 'preact/hooks';

/** Draws the component again every so many milliseconds; 0 for never. */
export function useClock(milliseconds: number): void {
  const [, tick] = useReducer<number, void>((count) => count + 1, 0);
  useEffect(() => {
    if (milliseconds === 0) return undefined;
    const timer = setInterval(() => tick(undefined), milliseconds);
    return () => clearInterval(timer);
  }, [milliseconds]);
}
