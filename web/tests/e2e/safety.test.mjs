// A model's answer, and a file from a stranger, can do nothing to the page.
import assert from 'node:assert/strict';
import { mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { hostile } from '../mock-server.mjs';
import { lastAnswer, needsMock, say, screenshot, withBrowser, withPage } from './harness.mjs';

withBrowser();

async function expectHarmless(page, url) {
  await page.waitForTimeout(500);
  assert.equal(await page.evaluate(() => 'pwned' in window), false);
  assert.equal(new URL(page.url()).origin, new URL(url).origin);
  const found = await page.evaluate(() =>
    [...document.querySelectorAll('.markdown, .markdown *')].flatMap((element) => [
      ...(/^(script|img|iframe|style|link|form|object|embed|svg|video|audio|base|meta)$/.test(element.localName) ? [element.localName] : []),
      ...element.getAttributeNames().filter((name) => /^on|^style$|^src|^id$|^name$/.test(name)),
    ]),
  );
  assert.deepEqual(found, []);
  const links = await page.locator('.markdown a').evaluateAll((all) => all.map((link) => [link.protocol, link.target, link.rel]));
  for (const [protocol, target, rel] of links) {
    assert.match(protocol, /^(https?|mailto):$/);
    assert.deepEqual([target, rel], ['_blank', 'noopener noreferrer']);
  }
}

describe('hostile content', needsMock, () => {
  it('in an answer does nothing: no script, no request, no navigation', async () => {
    await withPage({}, async ({ page, url }) => {
      await say(page, '/hostile');
      await expectHarmless(page, url);
      assert.match(await lastAnswer(page).innerText(), /<script>window\.pwned = 1<\/script>/);
      assert.equal(await lastAnswer(page).locator('a', { hasText: 'picture' }).getAttribute('href'), 'https://evil.example/pixel.png');
      await screenshot(page, 'safety-hostile');
      // After a reload the whole is drawn at once, not bit by bit.
      await page.reload();
      await lastAnswer(page).waitFor();
      await expectHarmless(page, url);
    });
  });

  it('in an imported file does nothing either', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'fathom-e2e-'));
    const file = join(folder, 'hostile.json');
    const message = (id, parent, role, content) => ({ id, parent, role, content, reasoning: hostile, model: hostile, finish: 'failed', failure: { kind: 'server', message: hostile } });
    const conversation = {
      id: '"><img src=x onerror=window.pwned=20>',
      title: '<img src=x onerror=window.pwned=21>',
      model: '<img src=x onerror=window.pwned=22>',
      settings: { system: hostile, stop: [hostile] },
      messages: [message('q', null, 'user', hostile), message('a', 'q', 'assistant', hostile)],
    };
    await writeFile(file, JSON.stringify({ format: 'fathom-conversations', version: 1, conversations: [conversation] }));
    await withPage({}, async ({ page, url }) => {
      await page.getByRole('button', { name: 'Preferences' }).click();
      const chooser = page.waitForEvent('filechooser');
      await page.getByRole('button', { name: 'Import…' }).click();
      await (await chooser).setFiles(file);
      await page.locator('.toast', { hasText: 'Imported: 1.' }).waitFor();
      await page.keyboard.press('Escape');
      await page.locator('.row a').click();
      await page.locator('.thoughts summary').first().click();
      await page.keyboard.press('Alt+s');
      await expectHarmless(page, url);
    });
  });

  it('of 100 KB on one line leaves the page alive', async () => {
    await withPage({}, async ({ page }) => {
      for (const piece of ['*a _b ', '$a ', '|a', '[', '\\(', '$x$ ']) {
        await page.keyboard.press('Alt+n');
        await say(page, `/dump ${piece.repeat(100_000 / piece.length)}`);
        assert.notEqual((await lastAnswer(page).locator('.markdown').innerText()).length, 0);
      }
    });
  });
});
