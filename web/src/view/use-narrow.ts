import { useEffect, useState } from 'preact/hooks';
import { narrow } from './toggle-sidebar';

/** Whether there is room for one thing at a time only. */
export function useNarrow(): boolean {
  const [matches, setMatches] = useState(narrow.matches);
  useEffect(() => {
    const look = (): void => setMatches(narrow.matches);
    narrow.addEventListener('change', look);
    return () => narrow.removeEventListener('change', look);
  }, []);
  return matches;
}
