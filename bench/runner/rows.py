"""The rows of `bench/run ws`: what is run, what a unit is, what to reach."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One row; with a rate chosen at run time if it is an open loop."""

    name: str
    label: str
    unit: str
    arguments: tuple
    saturation: str = ""  # an open loop: the closed row whose rates set its own
    needs_history: bool = False
    at_most: float = 0  # Protobuf: CPU a unit, as a ratio to centrifuge
    aim: float = 0  # Protobuf: as a multiple of the floor


CHAT = ("--row", "chat", "--connections", "1000")
FANOUT = ("--row", "fanout", "--connections", "1000")
PUBLISH = ("--row", "publish", "--connections", "200")
RPC = ("--row", "rpc", "--connections", "1000", "--payload", "64")

ROWS = [
    Row("rpc", "rpc echo, 1,000 × 64 B", "reply", RPC),
    Row("chat", "chat 500 × 2", "delivery", CHAT, at_most=0.25, aim=1.3),
    Row("fanout-1", "fan-out 1 → 1,000, one in flight", "delivery", FANOUT, at_most=0.60, aim=1.15),
    Row("fanout-8", "fan-out 1 → 1,000, eight in flight", "delivery",
        (*FANOUT, "--window", "8"), at_most=0.50, aim=1.2),
    Row("publish", "publish with reply, 200 clients", "reply", PUBLISH, at_most=0.42, aim=1.3),
    Row("chat-history", "chat 500 × 2 with history", "delivery",
        (*CHAT, "--channel-prefix", "history:"), needs_history=True),
    Row("idle", "10,000 idle, each subscribed", "connection",
        ("--row", "idle", "--connections", "10000")),
    Row("churn", "connect, subscribe, close", "life",
        ("--row", "churn", "--connections", "64"), at_most=0.45, aim=1.3),
    Row("rpc-open", "rpc echo, open loop", "reply", RPC, saturation="rpc"),
    Row("chat-open", "chat 500 × 2, open loop", "delivery", CHAT, saturation="chat"),
    Row("fanout-open", "fan-out 1 → 1,000, open loop", "delivery", FANOUT, saturation="fanout-1"),
    Row("publish-open", "publish with reply, open loop", "reply", PUBLISH, saturation="publish"),
    Row("churn-open", "connect, subscribe, close, open loop", "life",
        ("--row", "churn", "--connections", "64"), saturation="churn"),
]
FORMATS = ("protobuf", "json")
FORMAT_LABEL = {"protobuf": "Protobuf", "json": "JSON"}

# The idle row's resident bytes a connection.
IDLE_AT_MOST_BYTES = 2000
IDLE_AIM_BYTES = 1000
# JSON costs at most this much of Protobuf.
JSON_AT_MOST = 1.3
# Open loops run at this share of the slowest peer's saturation, lowered in at most
# so many looks to what takes this share of the load tool's core: with more of it the
# tool would shape the latencies.
OPEN_SHARE = 0.5
TOOL_SHARE = 0.65
TOOL_LOOKS = 8
