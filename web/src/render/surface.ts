import type { Env } from 'markdown-it';
import { addFrames, type FrameWords } from './frame';
import { forgetWhenLoaded, whenLoaded } from './lazy';
import { parseBlocks, type MarkdownBlock } from './markdown';
import { patchNodes } from './patch';
import { sanitiseText } from './sanitise';
import { upgrade } from './upgrade';

interface ShownBlock {
  html: string;
  nodes: ChildNode[];
}

/**
 * Shows Markdown in an element, also while it grows.
 *
 * A top-level block is final as soon as a whole line of the next block has come: then it is never parsed or drawn again.
 * Each growth parses only what follows the last final block, and of that only the changed nodes are replaced. When the text is whole it is
 * parsed once more from its beginning, since a link may be defined behind its use; blocks that come out the same stay.
 */
export class MarkdownSurface {
  private readonly blocks: ShownBlock[] = [];
  private source = '';
  /** The first `finalBlocks` blocks end at `finalEnd`; whole lines have been looked at up to `linesEnd`. */
  private finalBlocks = 0;
  private finalEnd = 0;
  private linesEnd = 0;
  private env: Env = {};
  private growing = false;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private readonly upgradeAll = (): void => {
    const upgraded = upgrade(this.root, this.growing);
    if (upgraded === 'loading') whenLoaded(this.upgradeAll);
    clearTimeout(this.timer);
    if (upgraded === 'more') this.timer = setTimeout(this.upgradeAll, 16);
  };

  constructor(
    private readonly root: HTMLElement,
    private readonly words: FrameWords,
  ) {}

  /** `growing`: more will come, and the next source begins with this one. */
  show(text: string, growing: boolean): void {
    const source = text.replace(/\r\n?/g, '\n');
    if (source === this.source && growing === this.growing) return;
    if (!source.startsWith(this.source)) this.restart();
    this.source = source;
    this.growing = growing;
    if (growing) this.grow();
    else this.place(0, parseBlocks(source, {}));
    this.upgradeAll();
  }

  /** To be called when the element goes. */
  end(): void {
    forgetWhenLoaded(this.upgradeAll);
    clearTimeout(this.timer);
  }

  private restart(): void {
    this.finalBlocks = 0;
    this.finalEnd = 0;
    this.linesEnd = 0;
    this.env = {};
  }

  private grow(): void {
    const from = this.finalBlocks;
    const wanted: MarkdownBlock[] = [];
    // Only whole lines decide: "para\n#" is a heading until the next character makes it "para\n#tag".
    const linesEnd = this.source.lastIndexOf('\n') + 1;
    if (linesEnd > this.linesEnd) {
      this.linesEnd = linesEnd;
      const lines = this.source.slice(this.finalEnd, linesEnd);
      const whole = parseBlocks(lines, this.env);
      const last = whole.pop();
      if (last) {
        wanted.push(...whole);
        this.finalBlocks += whole.length;
        this.finalEnd += offsetOfLine(lines, last.line);
      }
    }
    const env = { references: { ...this.env.references }, growing: true };
    wanted.push(...parseBlocks(this.source.slice(this.finalEnd), env));
    this.place(from, wanted);
  }

  /** Makes the blocks from number `from` on look as wanted. */
  private place(from: number, wanted: readonly MarkdownBlock[]): void {
    for (const [offset, { html }] of wanted.entries()) {
      const index = from + offset;
      const block = this.blocks[index];
      if (block?.html === html) continue;
      const nodes = this.draw(html);
      if (block) this.blocks[index] = { html, nodes: this.replace(index, nodes) };
      else {
        this.root.append(...nodes);
        this.blocks[index] = { html, nodes };
      }
    }
    for (const extra of this.blocks.splice(from + wanted.length)) {
      for (const node of extra.nodes) node.remove();
    }
  }

  private replace(index: number, nodes: ChildNode[]): ChildNode[] {
    const old = this.blocks[index]?.nodes ?? [];
    return patchNodes(this.root, old, nodes);
  }

  private draw(html: string): ChildNode[] {
    const fragment = sanitiseText(html);
    addFrames(fragment, this.words);
    upgrade(fragment, this.growing);
    return [...fragment.childNodes].filter((node) => !(node instanceof Text) || node.data.trim() !== '');
  }
}

function offsetOfLine(text: string, line: number): number {
  let offset = 0;
  for (let seen = 0; seen < line; seen++) offset = text.indexOf('\n', offset) + 1;
  return offset;
}
