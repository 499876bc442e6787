import { newId } from '../base/id';
import { createStore } from '../base/store';

/** What lies over or beside the conversation. */
export type Panel = 'settings' | 'status' | null;
export type Dialog = 'help' | 'preferences' | 'key' | null;

export const panel = createStore<Panel>(null);
export const dialog = createStore<Dialog>(null);
/** The list of conversations where it covers the page (phones); elsewhere the preference `sidebar` decides. */
export const drawer = createStore(false);
/** The message whose text is being edited. */
export const editing = createStore<string | null>(null);

export function togglePanel(which: Exclude<Panel, null>): void {
  panel.update((now) => (now === which ? null : which));
}

export interface Toast {
  id: string;
  text: string;
  action: { label: string; run: () => void } | null;
}

export const toasts = createStore<readonly Toast[]>([]);

export function toast(text: string, action: Toast['action'] = null): void {
  // More than three at once nobody reads.
  toasts.update((now) => [...now.slice(-2), { id: newId(), text, action }]);
}

export function dismissToast(id: string): void {
  toasts.update((now) => now.filter((other) => other.id !== id));
}

/** What screen readers say next. */
export const announcement = createStore('');

export function announce(text: string): void {
  announcement.set(text);
}
