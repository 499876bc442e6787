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

/**
 * Nothing in it can run, fetch, lead astray, or look like a part of the page. One `expect` for all of it: a page of
 * 100 KB has tens of thousands of elements, and an `expect` takes as long as looking at a hundred of them.
 */
export function expectHarmless(root: Element): void {
  const wrong: string[] = [];
  for (const element of root.querySelectorAll('*')) {
    const check = (good: boolean, what: string): void => {
      if (!good) wrong.push(`<${element.localName}>: ${what}`);
    };
    const isMath = element.namespaceURI === 'http://www.w3.org/1998/Math/MathML';
    check((isMath ? mathElements : textElements).test(element.localName), 'the element');
    for (const name of element.classList) check(classes.test(name), `class ${name}`);
    if (element.localName === 'button') check(element.parentElement?.localName === 'figcaption', 'its parent');
    for (const { name, value } of element.attributes) {
      check(!/^on|style|src|id$|^name$/.test(name), `attribute ${name}`);
      if (!isMath) check(attributes.test(name), `attribute ${name}`);
      else check(!/script|url|expression|https?:/i.test(value), `${name} = ${value}`);
    }
    if (element.localName === 'a' && element.hasAttribute('href')) {
      const href = element.getAttribute('href') ?? '';
      check(isSafeLink(href), `href ${href}`);
      check(element.getAttribute('target') === '_blank', 'its target');
      check(element.getAttribute('rel') === 'noopener noreferrer', 'its rel');
    }
  }
  expect(wrong.slice(0, 20)).toEqual([]);
}
