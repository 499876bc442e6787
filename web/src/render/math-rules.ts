import type { MarkdownIt, StateBlock, StateInline } from 'markdown-it';

// Longer ones are text with stray dollars; the bound also keeps many openers without a closer from taking quadratic time.
const mostInlineLength = 1000;
const mostBlockLines = 100;

interface Place {
  /** Where the TeX ends, and where the closing mark does. */
  end: number;
  after: number;
  begin: number;
  display: boolean;
}

function closing(source: string, begin: number, max: number, mark: string): number {
  const limit = Math.min(max, begin + mostInlineLength);
  const at = source.slice(begin, limit).indexOf(mark);
  return at < 0 ? -1 : begin + at;
}

/** The mathematics that begins at `from`: \(…\), \[…\], $$…$$ or $…$. */
function findInline(source: string, from: number, max: number): Place | null {
  const two = source.slice(from, from + 2);
  if (two === '\\(' || two === '\\[' || two === '$$') {
    const mark = two === '$$' ? '$$' : two === '\\(' ? '\\)' : '\\]';
    const end = closing(source, from + 2, max, mark);
    if (end <= from + 2) return null;
    return { begin: from + 2, end, after: end + 2, display: two !== '\\(' };
  }
  // Pandoc's rule, which leaves prices alone: no blank inside the dollars, no digit behind them.
  if (source[from] !== '$' || /\s/.test(source[from + 1] ?? ' ')) return null;
  for (let end = closing(source, from + 1, max, '$'); end >= 0; end = closing(source, end + 1, max, '$')) {
    if (end - from > mostInlineLength) return null;
    const last = source[end - 1] ?? '';
    if (last === '\\') continue;
    if (end === from + 1 || /\s/.test(last) || /\d/.test(source[end + 1] ?? '')) return null;
    return { begin: from + 1, end, after: end + 1, display: false };
  }
  return null;
}

function inlineRule(state: StateInline, silent: boolean): boolean {
  const first = state.src[state.pos];
  if (first !== '$' && first !== '\\') return false;
  const place = findInline(state.src, state.pos, state.posMax);
  if (!place) return false;
  if (!silent) {
    const token = state.push(place.display ? 'math_display' : 'math_inline', 'span', 0);
    token.content = state.src.slice(place.begin, place.end).trim();
  }
  state.pos = place.after;
  return true;
}

/** $$…$$ and \[…\] that begin a line and end one. */
function blockRule(state: StateBlock, startLine: number, endLine: number, silent: boolean): boolean {
  const begin = (state.bMarks[startLine] ?? 0) + (state.tShift[startLine] ?? 0);
  const opener = state.src.slice(begin, begin + 2);
  if (opener !== '$$' && opener !== '\\[') return false;
  if ((state.sCount[startLine] ?? 0) - state.blkIndent >= 4) return false;

  const lastLine = Math.min(endLine, startLine + mostBlockLines);
  const closer = opener === '$$' ? '$$' : '\\]';
  const at = state.src.slice(begin + 2, state.eMarks[lastLine - 1]).indexOf(closer);
  let nextLine = endLine;
  if (at >= 0) {
    const after = begin + 2 + at + 2;
    nextLine = startLine + 1;
    while ((state.eMarks[nextLine - 1] ?? after) < after) nextLine++;
    // Something behind it: a paragraph that begins with mathematics, which is the inline rule's.
    if (state.src.slice(after, state.eMarks[nextLine - 1]).trim() !== '') return false;
  } else if (lastLine < endLine || state.env['growing'] !== true) {
    // Only while an answer comes it is taken without its end: it is not to be a paragraph with stray stars until then.
    return false;
  }
  for (let line = startLine + 1; line < nextLine; line++) {
    // A line that is indented less ends the list item around this block.
    if ((state.sCount[line] ?? 0) < state.blkIndent && !state.isEmpty(line)) return false;
  }
  if (silent) return true;

  const raw = state.getLines(startLine, nextLine, state.sCount[startLine] ?? 0, false).trim();
  const token = state.push(at < 0 ? 'math_pending' : 'math_block', 'div', 0);
  token.block = true;
  token.content = raw.slice(2, at < 0 ? undefined : -2).trim();
  token.map = [startLine, nextLine];
  state.line = nextLine;
  return true;
}

/** Teaches markdown-it mathematics. It is only marked here (`data-tex`), and set when KaTeX has been loaded. */
export function mathRules(md: MarkdownIt): void {
  md.inline.ruler.before('escape', 'math', inlineRule);
  md.block.ruler.before('fence', 'math', blockRule, { alt: ['paragraph', 'reference', 'blockquote', 'list'] });

  const { escapeHtml } = md.utils;
  md.renderer.rules['math_inline'] = (tokens, index) => {
    const tex = escapeHtml(tokens[index]?.content ?? '');
    return `<span class="math" data-tex="${tex}">${tex}</span>`;
  };
  md.renderer.rules['math_display'] = (tokens, index) => {
    const tex = escapeHtml(tokens[index]?.content ?? '');
    return `<span class="math math-display" data-tex="${tex}">${tex}</span>`;
  };
  md.renderer.rules['math_block'] = (tokens, index) => {
    const tex = escapeHtml(tokens[index]?.content ?? '');
    return `<div class="math math-display" data-tex="${tex}">${tex}</div>\n`;
  };
  md.renderer.rules['math_pending'] = (tokens, index) =>
    `<div class="math math-pending">${escapeHtml(tokens[index]?.content ?? '')}</div>\n`;
}
