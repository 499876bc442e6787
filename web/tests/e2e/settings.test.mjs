// Settings of a conversation, preferences of the browser, the status of the server.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { eventually, lastAnswer, needsMock, say, screenshot, withBrowser, withPage } from './harness.mjs';

withBrowser();

const panel = (page) => page.locator('.panel');
const openSettings = (page) => page.locator('.header').getByRole('button', { name: 'Settings' }).click();

describe('settings', needsMock, () => {
  it('are sent as they are set, and not at all by default', async () => {
    await withPage({}, async ({ page, mock }) => {
      await say(page, '/echo one');
      assert.deepEqual(Object.keys(mock.requests[0]).sort(), ['messages', 'model', 'stream', 'stream_options']);
      await openSettings(page);
      await panel(page).getByLabel('System prompt').fill('Be brief.');
      await panel(page).getByLabel('On', { exact: true }).check();
      await panel(page).getByRole('slider', { name: 'Temperature' }).fill('0.6');
      await panel(page).getByRole('slider', { name: 'Top-p' }).fill('0.95');
      await panel(page).getByRole('slider', { name: 'Presence penalty' }).fill('-0.5');
      await panel(page).getByRole('slider', { name: 'Frequency penalty' }).fill('1');
      await panel(page).getByRole('spinbutton', { name: 'Longest answer' }).fill('100');
      await panel(page).getByRole('spinbutton', { name: 'Seed' }).fill('7');
      await panel(page).getByLabel('Stop at').fill('END\n\nSTOP');
      assert.equal(await panel(page).getByLabel('Stop at').inputValue(), 'END\n\nSTOP');
      await screenshot(page, 'settings');
      assert.equal(await page.locator('.count').innerText(), '9');
      await say(page, '/echo two');
      const { messages, model, stream, stream_options, ...sent } = mock.requests[1];
      assert.deepEqual(messages[0], { role: 'system', content: 'Be brief.' });
      assert.deepEqual(sent, {
        thinking: { type: 'enabled' },
        temperature: 0.6,
        top_p: 0.95,
        max_tokens: 100,
        seed: 7,
        presence_penalty: -0.5,
        frequency_penalty: 1,
        stop: ['END', 'STOP'],
      });
      await page.locator('.system-note', { hasText: 'Be brief.' }).waitFor();
      // Each conversation has its own.
      await page.keyboard.press('Alt+n');
      assert.equal(await panel(page).getByLabel('System prompt').inputValue(), '');
      await page.keyboard.press('Alt+ArrowDown');
      await page.reload();
      await openSettings(page);
      assert.equal(await panel(page).getByLabel('System prompt').inputValue(), 'Be brief.');
      await panel(page).getByRole('button', { name: 'Temperature: back to the default' }).click();
      assert.equal(await page.locator('.count').innerText(), '8');
      await panel(page).getByRole('button', { name: 'Reset all to default' }).click();
      assert.equal(await page.locator('.count').count(), 0);
      assert.equal(await panel(page).getByLabel('Stop at').inputValue(), '');
    });
  });

  it('cannot leave their ranges', async () => {
    await withPage({}, async ({ page }) => {
      await openSettings(page);
      const longest = panel(page).getByRole('spinbutton', { name: 'Longest answer' });
      await longest.fill('0');
      await longest.press('Tab');
      assert.equal(await longest.inputValue(), '1');
      await longest.fill('');
      await longest.press('Tab');
      assert.equal(await page.locator('.count').count(), 0);
      const seed = panel(page).getByRole('spinbutton', { name: 'Seed' });
      await seed.fill('-3.5');
      await seed.press('Tab');
      assert.equal(await seed.inputValue(), '0');
    });
  });

  it('of a new conversation go with its first message', async () => {
    await withPage({}, async ({ page, mock }) => {
      await openSettings(page);
      await panel(page).getByLabel('System prompt').fill('Be kind.');
      await page.keyboard.press('Escape');
      await say(page, '/echo one');
      assert.equal(mock.requests[0].messages[0].content, 'Be kind.');
    });
  });

  it('choose the model, where there are several', async () => {
    await withPage({ prepare: (mock) => void (mock.state.models = ['fathom-tiny', 'deepseek-v3']) }, async ({ page, mock }) => {
      await page.getByRole('combobox', { name: 'Model' }).selectOption('deepseek-v3');
      await say(page, '/echo one');
      assert.equal(mock.requests[0].model, 'deepseek-v3');
      assert.equal(await lastAnswer(page).getAttribute('aria-label'), 'deepseek-v3');
    });
  });
});

describe('preferences', needsMock, () => {
  const background = (page) => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);

  it('follow the system until the user chooses', async () => {
    await withPage({ colorScheme: 'dark' }, async ({ page }) => {
      const dark = await background(page);
      await page.emulateMedia({ colorScheme: 'light' });
      const light = await background(page);
      assert.notEqual(dark, light);
      await page.getByRole('button', { name: 'Preferences' }).click();
      await page.getByLabel('Dark').check();
      assert.equal(await background(page), dark);
      await page.reload();
      assert.equal(await background(page), dark);
      assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), 'dark');
    });
  });

  it('choose the language at once, and keep it', async () => {
    await withPage({ locale: 'zh-CN' }, async ({ page }) => {
      await page.getByPlaceholder('输入消息').waitFor();
      assert.equal(await page.evaluate(() => document.documentElement.lang), 'zh-CN');
      await say(page, '/markdown');
      await page.getByRole('button', { name: '偏好设置' }).click();
      await page.getByLabel('English').check();
      await page.getByRole('heading', { name: 'Preferences' }).waitFor();
      await page.keyboard.press('Escape');
      await lastAnswer(page).getByRole('button', { name: 'Copy', exact: true }).waitFor();
      await page.reload();
      await page.getByPlaceholder('Write a message').waitFor();
      assert.equal(await page.evaluate(() => document.documentElement.lang), 'en');
    });
  });

  it('speak English to a browser of another language', async () => {
    await withPage({ locale: 'fr-FR' }, async ({ page }) => {
      await page.getByPlaceholder('Write a message').waitFor();
    });
  });

  it('lead to the licences', async () => {
    // For a page that is no HTML the browser asks for a favicon.ico, which is not there.
    await withPage({ allowErrors: true }, async ({ page, context }) => {
      await page.getByRole('button', { name: 'Preferences' }).click();
      const opening = context.waitForEvent('page');
      await page.getByRole('link', { name: 'Licences of the libraries' }).click();
      assert.match(await (await opening).locator('body').innerText(), /katex 0[\s\S]*MIT/);
    });
  });
});

describe('the status', needsMock, () => {
  it('is asked once a second, and only while it is open', async () => {
    await withPage({}, async ({ page, mock }) => {
      await page.locator('.empty-note', { hasText: 'fathom-tiny' }).waitFor();
      await eventually(() => assert.equal(mock.counts.statusReads, 1));
      await page.waitForTimeout(2500);
      assert.equal(mock.counts.statusReads, 1);
      await page.locator('.header').getByRole('button', { name: 'Status' }).click();
      await eventually(() => assert.ok(mock.counts.statusReads >= 4));
      assert.ok(mock.counts.statusReads <= 5);
      await page.keyboard.press('Escape');
      await panel(page).waitFor({ state: 'detached' });
      const { statusReads } = mock.counts;
      await page.waitForTimeout(2500);
      assert.ok(mock.counts.statusReads <= statusReads + 1);
    });
  });

  it('shows load, cache, drafts and experts', async () => {
    await withPage({}, async ({ page }) => {
      await page.keyboard.press('Alt+u');
      await panel(page).locator('.status-facts').waitFor();
      const text = await panel(page).innerText();
      for (const part of [/[\d.]+ tokens\/s/, /\d+ running/, /[\d.]+ %\s*in use/, /96 kept/, /512 pages of 64 tokens, 256 MiB/, /Accepted drafts\s*8\d\.\d %/, /Busiest: layer \d, expert \d+/, /0\.9\.0/, /2 h 1 min/, /4,096 tokens/]) {
        assert.match(text, part);
      }
      const map = panel(page).locator('canvas');
      assert.match(await map.getAttribute('aria-label'), /Busiest: layer/);
      const isPainted = await map.evaluate((canvas) => canvas.getContext('2d').getImageData(2, 2, 1, 1).data[3] > 0);
      assert.equal(isPainted, true);
      await map.hover({ position: { x: 5, y: 5 } });
      await panel(page).getByText(/^layer 1, expert 1: /).waitFor();
      await page.waitForTimeout(8000);
      assert.match(await panel(page).locator('.sparkline path').first().getAttribute('d'), /^M[\d. ]+h\.01L/);
      await screenshot(page, 'status');
    });
  });

  it('says that there is no news', async () => {
    await withPage({ allowErrors: true }, async ({ page, mock }) => {
      await page.keyboard.press('Alt+u');
      await panel(page).locator('.status-facts').waitFor();
      mock.state.down = true;
      await panel(page).getByText('No news from the server.').waitFor();
      mock.state.down = false;
      await panel(page).getByText('No news from the server.').waitFor({ state: 'detached' });
    });
  });
});
