// The whole page without a mouse.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { eventually, lastAnswer, messageBox, needsMock, say, screenshot, whenDone, withBrowser, withPage } from './harness.mjs';

withBrowser();

const focused = (page) => page.evaluate(() => document.activeElement?.id || document.activeElement?.getAttribute('aria-label') || document.activeElement?.localName);

describe('the keyboard', needsMock, () => {
  it('begins in the message box, and Enter sends', async () => {
    await withPage({}, async ({ page }) => {
      await messageBox(page).waitFor();
      assert.equal(await focused(page), 'message');
      await page.keyboard.type('/echo typed');
      await page.keyboard.press('Enter');
      await whenDone(page);
      assert.match(await lastAnswer(page).innerText(), /typed/);
      assert.equal(await focused(page), 'message');
    });
  });

  it('has its shortcuts, and a sheet that tells them', async () => {
    await withPage({}, async ({ page, mock }) => {
      await say(page, '/echo one');
      await page.keyboard.press('Alt+r');
      await eventually(async () => assert.equal(await lastAnswer(page).locator('.versions').innerText(), '2/2'));
      await page.keyboard.press('Alt+,');
      await eventually(async () => assert.equal(await lastAnswer(page).locator('.versions').innerText(), '1/2'));
      await page.keyboard.press('Alt+.');
      await eventually(async () => assert.equal(await lastAnswer(page).locator('.versions').innerText(), '2/2'));
      await page.keyboard.press('Alt+c');
      await eventually(async () => assert.equal(await page.evaluate(() => navigator.clipboard.readText()), 'one'));
      await page.keyboard.press('Alt+t');
      assert.equal(await page.getByRole('button', { name: 'Think', exact: true }).getAttribute('aria-pressed'), 'true');
      await page.keyboard.press('Alt+n');
      await page.locator('.empty').waitFor();
      await page.keyboard.press('Alt+ArrowDown');
      await lastAnswer(page).waitFor();
      await page.keyboard.press('Alt+ArrowUp');
      assert.equal(await page.locator('.message').count(), 2);
      await page.keyboard.press('Alt+b');
      await page.locator('.sidebar').waitFor({ state: 'detached' });
      await page.keyboard.press('Alt+k');
      await eventually(async () => assert.equal(await focused(page), 'search'));
      await page.keyboard.press('Alt+m');
      await eventually(async () => assert.equal(await focused(page), 'message'));
      await page.keyboard.press('Alt+s');
      await page.locator('.panel', { hasText: 'Temperature' }).waitFor();
      await page.keyboard.press('Alt+u');
      await page.locator('.panel', { hasText: 'Speed' }).waitFor();
      await page.keyboard.press('Escape');
      await page.locator('.panel').waitFor({ state: 'detached' });
      // In the message box a question mark is a question mark.
      await page.keyboard.type('?');
      assert.equal(await messageBox(page).inputValue(), '?');
      await page.locator('.send').focus();
      await page.keyboard.press('?');
      await page.getByRole('dialog', { name: 'Keyboard shortcuts' }).waitFor();
      assert.equal(await page.locator('.shortcuts > div').count(), 18);
      await screenshot(page, 'help');
      await page.keyboard.press('Escape');
      await page.locator('dialog').waitFor({ state: 'detached' });
      assert.equal(mock.requests.length, 2);
    });
  });

  it('moves in menus and gives the focus back', async () => {
    await withPage({}, async ({ page }) => {
      await say(page, '/echo one');
      await page.getByRole('button', { name: 'Actions for' }).focus();
      await page.keyboard.press('Enter');
      await page.getByRole('menu').waitFor();
      await screenshot(page, 'menu');
      assert.equal(await page.evaluate(() => document.activeElement.textContent), 'Rename');
      await page.keyboard.press('ArrowUp');
      assert.equal(await page.evaluate(() => document.activeElement.textContent), 'Delete');
      await page.keyboard.press('Home');
      await page.keyboard.press('ArrowDown');
      assert.equal(await page.evaluate(() => document.activeElement.textContent), 'Export as Markdown');
      await page.keyboard.press('Escape');
      assert.equal(await page.getByRole('menu').count(), 0);
      assert.match(await focused(page), /^Actions for/);
    });
  });

  it('reaches every button, each with a ring around it', async () => {
    await withPage({}, async ({ page }) => {
      await say(page, '/markdown');
      await page.locator('.sidebar-head button').focus();
      const seen = new Set();
      for (let presses = 0; presses < 60; presses++) {
        await page.keyboard.press('Tab');
        const state = await page.evaluate(() => {
          const element = document.activeElement;
          const style = getComputedStyle(element);
          // Boxes with a border of their own show the focus by its colour.
          const box = element.closest('.composer-box, .search');
          const isVisible = style.outlineStyle !== 'none' || (box !== null && element.matches('textarea, input'));
          return { name: element.getAttribute('aria-label') ?? element.textContent.trim().slice(0, 20), tag: element.localName, isVisible };
        });
        if (state.tag === 'body') break;
        assert.ok(state.isVisible, `the focus on ${state.name} cannot be seen`);
        seen.add(state.name);
      }
      for (const name of ['New conversation', 'Search conversations', 'Preferences', 'Status', 'Settings', 'Copy answer', 'Answer again', 'Message', 'Code', 'Table']) {
        assert.ok(seen.has(name), `${name} cannot be reached, only ${[...seen].join(', ')}`);
      }
    });
  });

  it('hears what happens', async () => {
    await withPage({}, async ({ page }) => {
      const said = [];
      await page.exposeFunction('heard', (text) => said.push(text));
      await page.evaluate(() => {
        const line = document.querySelector('p.visually-hidden[role="status"]');
        new MutationObserver(() => window.heard(line.textContent)).observe(line, { childList: true, characterData: true, subtree: true });
      });
      await say(page, '/think');
      await eventually(() =>
        assert.deepEqual(said, ['The message was sent.', 'The model is thinking.', 'The answer begins.', 'The answer is complete.']),
      );
    });
  });
});
