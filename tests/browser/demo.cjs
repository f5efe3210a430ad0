// Drives the demo page in headless Chromium: people talk, one is cut off and recovers.
//
// usage: node demo.cjs URL SCREENSHOT_FOLDER
// Prints one JSON line {"ok": bool, "steps": [...], "error": "..."} and exits 0 or 1.
// Needs playwright-core in NODE_PATH and Debian's chromium.
'use strict';

const { chromium } = require('playwright-core');
const path = require('node:path');

const [url, folder] = process.argv.slice(2);
const TIMEOUT_MS = 15_000;
const FLAGS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
];
const SCREENS = [
  { name: 'desktop', width: 1100, height: 700, colorScheme: 'light' },
  { name: 'phone', width: 360, height: 720, colorScheme: 'dark' },
];
const steps = [];
const complaints = [];

function check(condition, what) {
  if (!condition) throw new Error(what);
  steps.push(what);
}

async function enter(browser, screen, name, room) {
  const context = await browser.newContext({
    viewport: { width: screen.width, height: screen.height },
    colorScheme: screen.colorScheme,
  });
  const page = await context.newPage();
  page.setDefaultTimeout(TIMEOUT_MS);
  page.on('console', (message) => {
    if (message.type() === 'error') complaints.push(`${name}: ${message.text()}`);
  });
  page.on('pageerror', (error) => complaints.push(`${name}: ${error}`));
  page.on('request', (request) => {
    const from = new URL(request.url());
    if (from.protocol !== 'data:' && from.host !== new URL(url).host) complaints.push(`${name}: loads ${request.url()}`);
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

const message = (page, text) => page.locator('.message > span', { hasText: new RegExp(`^${text}$`) });
const person = (page, name) => page.locator('#people li', { hasText: name });

async function conversation(browser, screen) {
  const room = `help-desk-${screen.name}`;
  const ada = await enter(browser, screen, 'Ada', room);
  const bob = await enter(browser, screen, 'Bob', room);
  await person(ada, 'Bob').waitFor();
  await person(bob, 'Ada').waitFor();
  await ada.locator('.note', { hasText: 'Bob joined' }).waitFor();
  check(true, `${screen.name}: presence and join`);

  await say(ada, 'Good morning, is the printer in order again?');
  await message(bob, 'Good morning, is the printer in order again\\?').waitFor();
  await say(bob, 'It prints. Ticket closed.');
  await message(ada, 'It prints. Ticket closed.').waitFor();
  check(true, `${screen.name}: two pages talk`);

  await bob.click('#toggle');
  await bob.waitForSelector('#state[data-state="disconnected"]');
  await ada.locator('.note', { hasText: 'Bob left' }).waitFor();
  for (const text of ['One more thing', 'while you were away', 'and the last']) {
    await say(ada, text);
    await message(ada, text).waitFor();
  }
  check((await message(bob, 'One more thing').count()) === 0, `${screen.name}: an offline page hears nothing`);
  await bob.click('#toggle');
  await bob.locator('.note', { hasText: 'recovered 3 messages' }).waitFor();
  for (const text of ['One more thing', 'while you were away', 'and the last']) {
    check((await message(bob, text).count()) === 1, `${screen.name}: recovered once: ${text}`);
  }

  const grace = await enter(browser, screen, 'Grace', room);
  await message(grace, 'and the last').waitFor();
  check((await grace.locator('.message').count()) === 5, `${screen.name}: history on entry`);
  await person(grace, 'Bob').waitFor();
  await grace.click('#leave');
  await bob.locator('.note', { hasText: 'Grace left' }).waitFor();
  check(await grace.isVisible('#entry'), `${screen.name}: leaving`);

  await bob.locator('#clock', { hasText: /Server time \d\d:\d\d/ }).waitFor();
  check(true, `${screen.name}: server time by rpc`);
  const wide = await bob.evaluate(() => document.scrollingElement.scrollWidth - window.innerWidth);
  check(wide <= 0, `${screen.name}: no sideways scrolling`);
  await bob.screenshot({ path: path.join(folder, `${screen.name}.png`) });
  await grace.screenshot({ path: path.join(folder, `${screen.name}-entry.png`) });
  for (const page of [ada, bob, grace]) await page.context().close();
}

async function main() {
  const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: FLAGS });
  try {
    for (const screen of SCREENS) await conversation(browser, screen);
    check(complaints.length === 0, `no errors in the console, nothing loaded from elsewhere ${complaints.join(' | ')}`);
  } finally {
    await browser.close();
  }
}

main().then(
  () => console.log(JSON.stringify({ ok: true, steps })),
  (error) => {
    console.log(JSON.stringify({ ok: false, steps, error: String(error), complaints }));
    process.exitCode = 1;
  },
);
