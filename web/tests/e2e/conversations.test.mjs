// Keeping, finding, moving conversations.
import assert from 'node:assert/strict';
import { mkdtemp, readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { eventually, lastAnswer, messageBox, needsMock, say, screenshot, whenDone, withBrowser, withPage } from './harness.mjs';

withBrowser();

const row = (page, title) => page.locator('.row', { hasText: title });
const titles = (page) => page.locator('.row-title').allInnerTexts();

async function choose(page, title, item) {
  await row(page, title).hover();
  await row(page, title).getByRole('button', { name: `Actions for “${title}”` }).click();
  await page.getByRole('menuitem', { name: item }).click();
}

async function threeConversations(page) {
  for (const text of ['/echo one', '/echo two whales', '/echo three']) {
    await page.keyboard.press('Alt+n');
    await say(page, text);
  }
}

async function download(page, action) {
  const waiting = page.waitForEvent('download');
  await action();
  const file = await waiting;
  return { name: file.suggestedFilename(), text: await readFile(await file.path(), 'utf8') };
}

async function importTexts(page, ...texts) {
  const folder = await mkdtemp(join(tmpdir(), 'fathom-e2e-'));
  const files = texts.map((_, index) => join(folder, `${index}.json`));
  for (const [index, text] of texts.entries()) await writeFile(files[index], text);
  await page.getByRole('button', { name: 'Preferences' }).click();
  const chooser = page.waitForEvent('filechooser');
  await page.getByRole('button', { name: 'Import…' }).click();
  await (await chooser).setFiles(files);
  await page.locator('.toast').last().waitFor();
  await page.keyboard.press('Escape');
}

describe('conversations', needsMock, () => {
  it('are kept, the newest first, and opened by their address', async () => {
    await withPage({}, async ({ page, url }) => {
      await threeConversations(page);
      assert.deepEqual(await titles(page), ['/echo three', '/echo two whales', '/echo one']);
      await page.reload();
      await lastAnswer(page).waitFor();
      assert.match(await lastAnswer(page).innerText(), /three/);
      await row(page, '/echo one').locator('a').click();
      assert.match(await lastAnswer(page).innerText(), /one/);
      const address = page.url();
      await page.goBack();
      await eventually(async () => assert.match(await lastAnswer(page).innerText(), /three/));
      await page.goto(address);
      await eventually(async () => assert.match(await lastAnswer(page).innerText(), /one/));
      await page.goto(`${url}#/c/nobody`);
      await page.locator('.empty').waitFor();
      assert.equal(await page.title(), 'Fathom');
    });
  });

  it('are renamed', async () => {
    await withPage({}, async ({ page }) => {
      await threeConversations(page);
      await choose(page, '/echo two whales', 'Rename');
      const box = page.getByRole('textbox', { name: 'New name' });
      await box.fill('not this');
      await box.press('Escape');
      assert.deepEqual(await titles(page), ['/echo three', '/echo two whales', '/echo one']);
      await choose(page, '/echo two whales', 'Rename');
      await box.fill('The whales');
      await box.press('Enter');
      assert.deepEqual(await titles(page), ['/echo three', 'The whales', '/echo one']);
      await page.reload();
      await row(page, 'The whales').waitFor();
    });
  });

  it('are deleted, and brought back', async () => {
    await withPage({}, async ({ page }) => {
      await threeConversations(page);
      await choose(page, '/echo three', 'Delete');
      assert.equal(await row(page, '/echo three').count(), 0);
      await page.locator('.empty').waitFor();
      await screenshot(page, 'conversations-deleted');
      await page.getByRole('button', { name: 'Undo' }).click();
      await row(page, '/echo three').waitFor();
      assert.match(await lastAnswer(page).innerText(), /three/);
      await choose(page, '/echo one', 'Delete');
      await page.reload();
      await row(page, '/echo three').waitFor();
      assert.equal(await row(page, '/echo one').count(), 0);
    });
  });

  it('are deleted while an answer comes, and what came comes back', async () => {
    await withPage({}, async ({ page, mock }) => {
      await say(page, '/slow', { done: false });
      await lastAnswer(page).getByText('word5').waitFor();
      await choose(page, '/slow', 'Delete');
      await eventually(() => assert.equal(mock.counts.cancelled, 1));
      await page.getByRole('button', { name: 'Undo' }).click();
      assert.match(await lastAnswer(page).innerText(), /word5/);
      await lastAnswer(page).getByText('You stopped this answer.').waitFor();
    });
  });

  it('are searched by title and text', async () => {
    await withPage({}, async ({ page }) => {
      await threeConversations(page);
      await page.getByRole('searchbox').fill('WHALES');
      assert.deepEqual(await titles(page), ['/echo two whales']);
      await page.getByRole('searchbox').fill('e');
      assert.equal((await titles(page)).length, 3);
      await page.getByRole('searchbox').fill('nothing like it');
      await page.getByText('Nothing found.').waitFor();
      await page.getByRole('searchbox').fill('');
      await say(page, 'You said something about a harbour');
      await page.getByRole('searchbox').fill('harbour');
      await page.locator('.row-excerpt', { hasText: 'about a harbour' }).waitFor();
      await screenshot(page, 'conversations-search');
    });
  });

  it('answer side by side', async () => {
    await withPage({}, async ({ page }) => {
      await say(page, '/slow', { done: false });
      await page.keyboard.press('Alt+n');
      await say(page, '/echo quick');
      await row(page, '/slow').locator('.pulse').waitFor();
      await row(page, '/slow').locator('a').click();
      await lastAnswer(page).getByText('word9').waitFor();
      await page.keyboard.press('Escape');
      await whenDone(page);
      assert.equal(await page.locator('.pulse').count(), 0);
    });
  });

  it('keep what came of an answer when the page goes away', async () => {
    await withPage({}, async ({ page }) => {
      await say(page, '/slow', { done: false });
      await lastAnswer(page).getByText('word60').waitFor();
      await page.reload();
      await lastAnswer(page).getByText('The answer broke off here.').waitFor();
      assert.match(await lastAnswer(page).innerText(), /word0 word1/);
    });
  });

  it('are the same in two tabs', async () => {
    await withPage({}, async ({ page, context, url }) => {
      await say(page, '/echo one');
      const other = await context.newPage();
      await other.goto(url);
      await row(other, '/echo one').locator('a').click();
      await say(page, '/patient', { done: false });
      // The other tab sees the answer when it is whole, not half of it as if it had broken off.
      assert.equal(await other.locator('.message').count(), 2);
      await whenDone(page);
      await eventually(async () => assert.equal(await other.locator('.message').count(), 4));
      assert.equal(await other.locator('.notice').count(), 0);
      await choose(other, '/echo one', 'Delete');
      await eventually(async () => assert.equal(await page.locator('.row').count(), 0));
    });
  });

  it('are exported and imported, one or all, as copies where they are there already', async () => {
    await withPage({}, async ({ page }) => {
      await threeConversations(page);
      const one = await download(page, () => choose(page, '/echo two whales', 'Export as JSON'));
      assert.equal(one.name, 'echo-two-whales.json');
      await page.getByRole('button', { name: 'Preferences' }).click();
      const all = await download(page, () => page.getByRole('button', { name: 'Export all' }).click());
      await screenshot(page, 'preferences');
      await page.keyboard.press('Escape');
      assert.match(all.name, /^fathom-\d{4}-\d\d-\d\d\.json$/);
      assert.equal(JSON.parse(all.text).conversations.length, 3);
      await choose(page, '/echo two whales', 'Delete');
      await importTexts(page, one.text, all.text);
      await page.locator('.toast', { hasText: 'Imported: 4.' }).waitFor();
      assert.equal((await titles(page)).filter((title) => title === '/echo two whales').length, 2);
      await page.locator('.row a', { hasText: 'two whales' }).first().click();
      assert.match(await lastAnswer(page).innerText(), /two whales/);
    });
  });

  it('are exported as Markdown', async () => {
    await withPage({}, async ({ page }) => {
      await say(page, '/think');
      const file = await download(page, () => choose(page, '/think', 'Export as Markdown'));
      assert.equal(file.name, 'think.md');
      assert.match(file.text, /^# \/think\n\n## You\n\n\/think\n\n## fathom-tiny\n\n> \*\*Thoughts\*\*\n>\n> Units[\s\S]*The answer is \*\*42\*\*\.\n$/);
    });
  });

  it('are not imported from a file that is none, and the page says why', async () => {
    await withPage({}, async ({ page }) => {
      await importTexts(page, 'not json', '{}', '{"format":"fathom-conversations","version":1,"conversations":[{"messages":[{"id":"a","role":"user"}]},7]}');
      const toast = await page.locator('.toast').innerText();
      assert.match(toast, /Nothing was imported\. Not taken: 0\.json: The file is not JSON\. 1\.json: The file was not exported by this page\./);
      assert.match(toast, /2\.json: Conversation 1, message 1 is damaged \(“content”\)\. …/);
      await screenshot(page, 'conversations-not-imported');
      assert.equal(await messageBox(page).isEnabled(), true);
    });
  });
});
