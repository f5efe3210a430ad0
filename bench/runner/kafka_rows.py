"""The rows and peers of `bench/run kafka`: what is run, beside whom, what to reach."""

from dataclasses import dataclass, field

NOT_YET = "not there yet"


@dataclass(frozen=True)
class Row:
    """One row."""

    name: str
    label: str
    kind: str  # gateway, deliver, spool, drain, producer, consumer or recovery
    unit: str = "record"
    arguments: tuple = ()
    rate: int = 0  # an open loop
    value_bytes: int = 128


@dataclass(frozen=True)
class Peer:
    """One server or client in one setting."""

    name: str
    label: str
    kinds: tuple
    environment: dict = field(default_factory=dict)
    missing: tuple = ()  # kinds that it cannot do yet
    open_only: bool = False  # a setting that only open loops show


def ticket(clients: int) -> tuple:
    return ("--row", "ticket", "--connections", str(clients))


def deliver(clients: int, window: int) -> tuple:
    return ("--row", "deliver", "--connections", str(clients), "--window", str(window))


def produce(linger_ms: int) -> tuple:
    return ("--linger-ms", str(linger_ms), "--outstanding", str(OUTSTANDING),
            "--batch-bytes", str(BATCH_BYTES))


# Records without an acknowledgement, and bytes of a batch, at most: the same for
# all clients. The latter is the default of franz-go and librdkafka.
OUTSTANDING = 10_000
BATCH_BYTES = 1_000_000
LINGER_MS = 5
CONSUMED_RECORDS = 1_000_000
RECOVERED_RECORDS = 1_000_000
# How long the broker is away before the spool is drained.
AWAY_S = 10
# Until the spool has taken over all partitions of a broker that hangs.
TAKE_OVER_S = 2

ROWS = [
    Row("durable-200", "durable rpc with reply, 200 clients", "gateway", "reply", ticket(200)),
    Row("durable-2000", "durable rpc with reply, 2,000 clients", "gateway", "reply", ticket(2000)),
    Row("durable-200-open", "durable rpc with reply, 200 clients", "gateway", "reply", ticket(200), 10_000),
    Row("durable-2000-open", "durable rpc with reply, 2,000 clients", "gateway", "reply", ticket(2000), 10_000),
    Row("produce-128", "producer alone, 128 B, linger 5 ms", "producer", arguments=produce(LINGER_MS)),
    Row("produce-1k", "producer alone, 1 KiB, linger 5 ms", "producer", arguments=produce(LINGER_MS),
        value_bytes=1024),
    Row("produce-open-2k", "producer alone, 128 B, no linger", "producer", arguments=produce(0), rate=2_000),
    Row("produce-open-20k", "producer alone, 128 B, no linger", "producer", arguments=produce(0), rate=20_000),
    Row("produce-1k-open-2k", "producer alone, 1 KiB, no linger", "producer", arguments=produce(0), rate=2_000,
        value_bytes=1024),
    Row("produce-1k-open-20k", "producer alone, 1 KiB, no linger", "producer", arguments=produce(0), rate=20_000,
        value_bytes=1024),
    Row("consume-128", "group consumer alone, 1 M × 128 B", "consumer"),
    Row("consume-1k", "group consumer alone, 1 M × 1 KiB", "consumer", value_bytes=1024),
    Row("recovery", "journal recovery, 1 M × 1 KiB, files cached", "recovery", value_bytes=1024),
    Row("deliver", "Kafka to 1,000 WebSocket clients", "deliver", "delivery", deliver(1000, 8)),
    Row("deliver-open", "Kafka to 1,000 WebSocket clients", "deliver", "delivery", deliver(1000, 1), 50_000),
    Row("spool", "durable rpc with reply from the spool, 200 clients", "spool", "reply", ticket(200)),
    Row("spool-drain", f"spool of {AWAY_S} s drained beside 200 clients", "drain", "reply",
        ticket(200), 10_000),
]

PEERS = [
    Peer("trine-embedded", "Trine, embedded log", ("gateway",)),
    Peer("trine-kafka", "Trine, Kafka", ("gateway", "deliver", "spool", "drain")),
    Peer("go-gateway", "centrifuge + franz-go", ("gateway", "deliver"), {"GOGC": "100"}),
    Peer("go-gateway-400", "centrifuge + franz-go, GOGC=400", ("gateway", "deliver"), {"GOGC": "400"}),
    Peer("trine", "Trine", ("producer", "consumer", "recovery")),
    Peer("trine-halting", "Trine, may halt", ("producer",), open_only=True),
    Peer("franz-go", "franz-go", ("producer", "consumer")),
    Peer("librdkafka", "librdkafka", ("producer", "consumer")),
    Peer("sarama", "sarama", ("producer",)),
]
GO_GATEWAYS = ("go-gateway", "go-gateway-400")
# Kinds whose peers are servers under the load tool.
SERVED = ("gateway", "deliver", "spool", "drain")

# What to reach; ratios of CPU a unit.
GATEWAY_CLOSED = 0.4
GATEWAY_OPEN = 0.5
GATEWAY_AIM = 0.3
PRODUCER_CLOSED = 1.0
PRODUCER_OPEN = 0.5
CONSUMER = 1.0
RECOVERY_GIB_PER_S = 1.0
# Records a second that leave the spool, beside those that come.
DRAIN_TIMES = 3
# The embedded log's p99: so many times the disk's own, and so much more.
SYNC_TIMES = 2
SYNC_MORE_US = 3000
