// @vitest-environment jsdom
import { beforeAll, describe, it } from 'vitest';
import { expectHarmless, loadModules, render } from './surface-for-tests';

beforeAll(loadModules);

describe('hostile Markdown of 100 KB', () => {
  const size = 100_000;
  const repeated = (piece: string): string => piece.repeat(Math.ceil(size / piece.length));
  it.each([
    ['one word', repeated('a')],
    ['words', repeated('word ')],
    ['quotations', repeated('>')],
    ['quotations with blanks', repeated('> ')],
    ['lists in lists', repeated('- ')],
    ['lists deeper and deeper', Array.from({ length: 400 }, (_, depth) => `${' '.repeat(2 * depth)}- x`).join('\n')],
    ['stars', repeated('*')],
    ['emphasis without end', repeated('*a **b ')],
    ['emphasis in emphasis', repeated('*a _b ') + repeated(' b_ a*')],
    ['brackets', repeated('[')],
    ['closing brackets', repeated(']')],
    ['bracket pairs', repeated('[]')],
    ['links in links', repeated('[a](')],
    ['pictures in pictures', repeated('![')],
    ['angles', repeated('<')],
    ['angle links', repeated('<a:')],
    ['backticks', repeated('`')],
    ['backticks of every length', Array.from({ length: 440 }, (_, length) => '`'.repeat(length)).join(' ')],
    ['dollars', repeated('$')],
    ['dollars that open', repeated('$a ')],
    ['dollars that close', repeated(' a$')],
    ['open brackets of mathematics', repeated('\\(')],
    ['open displays, a line each', repeated('\\[\n')],
    ['backslashes', repeated('\\')],
    ['entities', repeated('&amp')],
    ['tildes', repeated('~~a ')],
    ['a wide table', `${repeated('|a')}\n${repeated('|-')}\n${repeated('|b')}`],
    ['addresses', repeated('http://a.b ')],
    ['an endless address', `http://${repeated('a.')}`],
    ['mailboxes', repeated('a@b.c ')],
    ['definitions', repeated('[a]: b\n')],
    ['a code block', `\`\`\`js\n${repeated('x = "a"; ')}\n\`\`\``],
    ['a code block that does not end', `\`\`\`cpp\n${repeated('template<')}`],
    ['mathematics in mathematics', `$${repeated('{')}$ $${'\\frac{'.repeat(150)}$`],
    ['many formulas', repeated('$x^2$ ').slice(0, 20_000)],
  ])(
    '%s',
    (_, text) => {
      expectHarmless(render(text));
    },
  );
});
