import { expect, vi } from 'vitest';
import { isSafeLink } from '../../src/render/links';
import { MarkdownSurface } from '../../src/render/surface';

export const words = { copyCode: 'Copy', code: 'Code', table: 'Table' };

export function render(text: string): HTMLElement {
  const root = document.createElement('div');
  document.body.replaceChildren(root);
  new MarkdownSurface(root, words).show(text, false);
  return root;
}

/** Mathematics and colours come with modules that are fetched at the first need: after this they are there. */
export async function loadModules(): Promise<void> {
  const root = render('$x$\n\n```python\nimport x\n```');
  await vi.waitFor(() => {
    expect(root.querySelector('math')).not.toBeNull();
    expect(root.querySelector('.hljs-keyword')).not.toBeNull();
  }, 60_000);
}

const mathElements =
  /^(math|semantics|m(enclose|frac|i|multiscripts|n|o|over|padded|phantom|root|row|space|sqrt|style|sub|subsup|sup|table|td|text|tr|under|underover))$/;
const textElements =
  /^(a|blockquote|br|code|del|div|em|h[2-6]|hr|li|ol|p|pre|s|span|strong|table|tbody|td|th|thead|tr|ul|figure|figcaption|button)$/;
const classes = /^(math|math-(display|pending|broken|close)|align-(left|center|right)|image|code|table-scroll|hljs-[\w-]+|language-[a-z]+|[a-z]+_)$/;
const attributes = /^(class|href|title|start|target|rel|type|role|tabindex|aria-label|data-(lang|tex|done|action))$/;

/** Nothing in it can run, fetch, lead astray, or look like a part of the page. */
export function expectHarmless(root: Element): void {
  for (const element of root.querySelectorAll('*')) {
    const isMath = element.namespaceURI === 'http://www.w3.org/1998/Math/MathML';
    expect(element.localName).toMatch(isMath ? mathElements : textElements);
    for (const name of element.classList) expect(name).toMatch(classes);
    if (element.localName === 'button') expect(element.parentElement?.localName).toBe('figcaption');
    for (const { name, value } of element.attributes) {
      expect(name).not.toMatch(/^on|style|src|id$|^name$/);
      if (!isMath) expect(name).toMatch(attributes);
      else expect(value).not.toMatch(/script|url|expression|https?:/i);
    }
    if (element.localName === 'a' && element.hasAttribute('href')) {
      expect(isSafeLink(element.getAttribute('href') ?? '')).toBe(true);
      expect(element.getAttribute('target')).toBe('_blank');
      expect(element.getAttribute('rel')).toBe('noopener noreferrer');
    }
  }
}
