import { currentStrings } from '../text/language';
import { announce, toast } from './ui';

/** Copies a text; false, and a word to the user, if the browser refuses. */
export async function copyText(text: string): Promise<boolean> {
  const copied = (await copyWithApi(text)) || copyWithSelection(text);
  const t = currentStrings();
  if (copied) announce(t.copied);
  else toast(t.copyFailed);
  return copied;
}

async function copyWithApi(text: string): Promise<boolean> {
  // Missing where the page comes over plain HTTP from another machine.
  if (!('clipboard' in navigator)) return false;
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

function copyWithSelection(text: string): boolean {
  const focused = document.activeElement;
  const area = document.createElement('textarea');
  area.value = text;
  area.className = 'visually-hidden';
  document.body.append(area);
  area.select();
  // Deprecated, and still the only way without a secure context.
  const copied = document.execCommand('copy');
  area.remove();
  if (focused instanceof HTMLElement) focused.focus();
  return copied;
}
