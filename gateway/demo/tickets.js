// The ticket flow: a ticket is opened by rpc and becomes a record of the log; three consumer groups
// put out what they make of it, each into a channel of its own.
//
// A record may be delivered twice, so an output is drawn once for each ticket and lane.
'use strict';

const CREATE = 'ticket.create';
const ENTRIES_MAX = 50; // outputs kept in a lane
const LAG_AGE_MAX_MS = 3_500; // a shard that has said nothing for so long counts no more

// A group, the channel of its outputs, and what an output shows.
const LANES = [
  { group: 'notification', channel: 'desk:tickets', ticketOf: (data) => data.id, show: (data) => `${data.subject} (from ${data.customer})` },
  { group: 'log', channel: `log:${CREATE}`, ticketOf: (data) => data.id, show: (data) => JSON.stringify(data, null, 1) },
  { group: 'quality', channel: 'desk:quality', ticketOf: (data) => data.ticket, show: (data) => data.verdict },
];
const LAG_CHANNEL = 'demo:lag';

const lagOfShard = new Map(); // shard -> { groups, at_ms }
const openedAt = new Map(); // own tickets -> when they were sent
let desk = null; // the connection, and who is there
let ticketId = ''; // kept until it is acknowledged, so that a second try opens no second ticket
let lagTimer = 0;

// ---------------------------------------------------------------- coming and going

function enterDesk(connection, name) {
  desk = { connection, name };
  for (const lane of LANES) {
    listOf(lane).replaceChildren();
    follow(lane);
  }
  const lag = connection.newSubscription(LAG_CHANNEL);
  lag.on('publication', ({ data }) => {
    lagOfShard.set(data.shard, { groups: data.groups, at_ms: performance.now() });
    showLag();
  });
  // A gateway without the ticket flow has no such channel.
  lag.on('unsubscribed', ({ code }) => {
    if (code !== 0) showView('room', false);
  });
  lag.on('subscribed', () => { $('views').hidden = false; });
  lag.subscribe();
  lagTimer = setInterval(showLag, 1000);
}

function leaveDesk() {
  clearInterval(lagTimer);
  desk = null;
  lagOfShard.clear();
  openedAt.clear();
  $('ack').replaceChildren();
  showView('room', false);
}

function follow(lane) {
  const subscription = desk.connection.newSubscription(lane.channel, { recoverable: true, positioned: true });
  subscription.on('publication', ({ data }) => showOutput(lane, data));
  subscription.on('subscribed', async ({ wasRecovering, recovered }) => {
    if (wasRecovering && recovered) return;
    try {
      const { publications } = await subscription.history({ limit: ENTRIES_MAX, reverse: true });
      publications.reverse().forEach(({ data }) => showOutput(lane, data));
    } catch (error) {
      if (desk) showAck(`History of ${lane.channel}: ${error.message}`, 'bad');
    }
  });
  subscription.subscribe();
}

// ---------------------------------------------------------------- opening a ticket

$('ticket-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  const [subject, text] = [$('subject').value.trim(), $('happened').value.trim()];
  if (!subject || !desk) return;
  ticketId ||= newId();
  const ticket = { id: ticketId, customer: desk.name, subject, text, time_ms: Date.now() };
  const sent = performance.now();
  openedAt.set(ticket.id, sent);
  $('open').disabled = true;
  try {
    const { data } = await desk.connection.rpc(CREATE, ticket);
    const took = performance.now() - sent;
    ticketId = '';
    event.target.reset();
    acknowledged(ticket.id, data, took);
  } catch (error) {
    showAck(`${ticket.id} is not acknowledged: ${error.message}. Send it again, it won't be opened twice.`, 'bad');
  }
  $('open').disabled = false;
});

function newId() {
  const letters = 'ABCDEFGHJKLMNPQRSTUVWXYZ23456789';
  return `T-${[...crypto.getRandomValues(new Uint8Array(6))].map((byte) => letters[byte % 32]).join('')}`;
}

function acknowledged(id, { at, partition, log_offset }, took_ms) {
  const said = element('dl');
  for (const [name, value] of Object.entries({ at, partition, log_offset, took: `${took_ms.toFixed(1)} ms` })) {
    if (value === undefined) continue; // the spool knows no place in the log yet
    const pair = element('div');
    pair.append(element('dt', '', name), element('dd', '', String(value)));
    said.append(pair);
  }
  showAck(`${id} is acknowledged`, 'good');
  $('ack').append(said);
  for (const lane of LANES) {
    if (!entryOf(lane, id)) put(lane, entry(id, 'waiting', ''));
  }
}

// ---------------------------------------------------------------- drawing

const listOf = (lane) => $(`lane-${lane.group}`);
const entryOf = (lane, id) => [...listOf(lane).children].find((item) => item.dataset.ticket === id);

function showOutput(lane, data) {
  const id = String(lane.ticketOf(data));
  const before = entryOf(lane, id);
  if (before && !before.classList.contains('waiting')) return;
  const sent = openedAt.get(id);
  const item = entry(id, sent ? `after ${Math.round(performance.now() - sent)} ms` : '', lane.show(data));
  if (before) before.replaceWith(item);
  else put(lane, item);
}

function entry(id, note, text) {
  const item = element('li', text ? 'output' : 'output waiting');
  item.dataset.ticket = id;
  const head = element('b', '', id);
  head.append(element('small', '', note));
  item.append(head, element('span', '', text || '…'));
  return item;
}

function put(lane, item) {
  listOf(lane).prepend(item);
  while (listOf(lane).childElementCount > ENTRIES_MAX) listOf(lane).lastElementChild.remove();
}

function showLag() {
  const now = performance.now();
  const sums = new Map();
  for (const [shard, { groups, at_ms }] of lagOfShard) {
    if (now - at_ms > LAG_AGE_MAX_MS) {
      lagOfShard.delete(shard);
      continue;
    }
    for (const { group, position, end_offset } of groups) {
      const sum = sums.get(group) ?? { position: 0, end_offset: 0 };
      sums.set(group, { position: sum.position + position, end_offset: sum.end_offset + end_offset });
    }
  }
  for (const { group } of LANES) {
    const sum = sums.get(group);
    const lag = sum && sum.end_offset - sum.position;
    $(`lag-${group}`).textContent = sum ? `lag ${lag} · ${sum.position} of ${sum.end_offset} done` : 'lag unknown';
    $(`lag-${group}`).dataset.behind = String(lag > 0);
  }
}

function showAck(text, kind) {
  $('ack').replaceChildren(element('p', kind, text));
}

function showView(view, there = true) {
  $('views').hidden = !there;
  $('chat').dataset.view = view;
  for (const button of $('views').children) button.setAttribute('aria-pressed', String(button.dataset.view === view));
}

$('views').addEventListener('click', ({ target }) => {
  if (target.dataset.view) showView(target.dataset.view);
});
