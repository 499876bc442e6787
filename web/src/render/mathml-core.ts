/**
 * KaTeX writes MathML 3; browsers know MathML Core, which left two things to style sheets and Unicode: letters in other
 * shapes (`mathvariant`) and how the columns of a table are aligned. Both are put in here.
 */
export function toMathmlCore(root: ParentNode): void {
  for (const letter of root.querySelectorAll('[mathvariant]')) {
    const shape = shapes[letter.getAttribute('mathvariant') ?? ''];
    if (shape && letter.childElementCount === 0) letter.textContent = reshape(letter.textContent ?? '', shape);
  }
  for (const table of root.querySelectorAll('mtable')) alignColumns(table);
}

/** Where Unicode's mathematical alphabets begin: A, a, Α, α, 0. */
interface Shape {
  upper: number;
  lower: number;
  greekUpper?: number;
  greekLower?: number;
  digit?: number;
}

const shapes: Readonly<Record<string, Shape>> = {
  bold: { upper: 0x1d400, lower: 0x1d41a, greekUpper: 0x1d6a8, greekLower: 0x1d6c2, digit: 0x1d7ce },
  italic: { upper: 0x1d434, lower: 0x1d44e, greekUpper: 0x1d6e2, greekLower: 0x1d6fc },
  'bold-italic': { upper: 0x1d468, lower: 0x1d482, greekUpper: 0x1d71c, greekLower: 0x1d736 },
  script: { upper: 0x1d49c, lower: 0x1d4b6 },
  'bold-script': { upper: 0x1d4d0, lower: 0x1d4ea },
  fraktur: { upper: 0x1d504, lower: 0x1d51e },
  'bold-fraktur': { upper: 0x1d56c, lower: 0x1d586 },
  'double-struck': { upper: 0x1d538, lower: 0x1d552, digit: 0x1d7d8 },
  'sans-serif': { upper: 0x1d5a0, lower: 0x1d5ba, digit: 0x1d7e2 },
  'bold-sans-serif': { upper: 0x1d5d4, lower: 0x1d5ee, digit: 0x1d7ec },
  'sans-serif-italic': { upper: 0x1d608, lower: 0x1d622 },
  monospace: { upper: 0x1d670, lower: 0x1d68a, digit: 0x1d7f6 },
};

/** Letters that Unicode had before it had the alphabets: their places there are empty. */
const earlier: Readonly<Record<number, string>> = {
  0x1d455: 'ℎ',
  ...{ 0x1d49d: 'ℬ', 0x1d4a0: 'ℰ', 0x1d4a1: 'ℱ', 0x1d4a3: 'ℋ', 0x1d4a4: 'ℐ', 0x1d4a7: 'ℒ', 0x1d4a8: 'ℳ', 0x1d4ad: 'ℛ' },
  ...{ 0x1d4ba: 'ℯ', 0x1d4bc: 'ℊ', 0x1d4c4: 'ℴ' },
  ...{ 0x1d506: 'ℭ', 0x1d50b: 'ℌ', 0x1d50c: 'ℑ', 0x1d515: 'ℜ', 0x1d51d: 'ℨ' },
  ...{ 0x1d53a: 'ℂ', 0x1d53f: 'ℍ', 0x1d545: 'ℕ', 0x1d547: 'ℙ', 0x1d548: 'ℚ', 0x1d549: 'ℝ', 0x1d551: 'ℤ' },
};

function reshape(text: string, { upper, lower, greekUpper, greekLower, digit }: Shape): string {
  const ranges: [first: string, last: string, to: number | undefined][] = [
    ['A', 'Z', upper],
    ['a', 'z', lower],
    ['Α', 'Ω', greekUpper],
    ['α', 'ω', greekLower],
    ['0', '9', digit],
  ];
  return Array.from(text, (letter) => {
    const range = ranges.find(([first, last]) => letter >= first && letter <= last);
    if (range?.[2] === undefined) return letter;
    const place = range[2] + (letter.codePointAt(0) ?? 0) - (range[0].codePointAt(0) ?? 0);
    return earlier[place] ?? String.fromCodePoint(place);
  }).join('');
}

/** Says by classes what `columnalign` and `columnspacing` say; the last value holds for the columns behind it. */
function alignColumns(table: Element): void {
  const aligns = (table.getAttribute('columnalign') ?? '').split(/\s+/);
  const gaps = (table.getAttribute('columnspacing') ?? '').split(/\s+/);
  for (const row of table.children) {
    for (const [column, cell] of [...row.children].entries()) {
      const align = aligns[column] ?? aligns.at(-1) ?? '';
      if (/^(left|right)$/.test(align)) cell.classList.add(`align-${align}`);
      if (column > 0 && (gaps[column - 1] ?? gaps.at(-1)) === '0em') cell.classList.add('math-close');
    }
  }
}
