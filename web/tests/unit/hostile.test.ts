// @vitest-environment jsdom
import { beforeAll, describe, expect, it } from 'vitest';
import { MarkdownSurface } from '../../src/render/surface';
import { expectHarmless, loadModules, render, words } from './surface-for-tests';

beforeAll(loadModules);

const scheme = 'javascript:alert(1)';

const hostile: [name: string, text: string][] = [
  ['script', '<script>alert(1)</script>'],
  ['script in a paragraph', 'a <script src=//evil.example/x.js></script> b'],
  ['script that is not closed', '<script>alert(1)'],
  ['a picture with onerror', '<img src=x onerror=alert(1)>'],
  ['a picture with slashes', '<img/src/onerror=alert(1)>'],
  ['svg', '<svg onload=alert(1)><animate onbegin=alert(1) attributeName=x /></svg>'],
  ['svg with a use', '<svg><use href="data:image/svg+xml,<svg id=x onload=alert(1)>#x"/></svg>'],
  ['mathml with a link', `<math><a href="${scheme}">x</a></math>`],
  ['mathml with an action', `<math><maction actiontype="statusline#${scheme}" xlink:href="${scheme}">x</maction></math>`],
  ['mathml as a way out of the parser', '<math><mtext><table><mglyph><style><img src=x onerror=alert(1)></style></mglyph></table></mtext></math>'],
  ['annotation-xml', '<math><annotation-xml encoding="text/html"><img src=x onerror=alert(1)></annotation-xml></math>'],
  ['style', '<style>*{display:none}</style>'],
  ['style attribute', '<p style="position:fixed;inset:0">over</p>'],
  ['iframe', '<iframe srcdoc="<script>alert(1)</script>"></iframe>'],
  ['object and embed', '<object data=x></object><embed src=x>'],
  ['form', '<form action=//evil.example><button formaction=javascript:alert(1)>x</button></form>'],
  ['base', '<base href=//evil.example/>'],
  ['meta refresh', '<meta http-equiv=refresh content="0;url=//evil.example">'],
  ['link', '<link rel=stylesheet href=//evil.example/x.css>'],
  ['details with ontoggle', '<details open ontoggle=alert(1)>'],
  ['a comment that is none', '<!--><img src=x onerror=alert(1)>-->'],
  ['a declaration', '<!DOCTYPE html><![CDATA[<img src=x onerror=alert(1)>]]>'],
  ['names that shadow the document', '<img name=body><form id=cookie><input name=getElementById>'],
  ['a javascript link', `[x](${scheme})`],
  ['a javascript link in angles', `[x](<${scheme}>)`],
  ['a javascript link in capitals', '[x](JaVaScRiPt:alert(1))'],
  ['a javascript link with a tab', '[x](<java\tscript:alert(1)>)'],
  ['a javascript link with a tab entity', '[x](java&Tab;script:alert(1))'],
  ['a javascript link with a newline entity', '[x](java&NewLine;script:alert(1))'],
  ['a javascript link with a number entity', '[x](&#106;avascript:alert(1))'],
  ['a javascript link with a hexadecimal entity', '[x](&#x6A;avascript&#58;alert(1))'],
  ['a javascript link with a colon entity', '[x](javascript&colon;alert(1))'],
  ['a javascript link with percents', '[x](%6Aavascript:alert(1))'],
  ['a javascript link with a control character', '[x](\u0001javascript:alert(1))'],
  ['a javascript link with a soft hyphen', '[x](java\u00ADscript:alert(1))'],
  ['a javascript link behind blanks', '[x](   javascript:alert(1))'],
  ['a javascript link with escapes', '[x](java\\script\\:alert\\(1\\))'],
  ['a javascript autolink', `<${scheme}>`],
  ['a javascript reference', `[x]\n\n[x]: ${scheme}`],
  ['a javascript reference with a title', `[x][y]\n\n[y]: ${scheme} "a title"`],
  ['vbscript', '[x](vbscript:msgbox(1))'],
  ['a data link', '[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)'],
  ['a data picture', '![x](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9YWxlcnQoMSk+)'],
  ['a data png', '![x](data:image/png;base64,iVBORw0KGgo=)'],
  ['blob, file and filesystem links', '[a](blob:http://x/1) [b](file:///etc/passwd) [c](filesystem:http://x/1)'],
  ['links into this server', '[a](/v1/models) [b](status) [c](#/c/1) [d](?x) [e](../x) [f]()'],
  ['a link without a protocol', '[x](//evil.example)'],
  ['backslashes', '[x](\\\\evil.example) [y](http:\\\\evil.example)'],
  ['a remote picture', '![x](https://evil.example/pixel.png "title")'],
  ['a remote picture with markup in its text', '![**x** <img src=x onerror=alert(1)>](https://evil.example/p.png)'],
  ['a picture in a link', '[![x](https://evil.example/p.png)](https://evil.example)'],
  ['quotes in an address', '[x](https://e.example/"onmouseover="alert(1))'],
  ['quotes in a title', `[x](https://e.example '" onmouseover="alert(1)')`],
  ['quotes in a language', '```"><img src=x onerror=alert(1)>\nx\n```'],
  ['a class as a language', '```modal\nx\n```\n\n```x class=modal\ny\n```'],
  ['an end of code in code', '```html\n</code></pre><script>alert(1)</script>\n```'],
  ['html in coloured code', '```js\nlet x = "<img src=x onerror=alert(1)>"; // </span><script>\n```'],
  ['html in inline code', '`<img src=x onerror=alert(1)>`'],
  ['html in a table', '| <img src=x onerror=alert(1)> |\n| :-: |\n| <script>alert(1)</script> |'],
  ['\\href', `$\\href{${scheme}}{x}$`],
  ['\\url', `$\\url{${scheme}}$`],
  ['\\htmlClass', '$\\htmlClass{modal}{x}$ $\\htmlId{app}{x}$ $\\htmlData{x=1}{x}$'],
  ['\\htmlStyle', '$$\\htmlStyle{position:fixed;inset:0}{x}$$'],
  ['\\includegraphics', '$\\includegraphics[height=1em]{https://evil.example/p.png}$'],
  ['html in mathematics', '$\\text{<img src=x onerror=alert(1)>}$ \\(<script>alert(1)</script>\\)'],
  ['a colour that is none', '$\\color{red;background:url(//evil.example)}x$ $\\textcolor{javascript:alert(1)}{x}$'],
  ['a rule as large as the page', '$\\rule{99999em}{99999em}$'],
  ['a macro without end', '$\\def\\a{\\a\\a}\\a$ $\\newcommand\\b{\\b}\\b$'],
  ['quotes in mathematics', '$" onmouseover="alert(1)$'],
  ['mathematics with an annotation', '$\\text{</annotation><script>alert(1)</script>}$'],
  ['a character that turns the line', '\u202Etxt.exe [x](https://e.example/\u202Egnp)'],
  ['the end of the text in a tag', '<img src="x'],
  ['a null character', '<scr\u0000ipt>alert(1)</scr\u0000ipt> [x](java\u0000script:alert(1))'],
];

describe('hostile Markdown', () => {
  it.each(hostile)('%s', (_, text) => {
    expectHarmless(render(text));
  });

  it.each(hostile)('%s, inside of other blocks', (_, text) => {
    const indented = text.replaceAll('\n', '\n  ');
    expectHarmless(render(`- ${indented}\n\n> ${text.replaceAll('\n', '\n> ')}\n\n# ${text}\n\n**${text}** [${text}](https://e.example)`));
  });

  it.each(hostile)('%s, while it grows', (_, text) => {
    const root = document.createElement('div');
    const surface = new MarkdownSurface(root, words);
    for (let end = 1; end <= text.length; end += 3) {
      surface.show(text.slice(0, end), true);
      expectHarmless(root);
    }
    surface.show(text, false);
    expectHarmless(root);
  });

  it('shows what it does not run', () => {
    expect(render('<script>alert(1)</script>').textContent).toContain('<script>alert(1)</script>');
    expect(render(`[x](${scheme})`).textContent).toContain(scheme);
  });
});
