import { lazy } from './lazy';
import { sanitiseHighlighted } from './sanitise';

const highlighter = lazy(() => import('./highlight'));
const mathematics = lazy(() => import('./math'));

// Beyond this colours are not worth the time; while the code is still coming, it is coloured in every frame.
const mostHighlighted = 60_000;
const mostHighlightedGrowing = 8_000;

// A formula takes up to a millisecond. A page of them is set bit by bit, so that scrolling and typing go on.
const longestMilliseconds = 40;

/** done: all of it. loading: a module is on its way. more: there was too much for one go. */
export type Upgraded = 'done' | 'loading' | 'more';

/** Colours code and sets mathematics below `root`, as far as it is not done yet. Unless all is done it is to be called again. */
export function upgrade(root: ParentNode, growing: boolean): Upgraded {
  const code = upgradeCode(root, growing);
  const math = upgradeMath(root);
  return code === 'loading' ? code : math;
}

function upgradeCode(root: ParentNode, growing: boolean): Upgraded {
  for (const code of root.querySelectorAll<HTMLElement>('pre[data-lang]:not([data-lang=""]) > code:not([data-done])')) {
    const text = code.textContent ?? '';
    if (text.length > (growing ? mostHighlightedGrowing : mostHighlighted)) continue;
    const module = highlighter.get();
    if (!module) return 'loading';
    const html = module.highlightCode(text, code.parentElement?.dataset['lang'] ?? '');
    if (html !== null) code.replaceChildren(sanitiseHighlighted(html));
    code.dataset['done'] = '';
  }
  return 'done';
}

function upgradeMath(root: ParentNode): Upgraded {
  const end = performance.now() + longestMilliseconds;
  for (const element of root.querySelectorAll<HTMLElement>('[data-tex]:not([data-done])')) {
    const module = mathematics.get();
    if (!module) return 'loading';
    if (performance.now() > end) return 'more';
    const mathml = module.texToMathml(element.dataset['tex'] ?? '', element.classList.contains('math-display'));
    if (mathml) element.replaceChildren(mathml);
    else element.classList.add('math-broken');
    element.dataset['done'] = '';
  }
  return 'done';
}
