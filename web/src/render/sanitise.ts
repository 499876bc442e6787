import DOMPurify, { type Config } from 'dompurify';
import { isSafeLink } from './links';

/** What markdown.ts writes, and nothing else. No id and no name: they would shadow properties of `document`. */
const text: Config = {
  ALLOWED_TAGS: [
    ...['a', 'blockquote', 'br', 'code', 'del', 'div', 'em', 'h2', 'h3', 'h4', 'h5', 'h6', 'hr', 'li', 'ol'],
    ...['p', 'pre', 's', 'span', 'strong', 'table', 'tbody', 'td', 'th', 'thead', 'tr', 'ul'],
  ],
  ALLOWED_ATTR: ['class', 'data-lang', 'data-tex', 'href', 'start', 'title'],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  // Else that expression would be asked about their values too.
  ADD_URI_SAFE_ATTR: ['data-lang', 'data-tex', 'start', 'title'],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
};

/** KaTeX's MathML: presentation only. `annotation` (the TeX source) goes with its text; links and actions do not exist. */
const mathematics: Config = {
  ALLOWED_TAGS: [
    ...['math', 'menclose', 'mfrac', 'mi', 'mmultiscripts', 'mn', 'mo', 'mover', 'mpadded', 'mphantom', 'mroot', 'mrow'],
    ...['mspace', 'msqrt', 'mstyle', 'msub', 'msubsup', 'msup', 'mtable', 'mtd', 'mtext', 'mtr', 'munder', 'munderover'],
    'semantics',
  ],
  ALLOWED_ATTR: [
    ...['accent', 'accentunder', 'columnalign', 'columnlines', 'columnspacing', 'display', 'displaystyle', 'fence'],
    ...['height', 'depth', 'linethickness', 'lspace', 'mathbackground', 'mathcolor', 'mathsize', 'mathvariant', 'maxsize'],
    ...['minsize', 'notation', 'rowlines', 'rowspacing', 'rspace', 'scriptlevel', 'separator', 'side', 'stretchy'],
    ...['symmetric', 'voffset', 'width', 'largeop', 'movablelimits', 'form'],
  ],
  ADD_FORBID_CONTENTS: ['annotation'],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
};

const highlighted: Config = { ALLOWED_TAGS: ['span'], ALLOWED_ATTR: ['class'], ALLOW_DATA_ATTR: false, ALLOW_ARIA_ATTR: false };

// A second look at every link, after all that DOMPurify did: where it leads, and that it opens apart from this page.
DOMPurify.addHook('afterSanitizeAttributes', (node) => {
  if (node.nodeName !== 'A') return;
  const address = node.getAttribute('href');
  if (address === null || !isSafeLink(address)) {
    node.removeAttribute('href');
    return;
  }
  node.setAttribute('target', '_blank');
  node.setAttribute('rel', 'noopener noreferrer');
});

const clean = (html: string, config: Config): DocumentFragment =>
  DOMPurify.sanitize(html, { ...config, RETURN_DOM_FRAGMENT: true });

export const sanitiseText = (html: string): DocumentFragment => clean(html, text);
export const sanitiseMath = (html: string): DocumentFragment => clean(html, mathematics);
export const sanitiseHighlighted = (html: string): DocumentFragment => clean(html, highlighted);
