// The official JavaScript client against a gateway: what an application does, and a cut.
//
// usage: node client.cjs WS_URL json|protobuf
// Prints one JSON line {"ok": bool, "steps": [...], "error": "..."} and exits 0 or 1.
// Needs the npm packages centrifuge and ws in NODE_PATH.
'use strict';

const net = require('node:net');
const WebSocket = require('ws');

const [url, format] = process.argv.slice(2);
const protobuf = format === 'protobuf';
const { Centrifuge } = protobuf ? require('centrifuge/build/protobuf') : require('centrifuge');

const TIMEOUT_MS = 10_000;
const MISSED = 5;
const steps = [];

// In Protobuf payloads are bytes; the namespace asks that they are JSON all the same.
const encode = (value) => (protobuf ? new TextEncoder().encode(JSON.stringify(value)) : value);
const decode = (value) => (protobuf ? JSON.parse(new TextDecoder().decode(value)) : value);

function check(condition, what) {
  if (!condition) throw new Error(what);
  steps.push(what);
}

function same(seen, wanted, what) {
  const [left, right] = [JSON.stringify(seen), JSON.stringify(wanted)];
  check(left === right, left === right ? what : `${what}: ${left} is not ${right}`);
}

function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`timed out: ${what}`)), TIMEOUT_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

const event = (emitter, name) => within(new Promise((done) => emitter.once(name, done)), name);

async function until(condition, what) {
  const deadline = Date.now() + TIMEOUT_MS;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`timed out: ${what}`);
    await new Promise((done) => setTimeout(done, 5));
  }
  steps.push(what);
}

// A way to the gateway that can be cut and mended.
function cuttable(target) {
  const sockets = new Set();
  let open = true;
  const server = net.createServer((near) => {
    if (!open) return near.destroy();
    const far = net.connect(Number(target.port), target.hostname);
    for (const [one, other] of [[near, far], [far, near]]) {
      sockets.add(one);
      one.on('error', () => other.destroy());
      one.on('close', () => { sockets.delete(one); other.destroy(); });
      one.pipe(other);
    }
  });
  return new Promise((done) => server.listen(0, '127.0.0.1', () => done({
    url: `ws://127.0.0.1:${server.address().port}${target.pathname}`,
    cut() { open = false; sockets.forEach((socket) => socket.destroy()); },
    mend() { open = true; },
    close() { sockets.forEach((socket) => socket.destroy()); server.close(); },
  })));
}

async function connect(address, name) {
  const client = new Centrifuge(address, {
    websocket: WebSocket,
    data: encode({ name }),
    minReconnectDelay: 20,
    maxReconnectDelay: 100,
    timeout: TIMEOUT_MS,
  });
  const connected = event(client, 'connected');
  client.connect();
  return { client, id: (await connected).client };
}

async function subscribe(client, channel) {
  const subscription = client.newSubscription(channel, { recoverable: true, positioned: true, joinLeave: true });
  const seen = { publications: [], joins: [], leaves: [], subscribed: [] };
  subscription.on('publication', (publication) => seen.publications.push(publication));
  subscription.on('join', ({ info }) => seen.joins.push(info));
  subscription.on('leave', ({ info }) => seen.leaves.push(info));
  subscription.on('subscribed', (context) => seen.subscribed.push(context));
  subscription.subscribe();
  await within(subscription.ready(), `subscribe ${channel}`);
  return { subscription, seen };
}

async function errorOf(promise) {
  try {
    await promise;
    return 0;
  } catch (error) {
    return error.code;
  }
}

async function talk(alice, bob, channel) {
  const sent = [{ text: 'hello' }, { text: 'g\u00fcn\u2028 "q" \n \u{1F426}', n: [1, 2.5, null] }, { deep: { a: [{}] } }];
  for (const value of sent) await bob.subscription.publish(encode(value));
  await until(() => alice.seen.publications.length === sent.length, 'publications arrive');
  same(alice.seen.publications.map(({ data }) => decode(data)), sent, 'payloads are what was sent');
  same(alice.seen.publications.map(({ offset }) => Number(offset)), [1, 2, 3], 'offsets count up');
  const { info } = alice.seen.publications[0];
  same([info.user, info.client, decode(info.connInfo)], ['bob', bob.id, { name: 'bob' }], 'the publisher is named');

  const all = await alice.subscription.history({ limit: -1 });
  same(all.publications.map(({ data }) => decode(data)), sent, 'history has all');
  check(Number(all.offset) === 3 && all.epoch !== '', 'history tells its position');
  const last = await alice.subscription.history({ limit: 1, reverse: true });
  same(last.publications.map(({ offset }) => Number(offset)), [3], 'history reversed starts at the newest');
  const since = await alice.subscription.history({ limit: 10, since: { offset: 1, epoch: all.epoch } });
  same(since.publications.map(({ offset }) => Number(offset)), [2, 3], 'history since a position');
  same(await errorOf(alice.subscription.history({ limit: 1, since: { offset: 1, epoch: 'other' } })), 112, 'history of another epoch is refused');

  const { clients } = await alice.subscription.presence();
  same(Object.values(clients).map(({ user }) => user).sort(), ['alice', 'bob'], 'presence names both');
  check(clients[bob.id].client === bob.id, 'presence is keyed by client');
  const stats = await alice.subscription.presenceStats();
  same([stats.numClients, stats.numUsers], [2, 2], `presence stats of ${channel}`);
}

async function recover(way, alice, bob) {
  const reconnected = event(alice.client, 'connected');
  way.cut();
  await event(alice.client, 'connecting');
  const before = alice.seen.publications.length;
  for (let number = 0; number < MISSED; number += 1) await bob.subscription.publish(encode({ missed: number }));
  way.mend();
  alice.id = (await reconnected).client;
  await until(() => alice.seen.publications.length === before + MISSED, 'what was missed arrives');
  same(
    alice.seen.publications.slice(before).map(({ data }) => decode(data).missed),
    [...Array(MISSED).keys()],
    'recovered once and in order',
  );
  const context = alice.seen.subscribed.at(-1);
  same([context.wasRecovering, context.recovered], [true, true], 'the reply says recovered');
}

async function call(client) {
  const { data } = await client.rpc('echo', encode({ ask: [1, '\u00fc'] }));
  same(decode(data), { ask: [1, '\u00fc'] }, 'rpc echo');
  check((await client.rpc('time', encode({}))).data !== undefined, 'rpc time');
  same(await errorOf(client.rpc('no-such-method', encode({}))), 104, 'rpc of an unknown method is refused');
}

async function part(alice, bob, channel) {
  const heard = alice.seen.publications.length;
  alice.subscription.unsubscribe();
  await until(() => bob.seen.leaves.some(({ client }) => client === alice.id), 'leave is seen');
  await bob.subscription.publish(encode({ after: true }));
  await until(() => bob.seen.publications.some(({ data }) => decode(data).after), 'the publisher hears itself');
  same(Object.keys((await bob.subscription.presence()).clients), [bob.id], 'presence forgets who left');
  check(alice.seen.publications.length === heard, 'unsubscribed means silence');
  alice.subscription.subscribe();
  await within(alice.subscription.ready(), `subscribe ${channel} again`);
  steps.push('subscribed again');
}

async function refuse(client) {
  const unknown = client.newSubscription('no-such-namespace:x');
  const refused = event(unknown, 'unsubscribed');
  unknown.subscribe();
  same((await refused).code, 102, 'an unknown namespace is refused');
}

async function main() {
  const way = await cuttable(new URL(url));
  const channel = `sdk-js-${format}-${process.pid}`;
  const alice = await connect(way.url, 'alice');
  const bob = await connect(url, 'bob');
  check(alice.id && bob.id && alice.id !== bob.id, 'connected, each with an id of its own');
  Object.assign(alice, await subscribe(alice.client, channel));
  Object.assign(bob, await subscribe(bob.client, channel));
  await until(() => alice.seen.joins.some(({ client }) => client === bob.id), 'join is seen');

  await talk(alice, bob, channel);
  await call(alice.client);
  await recover(way, alice, bob);
  await part(alice, bob, channel);
  await refuse(bob.client);
  alice.client.disconnect();
  bob.client.disconnect();
  way.close();
}

main().then(
  () => console.log(JSON.stringify({ ok: true, steps })),
  (error) => {
    console.log(JSON.stringify({ ok: false, steps, error: String(error?.message ?? JSON.stringify(error)) }));
    process.exit(1);
  },
);
