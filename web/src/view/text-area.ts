/** Makes a text area as high as its text; the style sheet bounds it. */
export function fitHeight(area: HTMLTextAreaElement | null): void {
  if (!area) return;
  area.style.height = 'auto';
  area.style.height = `${area.scrollHeight + area.offsetHeight - area.clientHeight}px`;
}

/**
 * Enter without Shift sends. Not while an input method composes (there Enter chooses a word), and not on a touch screen,
 * whose keyboard has no Shift+Enter: there the button sends.
 */
export function isSendKey(event: KeyboardEvent): boolean {
  // 229: Safari ends the composition before it tells the key.
  if (event.key !== 'Enter' || event.isComposing || event.keyCode === 229) return false;
  if (event.ctrlKey || event.metaKey) return true;
  return !event.shiftKey && !event.altKey && !matchMedia('(pointer: coarse)').matches;
}
