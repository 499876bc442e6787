// Every view at desktop and phone width, light and dark, in both languages: nothing is cut off, everything has a name and
// contrast enough. The screenshots are for looking at.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { describe, it } from 'node:test';
import { eventually, lastAnswer, messageBox, needsMock, phone, say, screenshot, whenDone, withBrowser, withPage } from './harness.mjs';

withBrowser();

const axe = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

async function expectAccessible(page) {
  await page.evaluate(axe);
  const violations = await page.evaluate(async () => {
    const rules = {
      runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice'],
      // Models leave levels out; what they write is not ours to number.
      rules: { 'heading-order': { enabled: false } },
    };
    const result = await window.axe.run(document, rules);
    return result.violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ target, failureSummary }) => `${target} ${failureSummary}`).slice(0, 3).join(' | ')}`);
  });
  assert.deepEqual(violations, []);
}

/** The page itself never scrolls sideways, and nothing sticks out of it. */
async function expectInside(page) {
  const { scrolled, out } = await page.evaluate(() => ({
    scrolled: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    out: [...document.querySelectorAll('button, textarea, input, h1, h2, p, .question')]
      .filter((element) => element.checkVisibility({ visibilityProperty: true }) && !element.closest('.visually-hidden, .table-scroll, .choice'))
      .filter((element) => {
        const box = element.getBoundingClientRect();
        return box.width > 1 && (box.left < -1 || box.right > window.innerWidth + 1);
      })
      .map((element) => element.outerHTML.slice(0, 120)),
  }));
  assert.equal(scrolled, 0);
  assert.deepEqual(out, []);
}

const sizes = { desktop: {}, phone };
const words = {
  en: { locale: 'en-US', settings: 'Settings', status: 'Status', open: 'Show conversations', preferences: 'Preferences', help: 'Keyboard shortcuts' },
  zh: { locale: 'zh-CN', settings: '设置', status: '状态', open: '显示对话列表', preferences: '偏好设置', help: '键盘快捷键' },
};

for (const [size, view] of Object.entries(sizes)) {
  for (const colorScheme of ['light', 'dark']) {
    for (const [language, w] of Object.entries(words)) {
      describe(`${size}, ${colorScheme}, ${language}`, needsMock, () => {
        const name = (what) => `layout-${size}-${colorScheme}-${language}-${what}`;
        const check = async (page, what) => {
          await screenshot(page, name(what));
          await expectInside(page);
          await expectAccessible(page);
        };
        const isPhone = size === 'phone';

        it('shows every view whole', async () => {
          await withPage({ ...view, colorScheme, locale: w.locale, allowErrors: true }, async ({ page, mock }) => {
            await page.locator('.empty-note', { hasText: 'fathom-tiny' }).waitFor();
            await check(page, '1-empty');
            await say(page, '/markdown');
            await lastAnswer(page).locator('math mfrac').first().waitFor();
            await check(page, '2-markdown');
            await page.locator('.thread').evaluate((box) => box.scrollTo(0, 0));
            await screenshot(page, name('2-markdown-top'));
            await page.getByRole('button', { name: language === 'en' ? 'Think' : '思考', exact: true }).click();
            await say(page, 'What is 17 + 25?');
            await say(page, '/broken');
            await check(page, '3-broken');
            await page.locator('.header').getByRole('button', { name: w.settings, exact: true }).click();
            await page.locator('.panel').waitFor();
            await check(page, '4-settings');
            if (isPhone) await page.locator('.panel .panel-head button').click();
            await page.locator('.header').getByRole('button', { name: w.status, exact: true }).click();
            await page.locator('.expert-map').waitFor();
            await page.waitForTimeout(3200);
            await check(page, '5-status');
            await page.locator('.panel .panel-head button').click();
            if (isPhone) {
              await page.getByRole('button', { name: w.open }).click();
              await page.locator('.sidebar').waitFor();
              await check(page, '6-drawer');
            }
            await page.getByRole('button', { name: w.preferences }).click();
            await page.locator('dialog').waitFor();
            await check(page, '7-preferences');
            await page.keyboard.press('Escape');
            await page.locator('dialog').waitFor({ state: 'detached' });
            if (isPhone) await page.getByRole('button', { name: w.open }).click();
            await page.getByRole('button', { name: w.help }).click();
            await page.locator('dialog').waitFor();
            await check(page, '8-help');
            await page.keyboard.press('Escape');
            mock.state.down = true;
            await say(page, '/echo lost');
            await page.locator('.banner').waitFor();
            await check(page, '9-unreachable');
          });
        });
      });
    }
  }
}

describe('a phone', needsMock, () => {
  it('opens and closes the list of conversations over the page', async () => {
    await withPage(phone, async ({ page }) => {
      await say(page, '/echo one');
      assert.equal(await page.locator('.sidebar').count(), 0);
      await page.getByRole('button', { name: 'Show conversations' }).click();
      await page.locator('.sidebar').waitFor();
      assert.equal(await page.locator('.main').evaluate((main) => main.inert), true);
      await page.locator('.backdrop').click({ position: { x: 350, y: 400 } });
      await page.locator('.sidebar').waitFor({ state: 'detached' });
      await page.getByRole('button', { name: 'Show conversations' }).click();
      await page.locator('.row a').click();
      await page.locator('.sidebar').waitFor({ state: 'detached' });
    });
  });

  it('makes a new line with Enter and sends with the button', async () => {
    await withPage(phone, async ({ page, mock }) => {
      await messageBox(page).tap();
      await page.keyboard.type('/echo one');
      await page.keyboard.press('Enter');
      await page.keyboard.type('two');
      assert.equal(mock.requests.length, 0);
      await page.locator('.send').tap();
      await whenDone(page);
      assert.equal(mock.requests[0].messages[0].content, '/echo one\ntwo');
    });
  });

  it('scrolls wide code and formulas in themselves', async () => {
    await withPage(phone, async ({ page }) => {
      await say(page, `/echo \`\`\`js\n${'x'.repeat(200)}\n\`\`\`\n\n${'y'.repeat(300)}\n\n$$${'a+'.repeat(80)}b$$`);
      await lastAnswer(page).locator('math').waitFor();
      await expectInside(page);
    });
  });
});

describe('under a prefix', needsMock, () => {
  it('the page finds its files and the server', async () => {
    await withPage({ server: { prefix: '/behind/a/proxy' } }, async ({ page }) => {
      await say(page, '/markdown');
      await lastAnswer(page).locator('math mfrac').first().waitFor();
      await eventually(async () => assert.match(page.url(), /\/behind\/a\/proxy\/#\/c\//));
    });
  });
});
