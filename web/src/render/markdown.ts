import createMarkdown, { type Env, type Token } from 'markdown-it';
import { isSafeLink } from './links';
import { mathRules } from './math-rules';

const md = createMarkdown({
  // A model's HTML stays text.
  html: false,
  linkify: true,
  // Models break lines where they mean it: poems, addresses.
  breaks: true,
});
md.validateLink = isSafeLink;
// Only addresses that name their protocol: "example.py" is a file more often than a site.
md.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
md.use(mathRules);

/** Deeper emphasis in emphasis no one means; a tree of ten thousand levels takes browsers minutes. */
const mostNested = 32;

function withoutDeepNesting(tokens: readonly Token[]): Token[] {
  let depth = 0;
  return tokens.filter(({ nesting }) => {
    if (nesting < 0) depth--;
    const stays = nesting === 0 || depth < mostNested;
    if (nesting > 0) depth++;
    return stays;
  });
}

md.core.ruler.push('for_this_page', (state) => {
  for (const token of state.tokens) {
    if (token.children) token.children = withoutDeepNesting(token.children);
    if (token.type === 'heading_open' || token.type === 'heading_close') {
      // Level 1 is the conversation's title.
      token.tag = `h${Math.min(6, Number(token.tag.slice(1)) + 1)}`;
    } else if (token.type === 'th_open' || token.type === 'td_open') {
      // The content policy takes no style attributes: a class says how a column is aligned.
      const align = /^text-align:(\w+)$/.exec(String(token.attrGet('style') ?? ''))?.[1];
      token.attrs = align ? [['class', `align-${align}`]] : null;
    }
  }
});

const { escapeHtml } = md.utils;

/** The language that a fence names, if it looks like one. */
function languageOf(info: string): string {
  const name = info.trim().split(/[\s,{]/, 1)[0]?.toLowerCase() ?? '';
  return /^[a-z0-9+#._-]{1,24}$/.test(name) ? name : '';
}

md.renderer.rules['fence'] = (tokens, index) => {
  const token = tokens[index];
  return `<pre data-lang="${languageOf(token?.info ?? '')}"><code>${escapeHtml(token?.content ?? '')}</code></pre>\n`;
};
md.renderer.rules['code_block'] = (tokens, index) =>
  `<pre data-lang=""><code>${escapeHtml(tokens[index]?.content ?? '')}</code></pre>\n`;

// No picture is fetched for a model: it would tell a stranger's server who reads what. Its address becomes a link.
md.renderer.rules['image'] = (tokens, index) => {
  const token = tokens[index];
  const address = String(token?.attrGet('src') ?? '');
  const text = token?.content || address;
  return isSafeLink(address) ? `<a class="image" href="${escapeHtml(address)}">${escapeHtml(text)}</a>` : escapeHtml(text);
};

/** A block at the top level: a paragraph, a whole list, a code block, … */
export interface MarkdownBlock {
  /** Not yet sanitised. */
  html: string;
  /** The line of the source at which it begins, from 0. */
  line: number;
}

/** A block of more elements than this (a table of a thousand columns) is shown as its source: it would hold up the page. */
const mostElements = 20_000;

function renderBlock(tokens: Token[], source: string, env: Env): string {
  const html = md.renderer.render(tokens, md.options, env);
  // Both tags of an element count, text holds none.
  if (html.split('<', 2 * mostElements).length < 2 * mostElements) return html;
  const [begin, end] = tokens[0]?.map ?? [];
  return `<pre data-lang=""><code>${escapeHtml(source.split('\n').slice(begin, end).join('\n'))}</code></pre>\n`;
}

/**
 * Parses Markdown into its top-level blocks. `env` carries link definitions from one call to the next; `growing` says that
 * more text will come.
 */
export function parseBlocks(source: string, env: Env & { growing?: boolean }): MarkdownBlock[] {
  const blocks: MarkdownBlock[] = [];
  let open: Token[] = [];
  let depth = 0;
  for (const token of md.parse(source, env)) {
    open.push(token);
    depth += token.nesting;
    if (depth > 0) continue;
    blocks.push({ html: renderBlock(open, source, env), line: open[0]?.map?.[0] ?? 0 });
    open = [];
  }
  return blocks;
}
