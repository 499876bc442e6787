import { drawer } from '../app/ui';
import { prefer, preferences } from '../storage/preferences';

/** Where the list of conversations does not fit beside them (the style sheet has the same width). */
export const narrow = matchMedia('(max-width: 800px)');

/** Beside the conversation it is a preference; over it, on a phone, it is open or not. */
export function toggleSidebar(): void {
  if (narrow.matches) drawer.update((open) => !open);
  else prefer({ sidebar: !preferences.get().sidebar });
}
