import { regenerate, stopAnswer, isAnswering, switchVersion } from '../app/answers';
import { copyText } from '../app/clipboard';
import { currentConversation } from '../app/current';
import { library } from '../app/library';
import { show } from '../app/route';
import { dialog, drawer, editing, panel, togglePanel } from '../app/ui';
import type { Message } from '../chat/conversation';
import { shownPath } from '../chat/tree';
import { preferences } from '../storage/preferences';
import type { Strings } from '../text/strings';
import { messageBoxId, switchThinking } from './composer';
import { searchBoxId, startNew } from './sidebar';
import { narrow, toggleSidebar } from './toggle-sidebar';

export interface Shortcut {
  /** As the help sheet writes it. */
  keys: readonly string[];
  says: keyof Strings & `key${string}`;
}

interface AltShortcut extends Shortcut {
  /** KeyboardEvent.code: the key's place, since Alt changes the letter on some keyboards. */
  code: string;
  run: () => void;
}

/** With Alt, so that they work also while one types, where a bare letter would be text. */
const withAlt: readonly AltShortcut[] = [
  { code: 'KeyN', keys: ['Alt', 'N'], says: 'keyNew', run: startNewAndType },
  { code: 'KeyK', keys: ['Alt', 'K'], says: 'keySearch', run: searchConversations },
  { code: 'ArrowDown', keys: ['Alt', '↓'], says: 'keyNextConversation', run: () => showNeighbour(1) },
  { code: 'ArrowUp', keys: ['Alt', '↑'], says: 'keyPreviousConversation', run: () => showNeighbour(-1) },
  { code: 'KeyB', keys: ['Alt', 'B'], says: 'keySidebar', run: toggleSidebar },
  { code: 'KeyS', keys: ['Alt', 'S'], says: 'keySettings', run: () => togglePanel('settings') },
  { code: 'KeyU', keys: ['Alt', 'U'], says: 'keyStatus', run: () => togglePanel('status') },
  { code: 'KeyR', keys: ['Alt', 'R'], says: 'keyRegenerate', run: () => withLastAnswer((id, m) => void regenerate(id, m)) },
  { code: 'KeyC', keys: ['Alt', 'C'], says: 'keyCopy', run: () => withLastAnswer((_, { content }) => void copyText(content)) },
  { code: 'KeyT', keys: ['Alt', 'T'], says: 'keyThink', run: () => switchThinking(currentConversation().id) },
  { code: 'Comma', keys: ['Alt', ','], says: 'keyPreviousVersion', run: () => withLastAnswer((id, m) => switchVersion(id, m, -1)) },
  { code: 'Period', keys: ['Alt', '.'], says: 'keyNextVersion', run: () => withLastAnswer((id, m) => switchVersion(id, m, 1)) },
  { code: 'KeyM', keys: ['Alt', 'M'], says: 'keyMessage', run: focusMessageBox },
];

/** All of them, for the help sheet. The first and the last are handled where they act. */
export const shortcuts: readonly Shortcut[] = [
  { keys: ['Enter'], says: 'keySend' },
  { keys: ['Shift', 'Enter'], says: 'keyNewline' },
  { keys: ['↑'], says: 'keyEditLast' },
  { keys: ['Esc'], says: 'keyStop' },
  ...withAlt,
  { keys: ['?'], says: 'keyHelp' },
];

export function followShortcuts(): void {
  document.addEventListener('keydown', (event) => {
    // Somebody nearer took it, or an input method does.
    if (event.defaultPrevented || event.isComposing) return;
    // A modal dialog has its own Escape, and nothing behind it shall move.
    if (dialog.get() !== null) return;
    if (takes(event)) event.preventDefault();
  });
}

function takes(event: KeyboardEvent): boolean {
  if (event.key === 'Escape') return escape();
  if (event.altKey && !event.ctrlKey && !event.metaKey) {
    const shortcut = withAlt.find(({ code }) => code === event.code);
    shortcut?.run();
    return shortcut !== undefined;
  }
  if (event.key === '?' && !isTyping(event.target)) {
    dialog.set('help');
    return true;
  }
  return false;
}

function isTyping(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && target.matches('input, textarea, select');
}

/** The nearest thing that Escape can end: the answer first, since that cannot wait. */
function escape(): boolean {
  const { id } = currentConversation();
  if (isAnswering(id)) void stopAnswer(id);
  else if (editing.get() !== null) editing.set(null);
  else if (drawer.get()) drawer.set(false);
  else if (panel.get() !== null) panel.set(null);
  else return false;
  return true;
}

function startNewAndType(): void {
  startNew();
  focusMessageBox();
}

function focusMessageBox(): void {
  // In the next frame: the box of another conversation is only there then.
  requestAnimationFrame(() => document.getElementById(messageBoxId)?.focus());
}

function searchConversations(): void {
  if (narrow.matches) drawer.set(true);
  else if (!preferences.get().sidebar) toggleSidebar();
  requestAnimationFrame(() => document.getElementById(searchBoxId)?.focus());
}

function showNeighbour(step: 1 | -1): void {
  const all = library.get() ?? [];
  const at = all.findIndex(({ id }) => id === currentConversation().id);
  // From the new conversation, which stands above the first.
  const next = all[at + step];
  if (next) show(next.id);
}

function withLastAnswer(act: (conversation: string, message: Message) => void): void {
  const conversation = currentConversation();
  const last = shownPath(conversation).findLast((message) => message.role === 'assistant');
  if (last) act(conversation.id, last);
}
