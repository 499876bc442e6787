import katex from 'katex';
import { toMathmlCore } from './mathml-core';
import { sanitiseMath } from './sanitise';

// A formula is set again in every frame of the paragraph that it stands in: the last ones are remembered.
const mostRemembered = 500;
const remembered = new Map<string, DocumentFragment | null>();

/**
 * A formula as MathML; null if KaTeX cannot read it. MathML needs neither fonts nor styles of ours, so the content policy
 * holds. `trust: false` keeps \href, \includegraphics and \html… from doing anything; sizes and expansions are bounded.
 */
export function texToMathml(tex: string, display: boolean): DocumentFragment | null {
  const key = `${display ? 'd' : 'i'}${tex}`;
  let fragment = remembered.get(key);
  if (fragment === undefined) {
    fragment = setTex(tex, display);
    if (remembered.size >= mostRemembered) remembered.clear();
    remembered.set(key, fragment);
  }
  return fragment && document.importNode(fragment, true);
}

function setTex(tex: string, display: boolean): DocumentFragment | null {
  try {
    const fragment = sanitiseMath(
      katex.renderToString(tex, {
        output: 'mathml',
        displayMode: display,
        trust: false,
        // What is not trusted is shown by its name, in a red that can be read on both papers.
        errorColor: '#cf5a52',
        strict: 'ignore',
        maxExpand: 500,
        maxSize: 20,
      }),
    );
    toMathmlCore(fragment);
    return fragment;
  } catch {
    return null;
  }
}
