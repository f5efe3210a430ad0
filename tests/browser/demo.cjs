// Drives the demo page in headless Chromium: people talk, one is cut off and recovers, one opens a
// ticket that three consumer groups read.
//
// usage: node demo.cjs URL SCREENSHOT_FOLDER
// Prints one JSON line {"ok": bool, "steps": [...], "error": "..."} and exits 0 or 1.
// Needs playwright-core in NODE_PATH and Debian's chromium.
'use strict';

const path = require('node:path');
const { enter, launch, message, say, tell } = require('./page.cjs');

const [url, folder] = process.argv.slice(2);
const SCREENS = [
  { name: 'desktop', width: 1100, height: 700, colorScheme: 'light' },
  { name: 'phone', width: 360, height: 720, colorScheme: 'dark' },
];
const WHILE_AWAY = ['One more thing', 'while you were away', 'and the last'];
const steps = [];
const complaints = [];

function check(condition, what) {
  if (!condition) throw new Error(`not so: ${what} (after: ${steps.at(-1)})`);
  steps.push(what);
}

const person = (page, name) => page.locator('#people li', { hasText: name });
const note = (page, text) => page.locator('.note', { hasText: text });

async function talk(ada, bob) {
  await person(ada, 'Bob').waitFor();
  await person(bob, 'Ada').waitFor();
  await note(ada, 'Bob joined').waitFor();
  check(true, 'presence and join');
  await say(ada, 'Good morning, is the printer in order again?');
  await message(bob, 'Good morning, is the printer in order again?').waitFor();
  await say(bob, 'It prints. Ticket closed.');
  await message(ada, 'It prints. Ticket closed.').waitFor();
  check(true, 'two pages talk');
}

async function recover(ada, bob) {
  await bob.click('#toggle');
  await bob.waitForSelector('#state[data-state="disconnected"]');
  await note(ada, 'Bob left').waitFor();
  for (const text of WHILE_AWAY) {
    await say(ada, text);
    await message(ada, text).waitFor();
  }
  check((await message(bob, WHILE_AWAY[0]).count()) === 0, 'an offline page hears nothing');
  await bob.click('#toggle');
  await note(bob, `recovered ${WHILE_AWAY.length} messages`).waitFor();
  for (const text of WHILE_AWAY) check((await message(bob, text).count()) === 1, `recovered once: ${text}`);
}

async function visit(browser, screen, bob) {
  const grace = await enter(browser, { ...screen, url, name: 'Grace', room: roomOf(screen), complaints });
  await message(grace, WHILE_AWAY.at(-1)).waitFor();
  check((await grace.locator('.message').count()) === 2 + WHILE_AWAY.length, 'history on entry');
  await person(grace, 'Bob').waitFor();
  await grace.click('#leave');
  await note(bob, 'Grace left').waitFor();
  check(await grace.isVisible('#entry'), 'leaving');
  await grace.screenshot({ path: path.join(folder, `${screen.name}-entry.png`) });
}

const LANES = {
  notification: /Printer on fire \(from Ada\)/,
  log: /"customer": "Ada"/,
  quality: /says enough to begin with/,
};

async function openTicket(ada, bob, screen) {
  for (const page of [ada, bob]) await page.click('#views [data-view="tickets"]');
  await ada.fill('#subject', 'Printer on fire');
  await ada.fill('#happened', 'It began this morning, when we printed the report.');
  await ada.click('#open');
  const ack = ada.locator('#ack');
  await ack.locator('.good', { hasText: 'is acknowledged' }).waitFor();
  const said = await ack.locator('dl').innerText();
  for (const word of [/at\s+journal/, /partition\s+[0-3]\b/, /log_offset\s+\d+/, /took\s+[\d.]+ ms/]) {
    check(word.test(said), `the acknowledgement says ${word}`);
  }
  const id = (await ack.locator('.good').innerText()).split(' ')[0];
  for (const [who, page] of [['Ada', ada], ['Bob', bob]]) {
    for (const [group, text] of Object.entries(LANES)) {
      const output = page.locator(`#lane-${group} [data-ticket="${id}"]:not(.waiting)`);
      await output.filter({ hasText: text }).waitFor();
      check((await output.count()) === 1, `${who} sees one output of ${group}`);
      await page.locator(`#lag-${group}`, { hasText: /^lag 0 · [1-9]/ }).waitFor();
    }
  }
  check(true, 'no group lags');
  check((await sideways(ada)) <= 0, 'no sideways scrolling among tickets');
  const [above, below] = [await ack.locator('dl').boundingBox(), await ada.locator('.lanes').boundingBox()];
  check(above.y + above.height <= below.y, 'the acknowledgement lies above the lanes');
  await ada.screenshot({ path: path.join(folder, `${screen.name}-tickets.png`) });
  for (const page of [ada, bob]) await page.click('#views [data-view="room"]');
}

const sideways = (page) => page.evaluate(() => document.scrollingElement.scrollWidth - window.innerWidth);
const roomOf = (screen) => `help-desk-${screen.name}`;

async function conversation(browser, screen) {
  steps.push(screen.name);
  const room = roomOf(screen);
  const ada = await enter(browser, { ...screen, url, name: 'Ada', room, complaints });
  const bob = await enter(browser, { ...screen, url, name: 'Bob', room, complaints });
  await talk(ada, bob);
  await recover(ada, bob);
  await visit(browser, screen, bob);
  await openTicket(ada, bob, screen);
  await bob.locator('#clock', { hasText: /Server time \d\d:\d\d/ }).waitFor();
  check(true, 'server time by rpc');
  check((await sideways(bob)) <= 0, 'no sideways scrolling');
  await bob.screenshot({ path: path.join(folder, `${screen.name}.png`) });
}

async function main() {
  const browser = await launch();
  try {
    for (const screen of SCREENS) await conversation(browser, screen);
  } finally {
    await browser.close();
  }
  check(complaints.length === 0, `no errors in the console, nothing loaded from elsewhere ${complaints.join(' | ')}`);
  return steps;
}

tell(main());
