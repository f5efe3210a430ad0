// The demo chat over the official client SDK: one connection, one room channel; `tickets.js` shares
// the connection.
//
// The room is drawn from three things the gateway gives: history on entry, publications and
// join/leave after it, and recovery after a cut. Messages are kept unique by their offset, so a
// publication that arrives both live and in history is drawn once.
'use strict';

const HISTORY_LIMIT = 50; // messages read on entry
const LINES_MAX = 500; // lines kept in the page
const CLOCK_INTERVAL_MS = 20_000; // how often the server is asked for its time

const $ = (id) => document.getElementById(id);

let centrifuge = null;
let subscription = null;
let me = { name: '', client: '' };
let clockTimer = 0;
const people = new Map(); // client id -> name
const lines = $('messages');

// ---------------------------------------------------------------- entry

$('name').value = sessionStorage.getItem('name') || suggestName();
$('room').value = location.hash.slice(1) || 'lobby';
$('name').select();

$('entry-form').addEventListener('submit', (event) => {
  event.preventDefault();
  const name = $('name').value.trim();
  if (!name) return;
  sessionStorage.setItem('name', name);
  enter(name, $('room').value);
});

function suggestName() {
  const names = ['Ada', 'Alan', 'Barbara', 'Donald', 'Edsger', 'Grace', 'Ken', 'Leslie', 'Radia'];
  return `${names[Math.floor(Math.random() * names.length)]} ${Math.floor(10 + Math.random() * 90)}`;
}

// ---------------------------------------------------------------- room

function enter(name, room) {
  me = { name, client: '' };
  location.hash = room;
  $('title').textContent = `# ${room}`;
  $('entry').hidden = true;
  $('chat').hidden = false;
  lines.replaceChildren();

  const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
  centrifuge = new Centrifuge(`${scheme}://${location.host}/connection/websocket`, {
    data: { name },
    name: 'demo',
    minReconnectDelay: 200,
    maxReconnectDelay: 5000,
  });
  centrifuge.on('state', ({ newState }) => showState(newState));
  centrifuge.on('connected', ({ client }) => {
    me.client = client;
    tellTime();
  });
  centrifuge.on('disconnected', ({ code, reason }) => {
    if (code !== 0) note(`Disconnected: ${reason} (${code})`, 'bad');
  });

  subscription = centrifuge.newSubscription(`room-${room}`, {
    recoverable: true,
    positioned: true,
    joinLeave: true,
  });
  followRoom(subscription);
  subscription.subscribe();
  enterDesk(centrifuge, name);
  centrifuge.connect();
  clockTimer = setInterval(tellTime, CLOCK_INTERVAL_MS);
  $('text').focus();
}

function followRoom(room) {
  let recovered = null; // how many publications this recovery brought, null outside one

  room.on('subscribed', async (context) => {
    if (context.wasRecovering && context.recovered) {
      // The client plays what was missed right after this event, before anything else runs.
      recovered = 0;
      queueMicrotask(() => {
        note(`Back online: recovered ${recovered} ${recovered === 1 ? 'message' : 'messages'}`, 'good');
        recovered = null;
      });
    } else {
      if (context.wasRecovering) {
        lines.replaceChildren();
        note('Back online: history was lost, reloaded', 'bad');
      }
      await loadHistory(room);
    }
    await loadPeople(room);
  });
  room.on('publication', (publication) => {
    if (recovered !== null) recovered += 1;
    showMessage(publication);
  });
  room.on('join', ({ info }) => {
    if (people.has(info.client)) return;
    people.set(info.client, nameOf(info));
    showPeople();
    if (info.client !== me.client) note(`${nameOf(info)} joined`);
  });
  room.on('leave', ({ info }) => {
    if (!people.delete(info.client)) return;
    showPeople();
    if (info.client !== me.client) note(`${nameOf(info)} left`);
  });
  room.on('error', ({ error }) => note(`Subscription: ${error.message}`, 'bad'));
  room.on('unsubscribed', ({ code, reason }) => {
    if (code !== 0) note(`Unsubscribed: ${reason} (${code})`, 'bad');
  });
}

async function loadHistory(room) {
  try {
    const { publications } = await room.history({ limit: HISTORY_LIMIT, reverse: true });
    publications.reverse().forEach(showMessage);
  } catch (error) {
    if (room === subscription) note(`History: ${error.message}`, 'bad');
  }
}

async function loadPeople(room) {
  try {
    const { clients } = await room.presence();
    people.clear();
    for (const info of Object.values(clients)) people.set(info.client, nameOf(info));
    showPeople();
  } catch (error) {
    if (room === subscription) note(`Presence: ${error.message}`, 'bad');
  }
}

$('composer').addEventListener('submit', async (event) => {
  event.preventDefault();
  const text = $('text').value.trim();
  if (!text) return;
  $('text').value = '';
  try {
    await subscription.publish({ text, time_ms: Date.now() });
  } catch (error) {
    $('text').value ||= text;
    note(`Not sent: ${error.message}`, 'bad');
  }
});

$('toggle').addEventListener('click', () => {
  if (centrifuge.state === 'disconnected') {
    centrifuge.connect();
  } else {
    centrifuge.disconnect();
    note('You are offline. What is said meanwhile arrives when you are back.');
  }
});

$('leave').addEventListener('click', () => {
  clearInterval(clockTimer);
  centrifuge.disconnect();
  leaveDesk();
  centrifuge = subscription = null;
  people.clear();
  $('chat').hidden = true;
  $('entry').hidden = false;
});

async function tellTime() {
  if (centrifuge?.state !== 'connected') return;
  const sent = performance.now();
  try {
    const { data } = await centrifuge.rpc('time', {});
    const trip = (performance.now() - sent).toFixed(1);
    $('clock').textContent = `Server time ${clock(timeOf(data))} · round trip ${trip} ms`;
  } catch {
    $('clock').textContent = '';
  }
}

// ---------------------------------------------------------------- drawing

function showState(state) {
  const words = { connected: 'online', connecting: 'connecting…', disconnected: 'offline' };
  $('state').dataset.state = state;
  $('state').textContent = words[state];
  $('toggle').textContent = state === 'disconnected' ? 'Go online' : 'Go offline';
  $('send').disabled = state !== 'connected';
  if (state !== 'connected') {
    people.clear();
    showPeople();
  }
}

function showPeople() {
  const names = [...people].map(([client, name]) => ({ client, name }));
  names.sort((a, b) => (b.client === me.client) - (a.client === me.client) || a.name.localeCompare(b.name));
  $('count').textContent = names.length;
  $('people').replaceChildren(...names.map(({ client, name }) => {
    const item = element('li', '', name);
    item.style.setProperty('--hue', hue(name));
    if (client === me.client) item.append(element('small', '', 'you'));
    return item;
  }));
}

function showMessage({ data, info, offset }) {
  if (offset && lines.querySelector(`[data-offset="${Number(offset)}"]`)) return;
  const name = info ? nameOf(info) : 'the server';
  const own = info && (info.client === me.client || nameOf(info) === me.name);
  const item = element('li', own ? 'message mine' : 'message');
  const head = element('b', '', name);
  head.append(element('time', '', clock(Number(data?.time_ms) || Date.now())));
  item.append(head, element('span', '', String(data?.text ?? JSON.stringify(data))));
  item.style.setProperty('--hue', hue(name));
  if (offset) item.dataset.offset = offset;
  // Live messages may arrive while history is on its way: keep the order of offsets.
  const later = offset && [...lines.querySelectorAll('[data-offset]')].find((line) => Number(line.dataset.offset) > offset);
  place(item, later || null);
}

function note(text, kind = '') {
  place(element('li', `note ${kind}`, text), null);
}

function place(item, before) {
  const atEnd = lines.scrollHeight - lines.scrollTop - lines.clientHeight < 80;
  lines.insertBefore(item, before);
  while (lines.childElementCount > LINES_MAX) lines.firstElementChild.remove();
  if (atEnd || item.classList.contains('mine')) lines.scrollTop = lines.scrollHeight;
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function nameOf(info) {
  return info.connInfo?.name || info.user || 'anonymous';
}

function timeOf(data) {
  const value = data?.time_ms ?? data?.time ?? data;
  return typeof value === 'number' ? value : Date.parse(value);
}

function clock(time_ms) {
  return new Date(time_ms).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
}

function hue(name) {
  let hash = 0;
  for (const letter of name) hash = (hash * 31 + letter.codePointAt(0)) % 360;
  return hash;
}
