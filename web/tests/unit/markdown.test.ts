// @vitest-environment jsdom
import { beforeAll, describe, expect, it } from 'vitest';
import { loadModules, render } from './surface-for-tests';

beforeAll(loadModules);

describe('Markdown', () => {
  const html = (text: string): string => render(text).innerHTML;

  it('opens links apart and shows their title', () => {
    const link = render('[x](https://e.example/a "t")').querySelector('a');
    expect(link?.outerHTML).toBe('<a href="https://e.example/a" title="t" target="_blank" rel="noopener noreferrer">x</a>');
    expect(render('mail <a@e.example>, see https://e.example.').querySelectorAll('a')).toHaveLength(2);
    expect(render('main.py and www.e.example').querySelector('a')).toBeNull();
  });

  it('makes a link of a picture', () => {
    const root = render('![A whale](https://e.example/w.png)');
    expect(root.querySelector('img')).toBeNull();
    expect(root.querySelector('a')?.textContent).toBe('A whale');
    expect(render('![](https://e.example/w.png)').textContent).toContain('https://e.example/w.png');
  });

  it('puts headings below those of the page', () => {
    expect(html('# a\n\n###### b')).toBe('<h2>a</h2><h6>b</h6>');
  });

  it('frames code and colours it', () => {
    const root = render('```python title="x"\nimport this\n```');
    expect(root.querySelector('figcaption span')?.textContent).toBe('python');
    expect(root.querySelector('.hljs-keyword')?.textContent).toBe('import');
    expect(root.querySelector('code')?.textContent).toBe('import this\n');
    expect(render('```nonsense\nx\n```').querySelector('code')?.innerHTML).toBe('x\n');
  });

  it('aligns columns without styles', () => {
    const root = render('| a | b |\n| --: | :-: |\n| 1 | 2 |');
    expect([...root.querySelectorAll('td')].map((cell) => cell.className)).toEqual(['align-right', 'align-center']);
  });

  const tex = (text: string): [tex: string, display: boolean][] =>
    [...render(text).querySelectorAll<HTMLElement>('[data-tex]')].map((element) => [
      element.dataset['tex'] ?? '',
      element.classList.contains('math-display'),
    ]);

  it.each<[string, [string, boolean][]]>([
    ['$x^2$', [['x^2', false]]],
    ['\\(x\\) and \\[y\\]', [['x', false], ['y', true]]],
    ['$$x$$', [['x', true]]],
    ['a $$x$$ b', [['x', true]]],
    ['$$\nx\n+ y\n$$', [['x\n+ y', true]]],
    ['\\[\nx\n\\]', [['x', true]]],
    ['- a\n\n  $$\n  x\n  $$', [['x', true]]],
    ['> \\[\n> x\n> \\]', [['x', true]]],
    ['para\n$$\nx\n$$\nmore', [['x', true]]],
    ['$a_1$ and $b_2$', [['a_1', false], ['b_2', false]]],
    ['$a \\$ b$', [['a \\$ b', false]]],
    ['价格$x$元', [['x', false]]],
    ['costs $5 and $6', []],
    ['$5-$10', []],
    ['$ x $', []],
    ['\\$x$', []],
    ['\\\\(x\\\\)', []],
    ['`$x$`', []],
    ['```\n$x$\n```', []],
    ['$$', []],
    ['\\[ never closed', []],
    ['$\n\nx$', []],
  ])('finds the mathematics of %j', (text, found) => {
    expect(tex(text)).toEqual(found);
  });

  it('sets mathematics as MathML, without styles', () => {
    const root = render('$$\\frac{1}{2}$$ and $\\nosuchcommand$');
    expect(root.querySelector('mfrac')).not.toBeNull();
    expect(root.innerHTML).not.toMatch(/style|annotation/);
    expect(root.querySelector('.math-broken')?.textContent).toBe('\\nosuchcommand');
  });

  it.each([
    ['\\mathbb{R}', 'ℝ'],
    ['\\mathbb{A}', '𝔸'],
    ['\\mathcal{L}', 'ℒ'],
    ['\\mathfrak{g}', '𝔤'],
    ['\\mathbf{x1}', '𝐱𝟏'],
    ['\\boldsymbol{\\alpha}', '𝜶'],
    ['\\mathrm{d}', 'd'],
  ])('writes %s as %s, since browsers know no other way', (tex, letters) => {
    expect(render(`$${tex}$`).querySelector('math')?.textContent).toBe(letters);
  });

  it('aligns the columns of formulas', () => {
    const cells = [...render('$$\\begin{aligned} a &= b \\\\ c &= d \\end{aligned}$$').querySelectorAll('mtd')];
    expect(cells.map((cell) => cell.getAttribute('class'))).toEqual(['align-right', 'align-left math-close', 'align-right', 'align-left math-close']);
  });
});
