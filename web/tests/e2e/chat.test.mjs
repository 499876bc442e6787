// Asking and answering.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import {
  eventually,
  lastAnswer,
  messageBox,
  needsMock,
  say,
  screenshot,
  whenDone,
  withBrowser,
  withPage,
} from './harness.mjs';

withBrowser();

const button = (page, name) => lastAnswer(page).getByRole('button', { name, exact: true });
const notice = (page) => lastAnswer(page).locator('.notice');

describe('an answer', needsMock, () => {
  it('is rendered as Markdown, with code and mathematics', async () => {
    await withPage({}, async ({ page }) => {
      await say(page, '/markdown');
      const answer = lastAnswer(page);
      await answer.locator('math mfrac').first().waitFor();
      await answer.locator('.hljs-keyword').first().waitFor();
      assert.equal(await answer.locator('h3').innerText(), 'Sounding the depths');
      assert.equal(await answer.locator('td.align-right').first().innerText(), '3.66');
      assert.match(await answer.innerText(), /it costs \$5, not \$6/);
      await answer.getByRole('button', { name: 'Copy', exact: true }).click();
      assert.match(await page.evaluate(() => navigator.clipboard.readText()), /^def fathoms/);
      await answer.getByRole('button', { name: 'Copied' }).waitFor();
      await button(page, 'Copy answer').click();
      assert.match(await page.evaluate(() => navigator.clipboard.readText()), /^## Sounding the depths/);
    });
  });

  it('grows without drawing again what is finished', async () => {
    await withPage({}, async ({ page }) => {
      await say(page, '/long', { done: false });
      const first = lastAnswer(page).locator('.markdown > p').first();
      await lastAnswer(page).locator('.markdown > p').nth(3).waitFor();
      await first.evaluate((node) => (node.dataset.seen = 'yes'));
      await whenDone(page);
      assert.equal(await lastAnswer(page).locator('.markdown > p').count(), 300);
      assert.equal(await first.getAttribute('data-seen'), 'yes');
    });
  });

  it('shows its usage and speed, and how full the context is', async () => {
    await withPage({}, async ({ page }) => {
      await say(page, '/echo one two three four');
      assert.match(await lastAnswer(page).locator('.usage').innerText(), /9 in[\s\S]*4 out[\s\S]*tokens\/s[\s\S]*first after 0\.\d\d s/);
      await say(page, '/echo five');
      assert.match(await lastAnswer(page).locator('.usage').innerText(), /\d+ in[\s\S]*\d+ cached[\s\S]*1 out/);
      assert.match(await page.locator('.context-gauge').innerText(), /\d+ of 4,096 tokens/);
    });
  });

  it('stays at the end while it grows, unless the reader scrolls up', async () => {
    await withPage({}, async ({ page }) => {
      const scroller = page.locator('.thread');
      const fromEnd = () => scroller.evaluate((box) => box.scrollHeight - box.scrollTop - box.clientHeight);
      await say(page, '/slow', { done: false });
      await eventually(async () => assert.ok((await scroller.evaluate((box) => box.scrollHeight - box.clientHeight)) > 150), 15_000);
      assert.ok((await fromEnd()) < 5);
      await page.mouse.move(700, 400);
      await page.mouse.wheel(0, -120);
      await eventually(async () => assert.ok((await fromEnd()) > 60));
      const top = await scroller.evaluate((box) => box.scrollTop);
      const height = await scroller.evaluate((box) => box.scrollHeight);
      await eventually(async () => assert.ok((await scroller.evaluate((box) => box.scrollHeight)) > height), 15_000);
      assert.equal(await scroller.evaluate((box) => box.scrollTop), top);
      await screenshot(page, 'chat-scrolled-up');
      await page.getByRole('button', { name: 'To the end' }).click();
      await eventually(async () => assert.ok((await fromEnd()) < 5));
      await page.keyboard.press('Escape');
      await whenDone(page);
      assert.ok((await fromEnd()) < 5);
    });
  });

  it('is stopped by Escape; the server learns of it', async () => {
    await withPage({}, async ({ page, mock }) => {
      await say(page, '/slow', { done: false });
      await lastAnswer(page).getByText('word3').waitFor();
      await page.keyboard.press('Escape');
      await notice(page).getByText('You stopped this answer.').waitFor();
      assert.match(await lastAnswer(page).innerText(), /word0 word1 word2 word3/);
      await eventually(() => assert.equal(mock.counts.cancelled, 1));
    });
  });

  it('can be asked for again, and both are kept', async () => {
    await withPage({}, async ({ page }) => {
      await say(page, '/request');
      await button(page, 'Answer again').click();
      await whenDone(page);
      assert.equal(await lastAnswer(page).locator('.versions').innerText(), '2/2');
      assert.equal(await page.locator('.message-assistant').count(), 1);
      await button(page, 'Previous version').click();
      assert.equal(await lastAnswer(page).locator('.versions').innerText(), '1/2');
      assert.equal(await button(page, 'Previous version').isDisabled(), true);
      await button(page, 'Next version').click();
      assert.equal(await lastAnswer(page).locator('.versions').innerText(), '2/2');
    });
  });

  it('can be edited without asking the model', async () => {
    await withPage({}, async ({ page, mock }) => {
      await say(page, '/echo wrong');
      await button(page, 'Edit answer').click();
      await page.getByRole('textbox', { name: 'Edit answer' }).fill('right');
      await page.getByRole('button', { name: 'Save' }).click();
      assert.match(await lastAnswer(page).innerText(), /right/);
      assert.equal(await lastAnswer(page).locator('.versions').innerText(), '2/2');
      assert.equal(mock.requests.length, 1);
      await say(page, '/echo next');
      assert.deepEqual(mock.requests[1].messages.map(({ content }) => content), ['/echo wrong', 'right', '/echo next']);
    });
  });

  it('waits visibly for its first token', async () => {
    await withPage({}, async ({ page }) => {
      await say(page, '/patient', { done: false });
      await lastAnswer(page).getByText('Reading…').waitFor();
      await screenshot(page, 'chat-waiting');
      await whenDone(page);
      assert.match(await lastAnswer(page).locator('.usage').innerText(), /first after 1\.\d s/);
    });
  });
});

describe('an example', needsMock, () => {
  it('is asked with what a small model needs, unless the user has set something', async () => {
    await withPage({}, async ({ page, mock }) => {
      await page.locator('.example').first().click();
      await whenDone(page);
      assert.deepEqual(mock.requests[0].thinking, { type: 'enabled' });
      assert.equal(mock.requests[0].temperature, 0);
      assert.equal(await page.locator('.count').innerText(), '2');
      await page.keyboard.press('Alt+n');
      await page.keyboard.press('Alt+s');
      await page.getByRole('slider', { name: 'Top-p' }).fill('0.5');
      await page.locator('.example').first().click();
      await whenDone(page);
      assert.equal(mock.requests[1].thinking, undefined);
      assert.equal(mock.requests[1].temperature, undefined);
      assert.equal(mock.requests[1].top_p, 0.5);
    });
  });
});

describe('a question', needsMock, () => {
  it('is shown as it was typed, not as Markdown', async () => {
    await withPage({}, async ({ page }) => {
      await say(page, '/echo <b>x</b>\n  *y*');
      assert.equal(await page.locator('.question').evaluate((node) => node.textContent), '/echo <b>x</b>\n  *y*');
    });
  });

  it('can be worded anew: a branch with its own answers', async () => {
    await withPage({}, async ({ page, mock }) => {
      await say(page, '/echo one');
      await say(page, '/echo two');
      const first = page.locator('.message-user').first();
      await first.hover();
      await first.getByRole('button', { name: 'Edit' }).click();
      await page.getByRole('textbox', { name: 'Edit message' }).fill('/echo uno');
      await screenshot(page, 'chat-editing');
      await page.keyboard.press('Enter');
      await whenDone(page);
      assert.equal(await page.locator('.message').count(), 2);
      assert.equal(mock.requests[2].messages.length, 1);
      assert.equal(await first.locator('.versions').innerText(), '2/2');
      await screenshot(page, 'chat-branches');
      await first.getByRole('button', { name: 'Previous version' }).click();
      assert.equal(await page.locator('.message').count(), 4);
      assert.match(await lastAnswer(page).innerText(), /two/);
      // The branch that is shown is the one after a reload.
      await page.reload();
      await page.locator('.message').nth(3).waitFor();
    });
  });

  it('that is worded anew stops the answer that is coming', async () => {
    await withPage({}, async ({ page, mock }) => {
      await say(page, '/slow', { done: false });
      await lastAnswer(page).getByText('word3').waitFor();
      await page.locator('.message-user').hover();
      await page.locator('.message-user').getByRole('button', { name: 'Edit' }).click();
      await page.getByRole('textbox', { name: 'Edit message' }).fill('/echo quick');
      await page.keyboard.press('Enter');
      await eventually(async () => assert.match(await lastAnswer(page).innerText(), /quick/));
      await eventually(() => assert.equal(mock.counts.cancelled, 1));
      await page.getByRole('button', { name: 'Previous version' }).click();
      assert.match(await lastAnswer(page).innerText(), /word0 word1[\s\S]*You stopped this answer\./);
    });
  });

  it('leaves an edit by Escape without a trace', async () => {
    await withPage({}, async ({ page, mock }) => {
      await say(page, '/echo one');
      await messageBox(page).press('ArrowUp');
      await page.getByRole('textbox', { name: 'Edit message' }).fill('other');
      await page.keyboard.press('Escape');
      assert.equal(await page.locator('.question').innerText(), '/echo one');
      assert.equal(await page.locator('.versions').count(), 0);
      assert.equal(mock.requests.length, 1);
    });
  });

  it('is not sent while an input method composes, nor empty', async () => {
    await withPage({}, async ({ page, mock }) => {
      await messageBox(page).fill('ni hao');
      await messageBox(page).dispatchEvent('keydown', { key: 'Enter', isComposing: true });
      await messageBox(page).dispatchEvent('keydown', { key: 'Enter', keyCode: 229 });
      await messageBox(page).press('Shift+Enter');
      assert.equal(await messageBox(page).inputValue(), 'ni hao\n');
      await messageBox(page).fill('   ');
      await messageBox(page).press('Enter');
      assert.equal(mock.requests.length, 0);
    });
  });

  it('waits in its box for each conversation', async () => {
    await withPage({}, async ({ page }) => {
      await say(page, '/echo one');
      await messageBox(page).fill('half a thought');
      await page.keyboard.press('Alt+n');
      assert.equal(await messageBox(page).inputValue(), '');
      await page.keyboard.press('Alt+ArrowDown');
      await eventually(async () => assert.equal(await messageBox(page).inputValue(), 'half a thought'));
    });
  });
});

describe('thinking', needsMock, () => {
  it('is live, folded, and tells its time', async () => {
    await withPage({}, async ({ page }) => {
      await say(page, '/think', { done: false });
      const summary = lastAnswer(page).locator('.thoughts summary');
      await summary.getByText(/^Thinking… [\d.]+ s$/).waitFor();
      assert.equal(await lastAnswer(page).locator('.thoughts-text').count(), 0);
      await summary.click();
      await lastAnswer(page).locator('.thoughts-text', { hasText: 'Units' }).waitFor();
      await screenshot(page, 'chat-thinking');
      await whenDone(page);
      await summary.getByText(/^Thought for [\d.]+ s$/).waitFor();
      assert.equal(await lastAnswer(page).locator('.thoughts-text').count(), 1);
      await screenshot(page, 'chat-thought');
      await page.reload();
      await summary.getByText(/^Thought for [\d.]+ s$/).waitFor();
      assert.equal(await lastAnswer(page).locator('.thoughts-text').count(), 0);
    });
  });

  it('is switched for a conversation, and thoughts are not sent back', async () => {
    await withPage({}, async ({ page, mock }) => {
      await page.getByRole('button', { name: 'Think', exact: true }).click();
      await say(page, 'What is 17 + 25?');
      assert.deepEqual(mock.requests[0].thinking, { type: 'enabled' });
      await page.getByRole('button', { name: 'Think', exact: true }).click();
      await say(page, 'What is 1 + 2?');
      assert.deepEqual(mock.requests[1].thinking, { type: 'disabled' });
      assert.deepEqual(Object.keys(mock.requests[1].messages[1]), ['role', 'content']);
    });
  });

  it('is not offered for a model that cannot', async () => {
    await withPage({ prepare: (mock) => void (mock.state.thinking = false) }, async ({ page }) => {
      await page.locator('.empty-note', { hasText: 'fathom-tiny' }).waitFor();
      await eventually(async () => assert.equal(await page.locator('.think-switch').count(), 0));
    });
  });

  it('can still be asked for where the server has no status', async () => {
    const prepare = (mock) => void (mock.state.status = false);
    await withPage({ prepare, allowErrors: true }, async ({ page }) => {
      await say(page, '/echo one');
      assert.equal(await page.locator('.think-switch').count(), 1);
      assert.equal(await page.locator('.context-gauge meter').count(), 0);
    });
  });
});

describe('what goes wrong', needsMock, () => {
  const breaks = { allowErrors: true };

  it('keeps an answer that broke off, and continues it', async () => {
    await withPage(breaks, async ({ page, mock }) => {
      await say(page, '/broken');
      await notice(page).getByText('The answer broke off here.').waitFor();
      assert.match(await lastAnswer(page).innerText(), /Greta the fox/);
      await screenshot(page, 'wrong-broken');
      await button(page, 'Continue').click();
      await whenDone(page);
      const { messages } = mock.requests[1];
      assert.equal(messages.length, 2);
      assert.equal(messages[1].prefix, true);
      assert.match(messages[1].content, /Greta the fox/);
      assert.match(await lastAnswer(page).innerText(), /Greta the fox[\s\S]*And this is the rest of it\./);
      assert.equal(await notice(page).count(), 0);
      assert.equal(await lastAnswer(page).locator('.versions').count(), 0);
    });
  });

  it('continues only the last answer of a branch', async () => {
    await withPage(breaks, async ({ page }) => {
      await say(page, '/broken');
      await button(page, 'Continue').waitFor();
      await say(page, '/echo and then');
      assert.equal(await page.getByRole('button', { name: 'Continue' }).count(), 0);
      assert.equal(await page.locator('.notice').getByRole('button', { name: 'Try again' }).count(), 1);
    });
  });

  it('tells a connection that broke before the answer', async () => {
    await withPage(breaks, async ({ page }) => {
      await say(page, '/broken-at-once');
      await notice(page).getByText('The connection broke before an answer came.').waitFor();
      await button(page, 'Try again').click();
      await whenDone(page);
      // What had nothing in it is replaced.
      assert.equal(await lastAnswer(page).locator('.versions').count(), 0);
    });
  });

  it('tells an error inside the stream in the server’s words', async () => {
    await withPage({}, async ({ page }) => {
      await say(page, '/error');
      await notice(page).getByText('The server made an error.').waitFor();
      await notice(page).getByText('The server is shutting down.').waitFor();
      assert.match(await lastAnswer(page).innerText(), /Early one morning/);
      await screenshot(page, 'wrong-error');
    });
  });

  it('tells a refusal and a crash', async () => {
    await withPage(breaks, async ({ page }) => {
      await say(page, '/refuse');
      await notice(page).getByText("temperature: expected 0 to 2, found 'hot'").waitFor();
      await say(page, '/crash');
      await notice(page).getByText('The disk is full.').waitFor();
    });
  });

  it('waits for a busy server and tries again by itself', async () => {
    await withPage({ ...breaks, prepare: (mock) => void (mock.state.busy = 1) }, async ({ page, mock }) => {
      await say(page, '/echo at last', { done: false });
      await lastAnswer(page).getByText(/The server is busy\. Trying again in \d s\./).waitFor();
      await screenshot(page, 'wrong-busy');
      await whenDone(page);
      assert.match(await lastAnswer(page).innerText(), /at last/);
      assert.equal(mock.requests.length, 2);
    });
  });

  it('tries a busy server at once when asked to, and can be stopped', async () => {
    await withPage({ ...breaks, prepare: (mock) => void (mock.state.busy = 2) }, async ({ page }) => {
      await say(page, '/echo at last', { done: false });
      await page.getByRole('button', { name: 'Try now' }).click();
      await lastAnswer(page).getByText(/The server is busy\./).waitFor();
      await page.keyboard.press('Escape');
      await notice(page).getByText('You stopped this answer.').waitFor();
    });
  });

  it('tells which limit an answer reached', async () => {
    await withPage({}, async ({ page }) => {
      await say(page, '/length');
      await notice(page).getByText('The answer reached its greatest length.').waitFor();
      await button(page, 'Continue').waitFor();
      await say(page, '/full');
      await notice(page).getByText('The context of 4,096 tokens is full').waitFor();
      assert.equal(await button(page, 'Continue').count(), 0);
      await screenshot(page, 'wrong-full');
      await button(page, 'New conversation').click();
      await page.locator('.empty').waitFor();
    });
  });

  it('tells a server without room, and an empty answer', async () => {
    await withPage({}, async ({ page }) => {
      await say(page, '/resources');
      await notice(page).getByText('The server ran out of room for this answer.').waitFor();
      await say(page, '/empty');
      await notice(page).getByText('The model gave an empty answer.').waitFor();
    });
  });

  it('tells that the server is gone, and comes back by itself', async () => {
    await withPage(breaks, async ({ page, mock }) => {
      await say(page, '/echo one');
      mock.state.down = true;
      await say(page, '/echo two');
      await notice(page).getByText('The server cannot be reached.').waitFor();
      await page.locator('.banner', { hasText: 'The server cannot be reached.' }).waitFor();
      await screenshot(page, 'wrong-unreachable');
      mock.state.down = false;
      await page.locator('.banner').waitFor({ state: 'detached' });
      await button(page, 'Try again').click();
      await whenDone(page);
      assert.match(await lastAnswer(page).innerText(), /two/);
      assert.equal(await lastAnswer(page).locator('.versions').count(), 0);
    });
  });

  it('tells at once that no server is there', async () => {
    const prepare = async (mock, context) => context.route('**/v1/models', (route) => route.abort());
    await withPage({ ...breaks, prepare }, async ({ page }) => {
      await page.locator('.banner').waitFor();
      assert.equal(await page.locator('.example').first().isDisabled(), true);
      await screenshot(page, 'wrong-no-server');
    });
  });

  it('tells when the page cannot keep anything', async () => {
    const prepare = (_, context) => context.addInitScript(() => Object.defineProperty(globalThis, 'indexedDB', { value: undefined }));
    await withPage({ prepare }, async ({ page }) => {
      await page.locator('.toast', { hasText: 'This browser lets the page keep nothing' }).waitFor();
      await say(page, '/echo still works');
      assert.match(await lastAnswer(page).innerText(), /still works/);
    });
  });
});

describe('an API key', needsMock, () => {
  const locked = { server: { key: 'deep secret' }, allowErrors: true };

  it('is asked for, tried, and kept for the tab or the browser', async () => {
    await withPage(locked, async ({ page, context, url }) => {
      const dialog = page.locator('dialog');
      await dialog.getByText('This server wants an API key.').waitFor();
      await screenshot(page, 'key-dialog');
      await dialog.locator('input[type=password]').fill('wrong');
      await page.keyboard.press('Enter');
      await dialog.getByText('The server did not take this key.').waitFor();
      await dialog.locator('input[type=password]').fill('deep secret');
      await dialog.getByLabel('Until this tab closes').check();
      await dialog.getByRole('button', { name: 'Use this key' }).click();
      await dialog.waitFor({ state: 'detached' });
      await say(page, '/echo open');
      assert.match(await lastAnswer(page).innerText(), /open/);
      assert.equal(await page.evaluate(() => localStorage.getItem('fathom.key')), null);
      await page.reload();
      await page.locator('.message-assistant').waitFor();
      assert.equal(await page.locator('dialog').count(), 0);
      const other = await context.newPage();
      await other.goto(url);
      await other.locator('dialog').waitFor();
      await other.locator('dialog input[type=password]').fill('deep secret');
      await other.getByLabel('In this browser').check();
      await other.keyboard.press('Enter');
      await other.locator('dialog').waitFor({ state: 'detached' });
      assert.equal(await other.evaluate(() => localStorage.getItem('fathom.key')), 'deep secret');
    });
  });

  it('can be forgotten', async () => {
    const prepare = (_, context) => context.addInitScript(() => localStorage.setItem('fathom.key', 'deep secret'));
    await withPage({ ...locked, prepare }, async ({ page }) => {
      await page.locator('.empty-note', { hasText: 'fathom-tiny' }).waitFor();
      await page.getByRole('button', { name: 'Preferences' }).click();
      await page.getByRole('button', { name: 'Forget' }).click();
      await page.getByText('This server wants an API key.').first().waitFor();
      assert.equal(await page.evaluate(() => localStorage.getItem('fathom.key')), null);
    });
  });

  it('is asked for again when the server no longer takes it', async () => {
    await withPage({ allowErrors: true }, async ({ page, mock }) => {
      await say(page, '/echo one');
      mock.state.key = 'new';
      await say(page, '/echo two');
      await notice(page).getByText('The server wants a valid API key.').waitFor();
      await button(page, 'Enter key').click();
      await page.locator('dialog input[type=password]').fill('new');
      await page.keyboard.press('Enter');
      await page.locator('dialog').waitFor({ state: 'detached' });
      await button(page, 'Try again').click();
      await whenDone(page);
      assert.match(await lastAnswer(page).innerText(), /two/);
    });
  });
});
