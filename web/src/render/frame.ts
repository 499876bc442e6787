/** Words on the things that the page adds to an answer. */
export interface FrameWords {
  copyCode: string;
  code: string;
  table: string;
}

/** Puts code into a frame with its language and a copy button, and tables into one that scrolls, as wide formulas do too. */
export function addFrames(fragment: DocumentFragment, words: FrameWords): void {
  for (const pre of fragment.querySelectorAll('pre')) {
    const figure = document.createElement('figure');
    figure.className = 'code';
    const caption = document.createElement('figcaption');
    const name = document.createElement('span');
    name.textContent = pre.dataset['lang'] ?? '';
    const button = document.createElement('button');
    button.type = 'button';
    // MarkdownView listens for clicks on these; the sanitiser lets no button of a model through.
    button.dataset['action'] = 'copy-code';
    button.textContent = words.copyCode;
    caption.append(name, button);
    pre.replaceWith(figure);
    // Code that is too wide scrolls, so the keyboard must reach it.
    pre.tabIndex = 0;
    pre.setAttribute('role', 'region');
    pre.setAttribute('aria-label', words.code);
    figure.append(caption, pre);
  }
  for (const table of fragment.querySelectorAll('table')) {
    const scroller = document.createElement('div');
    scroller.className = 'table-scroll';
    scroller.tabIndex = 0;
    scroller.setAttribute('role', 'region');
    scroller.setAttribute('aria-label', words.table);
    table.replaceWith(scroller);
    scroller.append(table);
  }
  for (const formula of fragment.querySelectorAll<HTMLElement>('.math-display')) formula.tabIndex = 0;
}
