import type { TargetedMouseEvent, VNode } from 'preact';
import { useLayoutEffect, useRef } from 'preact/hooks';
import { copyText } from '../app/clipboard';
import { memo } from '../base/memo';
import { MarkdownSurface } from '../render/surface';
import { currentStrings, useText } from '../text/language';

/** Shows a model's Markdown. `growing`: more of it is coming. */
export const MarkdownView = memo(function MarkdownView({ text, growing }: { text: string; growing: boolean }): VNode {
  const { t, language } = useText();
  const root = useRef<HTMLDivElement>(null);
  const surface = useRef<MarkdownSurface | null>(null);
  useLayoutEffect(() => {
    if (!root.current) return undefined;
    const made = new MarkdownSurface(root.current, t);
    surface.current = made;
    return () => made.end();
  }, [language]);
  useLayoutEffect(() => surface.current?.show(text, growing), [text, growing, language]);
  // Its children are the surface's; for another language the whole element is made anew.
  return <div key={language} class="markdown" ref={root} onClick={copyCode} />;
});

/** A click on the button in a code block's frame. */
function copyCode(event: TargetedMouseEvent<HTMLDivElement>): void {
  const button = event.target instanceof Element ? event.target.closest<HTMLElement>('[data-action="copy-code"]') : null;
  const code = button?.closest('figure')?.querySelector('code');
  if (!button || !code) return;
  void copyText(code.textContent ?? '').then((copied) => {
    if (!copied) return;
    const t = currentStrings();
    button.textContent = t.copied;
    setTimeout(() => (button.textContent = t.copyCode), 1600);
  });
}
