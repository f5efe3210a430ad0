// A page in a room whose gateway forgets its history: it must say so and start over.
//
// usage: node lost.cjs URL
// Prints "ready" once people talk; the caller then ends the data process. Prints a JSON verdict.
// Needs playwright-core in NODE_PATH and Debian's chromium.
'use strict';

const { enter, launch, message, say, tell } = require('./page.cjs');

const [url] = process.argv.slice(2);

async function main() {
  const browser = await launch();
  try {
    const ada = await enter(browser, { url, name: 'Ada', room: 'lost', width: 1100, height: 700 });
    await say(ada, 'before');
    await message(ada, 'before').waitFor();
    console.log('ready');
    await ada.locator('.note', { hasText: 'history was lost, reloaded' }).waitFor();
    if ((await message(ada, 'before').count()) !== 0) throw new Error('a lost message is still shown');
    await say(ada, 'after');
    await message(ada, 'after').waitFor();
    return ['history was lost and the page said so', 'talk goes on'];
  } finally {
    await browser.close();
  }
}

tell(main());
