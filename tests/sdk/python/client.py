"""The official Python client against a gateway: what an application does, and a cut.

usage: client.py WS_URL json|protobuf
Prints one JSON line {"ok": bool, "steps": [...], "error": "..."} and exits 0 or 1.
Needs PyPI's centrifuge-python.
"""

import asyncio
import json
import os
import sys
import time
from urllib.parse import urlsplit

from centrifuge import (
    Client,
    ClientEventHandler,
    ReplyError,
    StreamPosition,
    SubscriptionEventHandler,
)

TIMEOUT_S = 10.0
MISSED = 5

URL, FORMAT = sys.argv[1:3]
PROTOBUF = FORMAT == "protobuf"
steps = []


def encode(value):
    """In Protobuf payloads are bytes; the namespace asks that they are JSON all the same."""
    return json.dumps(value).encode() if PROTOBUF else value


def decode(value):
    return json.loads(value) if PROTOBUF else value


def same(seen, wanted, what):
    assert seen == wanted, f"{what}: {seen!r} is not {wanted!r}"
    steps.append(what)


async def until(condition, what):
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"timed out: {what}"
        await asyncio.sleep(0.005)
    steps.append(what)


async def error_of(call):
    try:
        await call
        return 0
    except ReplyError as error:
        return error.code


class Way:
    """A way to the gateway that can be cut and mended."""

    def __init__(self, target):
        self.target = urlsplit(target)
        self.open = True
        self.writers = set()

    async def start(self):
        self.server = await asyncio.start_server(self.carry, "127.0.0.1", 0)
        port = self.server.sockets[0].getsockname()[1]
        self.url = f"ws://127.0.0.1:{port}{self.target.path}"
        return self

    async def carry(self, near_reader, near_writer):
        if not self.open:
            near_writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection(
            self.target.hostname, self.target.port
        )
        pair = {near_writer, far_writer}
        self.writers |= pair

        async def pump(reader, writer):
            try:
                while chunk := await reader.read(65536):
                    writer.write(chunk)
                    await writer.drain()
            except OSError:
                pass
            for end in pair:
                end.transport.abort()

        await asyncio.gather(pump(near_reader, far_writer), pump(far_reader, near_writer))
        self.writers -= pair

    def cut(self):
        self.open = False
        for writer in self.writers:
            writer.transport.abort()

    def mend(self):
        self.open = True

    async def close(self):
        self.cut()
        self.server.close()
        while self.writers:
            await asyncio.sleep(0.005)


class Connection(ClientEventHandler):
    """One client, its state as its events told it."""

    def __init__(self, url, name):
        self.ids = []
        self.connecting = 0
        self.client = Client(
            url,
            events=self,
            use_protobuf=PROTOBUF,
            data=encode({"name": name}),
            timeout=TIMEOUT_S,
            min_reconnect_delay=0.02,
            max_reconnect_delay=0.1,
            proxy=None,
        )

    async def on_connecting(self, ctx):
        self.connecting += 1

    async def on_connected(self, ctx):
        self.ids.append(ctx.client)

    @property
    def id(self):
        return self.ids[-1]


class Room(SubscriptionEventHandler):
    """One subscription and all it heard."""

    def __init__(self, connection, channel):
        self.publications, self.joins, self.leaves = [], [], []
        self.subscribed, self.unsubscribed = [], []
        self.subscription = connection.client.new_subscription(
            channel, events=self, positioned=True, recoverable=True, join_leave=True
        )

    async def on_publication(self, ctx):
        self.publications.append(ctx.pub)

    async def on_join(self, ctx):
        self.joins.append(ctx.info)

    async def on_leave(self, ctx):
        self.leaves.append(ctx.info)

    async def on_subscribed(self, ctx):
        self.subscribed.append(ctx)

    async def on_unsubscribed(self, ctx):
        self.unsubscribed.append(ctx)


async def talk(alice, a, bob, b):
    sent = [{"text": "hello"}, {"text": 'gün\u2028 "q" \n \U0001f426', "n": [1, 2.5, None]}, {"a": [{}]}]
    for value in sent:
        await b.subscription.publish(encode(value))
    await until(lambda: len(a.publications) == len(sent), "publications arrive")
    same([decode(one.data) for one in a.publications], sent, "payloads are what was sent")
    same([one.offset for one in a.publications], [1, 2, 3], "offsets count up")
    info = a.publications[0].info
    same((info.user, info.client, decode(info.conn_info)), ("bob", bob.id, {"name": "bob"}), "the publisher is named")

    history = await a.subscription.history(limit=-1)
    same([decode(one.data) for one in history.publications], sent, "history has all")
    same((history.offset, history.epoch != ""), (3, True), "history tells its position")
    newest = await a.subscription.history(limit=1, reverse=True)
    same([one.offset for one in newest.publications], [3], "history reversed starts at the newest")
    since = await a.subscription.history(limit=10, since=StreamPosition(1, history.epoch))
    same([one.offset for one in since.publications], [2, 3], "history since a position")
    other = a.subscription.history(limit=1, since=StreamPosition(1, "other"))
    same(await error_of(other), 112, "history of another epoch is refused")

    presence = await a.subscription.presence()
    same({key: info.user for key, info in presence.clients.items()}, {alice.id: "alice", bob.id: "bob"}, "presence names both")
    stats = await a.subscription.presence_stats()
    same((stats.num_clients, stats.num_users), (2, 2), "presence stats")


async def call(client):
    reply = await client.rpc("echo", encode({"ask": [1, "ü"]}))
    same(decode(reply.data), {"ask": [1, "ü"]}, "rpc echo")
    assert (await client.rpc("time", encode({}))).data
    same(await error_of(client.rpc("no-such-method", encode({}))), 104, "rpc of an unknown method is refused")


async def recover(way, alice, a, b):
    connecting, before = alice.connecting, len(a.publications)
    way.cut()
    await until(lambda: alice.connecting > connecting, "the cut is noticed")
    for number in range(MISSED):
        await b.subscription.publish(encode({"missed": number}))
    way.mend()
    await until(lambda: len(a.publications) == before + MISSED, "what was missed arrives")
    missed = [decode(one.data)["missed"] for one in a.publications[before:]]
    same(missed, list(range(MISSED)), "recovered once and in order")
    same((a.subscribed[-1].was_recovering, a.subscribed[-1].recovered), (True, True), "the reply says recovered")


async def part(alice, a, bob, b):
    heard = len(a.publications)
    await a.subscription.unsubscribe()
    await until(lambda: any(info.client == alice.id for info in b.leaves), "leave is seen")
    await b.subscription.publish(encode({"after": True}))
    await until(lambda: "after" in decode(b.publications[-1].data), "the publisher hears itself")
    same(list((await b.subscription.presence()).clients), [bob.id], "presence forgets who left")
    same(len(a.publications), heard, "unsubscribed means silence")
    await a.subscription.subscribe()
    await a.subscription.ready(TIMEOUT_S)
    steps.append("subscribed again")


async def refuse(bob):
    room = Room(bob, "no-such-namespace:x")
    await room.subscription.subscribe()
    await until(lambda: room.unsubscribed, "a refused subscription ends")
    same(room.unsubscribed[0].code, 102, "an unknown namespace is refused")


async def main():
    way = await Way(URL).start()
    alice, bob = Connection(way.url, "alice"), Connection(URL, "bob")
    for connection in (alice, bob):
        await connection.client.connect()
        await connection.client.ready(TIMEOUT_S)
    channel = f"sdk-python-{FORMAT}-{os.getpid()}"
    a, b = Room(alice, channel), Room(bob, channel)
    for room in (a, b):
        await room.subscription.subscribe()
        await room.subscription.ready(TIMEOUT_S)
    assert alice.id != bob.id
    await until(lambda: any(info.client == bob.id for info in a.joins), "join is seen")

    await talk(alice, a, bob, b)
    await call(alice.client)
    await recover(way, alice, a, b)
    await part(alice, a, bob, b)
    await refuse(bob)
    await alice.client.disconnect()
    await bob.client.disconnect()
    await way.close()


if __name__ == "__main__":
    verdict = {"ok": True, "steps": steps}
    try:
        asyncio.run(asyncio.wait_for(main(), 60))
    except Exception as error:  # whatever went wrong is the verdict
        verdict |= {"ok": False, "error": f"{type(error).__name__}: {error}"}
    print(json.dumps(verdict))
    sys.exit(0 if verdict["ok"] else 1)
