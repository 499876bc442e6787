// What holds against any server, the real one (FATHOM_URL) or the mock.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { lastAnswer, messageBox, realUrl, say, screenshot, whenDone, withBrowser, withPage } from './harness.mjs';

withBrowser();

/**
 * Makes a real server's answers as long as its context allows, so that there is time to stop one on any machine: the token
 * that ends the bundled model's answers (eos_token_id 1) is ruled out in what the page asks.
 */
async function neverEnding(page) {
  if (realUrl === '') return;
  await page.route('**/v1/chat/completions', (route) =>
    route.continue({ postData: { ...route.request().postDataJSON(), logit_bias: { 1: -100 }, max_tokens: 3500 } }),
  );
}

describe('against a server', () => {
  it('greets, asks an example and shows the answer with its usage', async () => {
    await withPage({}, async ({ page }) => {
      await page.locator('.empty-note', { hasText: 'You are talking with' }).waitFor();
      await page.locator('.example').first().click();
      await whenDone(page);
      assert.match(await lastAnswer(page).innerText(), /42/);
      assert.match(await lastAnswer(page).locator('.usage').innerText(), /\d+ in[\s\S]*\d+ out[\s\S]*first after/);
      await screenshot(page, 'server-example');
    });
  });

  it('keeps a conversation and goes on with it', async () => {
    await withPage({}, async ({ page }) => {
      await say(page, 'The code of the blue box is 4071. What is the code of the blue box?');
      await say(page, 'Tell me a short story about a fox.');
      assert.equal(await page.locator('.message-user').count(), 2);
      await page.reload();
      await page.locator('.message-user').nth(1).waitFor();
      assert.equal(await page.locator('.message-assistant').count(), 2);
    });
  });

  it('stops an answer and keeps what came', async () => {
    await withPage({}, async ({ page }) => {
      await neverEnding(page);
      await say(page, 'Tell me a short story about a fox. /slow', { done: false });
      await lastAnswer(page).locator('.markdown p').first().waitFor();
      await page.locator('.send[aria-label="Stop"]').click();
      await whenDone(page);
      await lastAnswer(page).locator('.notice', { hasText: 'You stopped this answer.' }).waitFor();
      assert.notEqual(await lastAnswer(page).locator('.markdown').innerText(), '');
    });
  });

  it('shows the status', async () => {
    await withPage({}, async ({ page }) => {
      await messageBox(page).waitFor();
      await page.locator('.header').getByRole('button', { name: 'Status' }).click();
      await page.locator('.panel .status-facts').waitFor();
      assert.match(await page.locator('.panel').innerText(), /Speed[\s\S]*Requests[\s\S]*Cache[\s\S]*Version/);
      await screenshot(page, 'server-status');
    });
  });
});
