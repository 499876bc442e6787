// What every end-to-end test needs: a browser, a server, and the certainty that the page did nothing that it must not do.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { after, before } from 'node:test';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { startMock } from '../mock-server.mjs';

/** A running server to test against; without it the mock server is started. */
export const realUrl = process.env.FATHOM_URL ?? '';

/** For tests that need a server which breaks on command. */
export const needsMock = { skip: realUrl === '' ? false : 'needs the mock server' };

const screenshots = fileURLToPath(new URL('../screenshots/', import.meta.url));

let browser;

/** To be called once in each test file. */
export function withBrowser() {
  before(async () => {
    browser = await chromium.launch({
      executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
      // Chromium's own sandbox does not work for root, which tests in containers are.
      args: process.getuid() === 0 ? ['--no-sandbox'] : [],
    });
    await mkdir(screenshots, { recursive: true });
  });
  after(() => browser?.close());
}

/**
 * Opens the page for one test and closes it afterwards. `test` gets the page, the mock (null against a real server) and
 * the browser's context. Fails if anything broke the content policy, threw, or asked another server for something.
 */
export async function withPage(options, test) {
  const { server = {}, prepare, path = '', allowErrors = false, ...view } = options;
  const mock = realUrl === '' ? await startMock(server) : null;
  const url = mock?.url ?? `${realUrl.replace(/\/?$/, '')}/`;
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, locale: 'en-US', ...view });
  await context.grantPermissions(['clipboard-read', 'clipboard-write']);
  const faults = [];
  await context.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', (event) => {
      console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`);
    });
  });
  context.on('page', (page) => {
    page.on('pageerror', (error) => faults.push(`threw: ${error.message}`));
    page.on('console', (message) => {
      // What the network says of replies with 4xx is expected where a test asks for them.
      const isNetwork = /Failed to load resource|net::ERR/.test(message.text());
      if (message.type() === 'error' && !(isNetwork && allowErrors)) faults.push(`console: ${message.text()}`);
    });
    page.on('request', (request) => {
      const isOwn = request.url().startsWith(new URL(url).origin) || /^(blob|data):/.test(request.url());
      if (!isOwn) faults.push(`asked ${request.url()}`);
    });
  });
  const page = await context.newPage();
  page.setDefaultTimeout(realUrl === '' ? 8000 : 120_000);
  try {
    await prepare?.(mock, context);
    await page.goto(url + path);
    await test({ page, mock, context, url });
    assert.deepEqual(faults, []);
  } finally {
    await context.close();
    await mock?.close();
  }
}

export const phone = { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2 };

export const messageBox = (page) => page.locator('#message');
export const lastAnswer = (page) => page.locator('.message-assistant').last();

/** Sends a message; `done` waits for the whole answer. */
export async function say(page, text, { done = true } = {}) {
  const answers = await page.locator('.message-assistant').count();
  await messageBox(page).fill(text);
  await page.locator('.send').click();
  await page.locator('.message-assistant').nth(answers).waitFor();
  if (done) await whenDone(page);
}

/** No answer is coming any more. */
export async function whenDone(page) {
  await page.locator('.thread-content[aria-busy="false"]').waitFor();
}

export async function screenshot(page, name) {
  await page.screenshot({ path: `${screenshots}${name}.png` });
}

/** Retries a check until it holds: for what comes about without an element to wait for. */
export async function eventually(check, milliseconds = 5000) {
  const end = Date.now() + milliseconds;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (Date.now() > end) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}
