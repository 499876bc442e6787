// @vitest-environment jsdom
import { beforeAll, describe, expect, it } from 'vitest';
import { MarkdownSurface } from '../../src/render/surface';
import { loadModules, render, words } from './surface-for-tests';

beforeAll(loadModules);

describe('MarkdownSurface', () => {
  const documents = [
    '# One\n\npara *a\nb* c\n\n- x\n- y\n\n  z\n\n1. one\n2. two\n\n> q\nlazy\n\n```js\nlet a = 1;\n\n# no heading\n```\n\nend',
    'para\n#tag\n\npara\n***bold*** text\n\npara\n---\n\npara\n- item\n- - deep\n\n***\n\nlast',
    '| a | b |\n| - | -: |\n| 1 | 2 |\n| 3 | 4 |\n\n$$\nx\n\ny\n$$\n\n\\[ a \\] b\n\n\\[\nq\n\\]\n\nsee [later] and [this][ref].\n\n[later]: https://e.example/later\n\n[ref]: https://e.example/ref "t"\n\nend',
    '```python\nprint("a")\n```\n```\nplain\n```\ntext right behind\n    not code\n\n    code\n\ttab code\n\nend',
    'a\r\nb\r\n\r\n- c\r\n- d\r\n\r\ne',
    '* a\n+ b\n- c\n1. d\n1) e\n\n\n* f\n\n* g\n',
    '$x$ **$y$** `z` $$w$$\n\n- $a$\n- $$\n  b\n  $$\n',
  ];

  function grown(text: string, step: number): HTMLElement {
    const root = document.createElement('div');
    const surface = new MarkdownSurface(root, words);
    for (let end = 0; end < text.length; end += step) surface.show(text.slice(0, end), true);
    surface.show(text, false);
    return root;
  }

  it.each(documents)('comes to the same whether it grows or is there at once: %j', (text) => {
    const whole = render(text);
    for (const step of [1, 4, 20]) {
      const result = grown(text, step);
      // Attributes that came later stand in another order, which means nothing.
      if (!result.isEqualNode(whole)) expect(result.innerHTML).toBe(whole.innerHTML);
    }
  });

  it.each(documents)('shows at every moment of growing what the text so far is: %j', (text) => {
    const root = document.createElement('div');
    const surface = new MarkdownSurface(root, words);
    for (let end = 1; end <= text.length; end++) {
      const sofar = text.slice(0, end);
      surface.show(sofar, true);
      // Links that are defined later, and mathematics that is not closed yet, are the two known differences.
      if (/\]:|\$\$|\\\[/.test(text)) continue;
      expect(root.innerHTML).toBe(render(sofar).innerHTML);
    }
  });

  it('leaves finished blocks alone while the text grows', () => {
    const root = document.createElement('div');
    const surface = new MarkdownSurface(root, words);
    surface.show('first *one*\n\n- a\n- b\n\nthird', true);
    const [first, second] = root.children;
    const emphasis = root.querySelector('em');
    surface.show('first *one*\n\n- a\n- b\n\nthird one\n\nfourth', true);
    surface.show('first *one*\n\n- a\n- b\n\nthird one\n\nfourth one', false);
    expect(root.children[0]).toBe(first);
    expect(root.children[1]).toBe(second);
    expect(root.querySelector('em')).toBe(emphasis);
    expect(root.children).toHaveLength(4);
  });

  it('appends to the text node that grows, so that a selection in it stays', () => {
    const root = document.createElement('div');
    const surface = new MarkdownSurface(root, words);
    surface.show('some te', true);
    const node = root.querySelector('p')?.firstChild;
    surface.show('some text **and', true);
    expect(root.querySelector('p')?.firstChild).toBe(node);
    surface.show('some text **and more**', true);
    expect(root.querySelector('p')?.firstChild).toBe(node);
    expect(root.innerHTML).toBe('<p>some text <strong>and more</strong></p>');
  });

  it('takes another text in place of the one it shows', () => {
    const root = document.createElement('div');
    const surface = new MarkdownSurface(root, words);
    surface.show('one\n\ntwo\n\nthree', true);
    surface.show('four', true);
    expect(root.innerHTML).toBe('<p>four</p>');
    surface.show('', false);
    expect(root.innerHTML).toBe('');
  });

  it('goes on growing after it was whole: an answer that is continued', () => {
    const root = document.createElement('div');
    const surface = new MarkdownSurface(root, words);
    surface.show('one\n\ntwo', false);
    const first = root.children[0];
    surface.show('one\n\ntwo and', true);
    surface.show('one\n\ntwo and\n\nthree', false);
    expect(root.innerHTML).toBe('<p>one</p><p>two and</p><p>three</p>');
    expect(root.children[0]).toBe(first);
  });

  it('shows a formula that is not closed yet as it stands', () => {
    const root = document.createElement('div');
    const surface = new MarkdownSurface(root, words);
    surface.show('a\n\n$$\nx_1 * y_2 *', true);
    expect(root.innerHTML).toBe('<p>a</p><div class="math math-pending">x_1 * y_2 *</div>');
    surface.show('a\n\n$$\nx_1 * y_2 *', false);
    expect(root.querySelector('.math')).toBeNull();
  });
});
