// What the browser runs share: the browser, a page in a room, what is said there, the verdict.
'use strict';

const { chromium } = require('playwright-core');

const TIMEOUT_MS = 15_000;
const FLAGS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
];

const launch = () => chromium.launch({ executablePath: '/usr/bin/chromium', args: FLAGS });

// Opens the page and enters a room. Errors in the console and requests to other hosts go to
// `complaints`.
async function enter(browser, { url, name, room, width, height, colorScheme = 'light', complaints = [] }) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme });
  const page = await context.newPage();
  page.setDefaultTimeout(TIMEOUT_MS);
  page.on('console', (line) => {
    if (line.type() === 'error') complaints.push(`${name}: ${line.text()}`);
  });
  page.on('pageerror', (error) => complaints.push(`${name}: ${error}`));
  page.on('request', (request) => {
    const from = new URL(request.url());
    if (from.protocol !== 'data:' && from.host !== new URL(url).host) complaints.push(`${name}: loads ${from}`);
  });
  await page.goto(url);
  await page.fill('#name', name);
  await page.fill('#room', room);
  await page.click('#entry-form button');
  await page.waitForSelector('#state[data-state="connected"]');
  return page;
}

async function say(page, text) {
  await page.fill('#text', text);
  await page.press('#text', 'Enter');
}

const message = (page, text) => page.locator('.message > span').getByText(text, { exact: true });

// Prints what a run came to: its steps, or its error.
function tell(run) {
  run.then(
    (steps) => console.log(JSON.stringify({ ok: true, steps })),
    (error) => {
      console.log(JSON.stringify({ ok: false, error: String(error) }));
      process.exitCode = 1;
    },
  );
}

module.exports = { enter, launch, message, say, tell };
