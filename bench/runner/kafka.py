"""`bench/run kafka`: durable events beside a Go gateway; Kafka clients alone; the journal."""

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

from . import awake, kafka_plots, kafka_table, machine, peers, table
from .broker import PARTITIONS, Broker, require_kafka
from .kafka_rows import (
    AWAY_S, CONSUMED_RECORDS, NOT_YET, PEERS, RECOVERED_RECORDS, ROWS, SERVED, TAKE_OVER_S,
)
from .peers import BENCH, GO_TARGET, TARGET, Server
from .ws import LOAD_LIMIT_S, RESULTS, names

C_TARGET = TARGET / "bench-c"
CONFIGS = BENCH / "configs"
SYNC_SECONDS = 2
WITH_BROKER = (*SERVED, "producer", "consumer")
# Until what was spooled as fast as it goes is forwarded.
DRAIN_LIMIT_S = 60
# Between two looks at the spool's metrics; the server pays for each.
DRAIN_LOOK_S = 0.05


def main(arguments: list) -> int:
    options = parse(arguments)
    with_broker = any(row.kind in WITH_BROKER for row in options.rows)
    try:
        if with_broker:
            require_kafka()
        skipped = build(options)
        folder = Path(tempfile.mkdtemp(prefix="trine-bench-", dir=options.folder))
    except (RuntimeError, OSError) as error:
        print(f"bench/run kafka: {error}", file=sys.stderr)
        return 1
    try:
        cluster = Broker(folder / "kafka") if with_broker else nullcontext()
        with awake.all_awake(options.awake), cluster as broker:
            bench = Bench(options, broker, folder, skipped)
            try:
                bench.run()
            except KeyboardInterrupt:
                print("interrupted; what was measured so far follows", file=sys.stderr)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    results = bench.results()
    print(kafka_table.render(results))
    if options.save and bench.samples:
        save(results)
    return 0 if bench.samples else 1


def parse(arguments: list) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run kafka", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (5)")
    parser.add_argument("--seconds", type=float, default=3, help="measured in each run (3)")
    parser.add_argument("--warm-up", type=float, default=1, help="seconds before measuring (1)")
    parser.add_argument("--rows", type=names([row.name for row in ROWS]), default=None,
                        help="comma-separated; " + ", ".join(row.name for row in ROWS))
    parser.add_argument("--peers", type=names([peer.name for peer in PEERS]), default=None,
                        help="comma-separated, those that are not there yet are tried if they are "
                             "named; " + ", ".join(peer.name for peer in PEERS))
    parser.add_argument("--format", choices=("protobuf", "json"), default="protobuf",
                        help="of the gateway rows' clients (protobuf)")
    parser.add_argument("--awake", action="store_true", help="no core may halt, for any peer")
    parser.add_argument("--profile", default="release", help="cargo profile (release)")
    parser.add_argument("--folder", type=Path, default=TARGET,
                        help="whose filesystem the broker and the journals are on (the target folder)")
    parser.add_argument("--server-cpu", type=int, default=0)
    parser.add_argument("--load-cpu", type=int, default=1)
    parser.add_argument("--no-save", dest="save", action="store_false",
                        help="print only; leave results and RESULTS.md alone")
    options = parser.parse_args(arguments)
    options.named = options.peers is not None
    options.rows = [row for row in ROWS if options.rows is None or row.name in options.rows]
    options.peers = [peer for peer in PEERS if options.peers is None or peer.name in options.peers]
    return options


def build(options: argparse.Namespace) -> dict:
    """Builds what the rows need. Gives the peers that cannot be had, and why."""
    kinds = {row.kind for row in options.rows}
    wanted = [peer for peer in options.peers if kinds & set(peer.kinds)]
    packages = ["-p", "trine-bench"]
    if kinds & set(SERVED) and any(peer.name.startswith("trine-") for peer in wanted):
        packages += ["-p", "trine"]
    subprocess.run(["cargo", "build", "--profile", options.profile, *packages], cwd=peers.ROOT, check=True)
    if any(peer.name.startswith(("go-", "franz", "sarama")) for peer in wanted) or "consumer" in kinds:
        peers.build_go()
    if any(peer.name == "librdkafka" for peer in wanted):
        return build_c()
    return {}


def build_c() -> dict:
    C_TARGET.mkdir(parents=True, exist_ok=True)
    for name in ("produce", "consume"):
        command = ["cc", "-std=c11", "-D_GNU_SOURCE", "-O2", "-o", str(C_TARGET / name), f"{name}.c", "-lrdkafka"]
        try:
            done = subprocess.run(command, cwd=BENCH / "baselines" / "c", capture_output=True, text=True)
        except OSError as error:
            return {"librdkafka": f"skipped: {error}"}
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            return {"librdkafka": "skipped: it does not build; Debian has it as librdkafka-dev"}
    return {}


class Bench:
    """The rounds, and what they gave."""

    def __init__(self, options: argparse.Namespace, broker: Broker | None, folder: Path, skipped: dict):
        self.options = options
        self.broker = broker
        self.folder = folder
        self.skipped = skipped  # peers that cannot be had, and why
        self.samples = {}  # (row, peer): reports
        self.syncs = []  # of each round
        self.topics = 0

    def run(self) -> None:
        if self.broker:
            self.warm_the_broker()
        for number in range(self.options.rounds):
            if any(row.kind == "gateway" for row in self.options.rows):
                command = [self.tool("disk"), str(self.folder), "--seconds", str(SYNC_SECONDS)]
                self.syncs.append(self.json(command))
            for row in self.options.rows:
                for peer in self.turn(number):
                    if row.kind not in peer.kinds or self.missing(row, peer) or (peer.open_only and not row.rate):
                        continue
                    try:
                        with awake.core_awake(self.options.load_cpu, bool(row.rate)):
                            report = getattr(self, row.kind)(row, peer)
                    except (RuntimeError, subprocess.TimeoutExpired) as error:
                        print(f"{peer.name} {row.name}: {error}", file=sys.stderr)
                        report = None
                    if report:
                        self.samples.setdefault((row.name, peer.name), []).append(report)
                    progress(number, row, peer, report)

    def turn(self, number: int) -> list:
        """The peers, begun with another one each round."""
        start = number % len(self.options.peers)
        return self.options.peers[start:] + self.options.peers[:start]

    def missing(self, row, peer) -> str:
        """Why a peer does not run a row; empty: it does."""
        if not self.options.named and row.kind in peer.missing:
            return NOT_YET
        return self.skipped.get(peer.name, "")

    def warm_the_broker(self) -> None:
        """Its code is compiled as it runs, and its first producer id takes long."""
        topic = self.topic()
        self.json([self.tool("produce"), "--brokers", self.broker.address, "--topic", topic,
                   "--seconds", "3", "--linger-ms", "5"])
        self.broker.delete(topic)

    def gateway(self, row, peer) -> dict:
        """Clients send rpc ticket.create over WebSocket; the reply comes after the log's."""
        embedded = peer.name == "trine-embedded"
        with self.place(() if embedded else ("ticket.create", "durable")) as data:
            with self.serve(peer, "durable.toml" if embedded else "kafka.toml", data) as server:
                report = self.json(self.load(row, server, "journal" if embedded else "kafka"))
            if not embedded:
                self.compare(report, "ticket.create", report["replies"])
        return report

    def deliver(self, row, peer) -> dict:
        """One client sends rpc ticket.create; a consumer puts the records into a channel of all others."""
        with self.place(("ticket.create",)) as data:
            with self.serve(peer, "deliver.toml", data, "--channel", "bench0", "--group", data.name) as server:
                if server.peer.kind == "trine":
                    server.until(lambda: server.metric("trine_consumer_partitions") == PARTITIONS)
                report = self.json(self.load(row, server, "kafka"))
            self.compare(report, "ticket.create", report["replies"])
        return report

    def spool(self, row, peer) -> dict:
        """The broker hangs; the replies come after the spool's."""
        with self.place(("ticket.create",)) as data:
            with self.serve(peer, "spool.toml", data) as server:
                with self.broker.away():
                    report = self.json(self.load(row, server, "spool", self.options.warm_up + TAKE_OVER_S))
                server.until(lambda: server.metric("trine_spool_records") == 0, DRAIN_LIMIT_S)
            self.compare(report, "ticket.create", report["replies"])
        return report

    def drain(self, row, peer) -> dict:
        """The broker hangs for a while under live traffic; what the spool then holds is forwarded
        beside it. The load tool's own measurement begins when the broker is about to be back."""
        before_s, beside_s = self.options.warm_up + AWAY_S, AWAY_S
        with self.place(("ticket.create",)) as data:
            with self.serve(peer, "spool.toml", data) as server:
                command = self.load(row, server, "any", before_s, beside_s)
                with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as load:
                    try:
                        server.until(lambda: server.metric("trine_events_total", "stored") > 0)
                        time.sleep(self.options.warm_up)
                        with self.broker.away():
                            time.sleep(AWAY_S)
                        drained = self.drained(server, beside_s)
                        report = self.report_of(command, load, before_s + beside_s)
                    finally:
                        load.kill()
                server.until(lambda: server.metric("trine_spool_records") == 0, DRAIN_LIMIT_S)
            self.compare(report, "ticket.create", report["replies"])
        return {**report, **drained, "drain_ratio": drained["drained_per_s"] / drained["live_per_s"]}

    def drained(self, server: Server, limit_s: float) -> dict:
        """Follows the spool until it is empty. Its rate is that between the first and the last look
        that saw it less full but not empty: when it became so nobody saw."""
        began, before, looks = time.monotonic(), server.metrics(), []
        out, left = before.get("trine_spool_records_total", "out"), before.get("trine_spool_records")
        while left or not looks:
            if time.monotonic() > began + limit_s:
                raise RuntimeError(f"after {limit_s} s the spool still has {left:.0f} records")
            time.sleep(DRAIN_LOOK_S)
            now, numbers = time.monotonic(), server.metrics()
            left = numbers.get("trine_spool_records")
            if numbers.get("trine_spool_records_total", "out") > out:
                out = numbers.get("trine_spool_records_total", "out")
                looks.append((now, out, numbers.get("trine_events_total", "stored")))
        if len(looks) < 3:
            raise RuntimeError(f"{before.get('trine_spool_records'):.0f} spooled records are gone too soon")
        seconds, drained, live = (last - first for first, last in zip(looks[0], looks[-2]))
        return {"spooled": before.get("trine_spool_records"), "drain_s": now - began,
                "drained_per_s": drained / seconds, "live_per_s": live / seconds}

    @contextmanager
    def place(self, topics: tuple):
        """A folder for a server, and fresh topics; both are gone afterwards."""
        data = Path(tempfile.mkdtemp(prefix="data-", dir=self.folder))
        try:
            for topic in topics:
                self.broker.create(topic)
            yield data
        finally:
            for topic in topics:
                self.broker.delete(topic)
            shutil.rmtree(data)

    def load(self, row, server: Server, at: str, warm_up=None, seconds=None) -> list:
        """The load tool's command."""
        options = self.options
        command = [self.tool("load"), *row.arguments, "--format", options.format,
                   "--seconds", str(seconds or options.seconds), "--warm-up", str(warm_up or options.warm_up),
                   "--cpu", str(options.load_cpu), "--server-cpu", str(options.server_cpu), "--at", at,
                   "--address", server.address, "--server-pid", str(server.process.pid)]
        if row.rate:
            command += ["--rate", str(row.rate)]
        if at != "journal":
            command += ["--broker-pid", str(self.broker.pid)]
        return command

    def serve(self, peer, config: str, data: Path, *go_arguments: str) -> Server:
        """A server, on its way."""
        options = self.options
        if peer.name.startswith("go-"):
            arguments = ("--brokers", self.broker.address, *go_arguments)
            ready = "assigned" if go_arguments else ""
            gateway = peers.Peer(peer.name, peer.label, "go", "gateway", arguments, peer.environment, ready=ready)
            return Server(gateway, options.profile, options.server_cpu)
        brokers = self.broker.address if self.broker else ""
        text = (CONFIGS / config).read_text().replace("BROKERS", brokers).replace("GROUP", data.name)
        (data / config).write_text(text)
        arguments = ("run", "-c", str(data / config))
        # Until its journal (the log's or the spool's) is read durable events are refused.
        ready = '"phase":"Ready"'
        trine = peers.Peer(peer.name, peer.label, "trine", "trine", arguments, peer.environment, ready=ready)
        return Server(trine, options.profile, options.server_cpu)

    def producer(self, row, peer) -> dict:
        options, topic = self.options, self.topic()
        command = ["taskset", "-c", str(options.server_cpu), *self.client("produce", peer),
                   "--brokers", self.broker.address, "--topic", topic, "--partitions", str(PARTITIONS),
                   "--value-bytes", str(row.value_bytes), "--warm-up", str(options.warm_up),
                   "--seconds", str(options.seconds), *row.arguments]
        if row.rate:
            # A little longer than what is measured, so that its end is seen.
            seconds = options.warm_up + options.seconds + 0.2
            command = [self.tool("clock"), "--rate", str(row.rate), "--seconds", str(seconds),
                       "--cpu", str(options.load_cpu), "--", *command, "--clock"]
        # As control does for a shard so busy (`shards.keep_awake`).
        keeps_awake = bool(row.rate) and peer.name == "trine"
        before_s = self.broker.cpu_s()
        try:
            with awake.core_awake(options.server_cpu, keeps_awake):
                report = self.json(command)
            broker_s = self.broker.cpu_s() - before_s
            report["broker_us_per_unit"] = broker_s * 1e6 / max(report["acknowledged"], 1)
            self.compare(report, topic, report["acknowledged"])
        finally:
            self.broker.delete(topic)
        return report

    def consumer(self, row, peer) -> dict:
        topic = self.topic()
        try:
            self.fill(topic, row.value_bytes)
            before_s = self.broker.cpu_s()
            report = self.json(["taskset", "-c", str(self.options.server_cpu), *self.client("consume", peer),
                                "--brokers", self.broker.address, "--topic", topic, "--group", topic,
                                "--records", str(CONSUMED_RECORDS)])
            report["broker_us_per_unit"] = (self.broker.cpu_s() - before_s) * 1e6 / report["records"]
        finally:
            self.broker.delete(topic)
        return report

    def fill(self, topic: str, value_bytes: int) -> None:
        """Makes records for a consumer; all get what the same client has written."""
        while self.broker.records(topic) < CONSUMED_RECORDS:
            self.json([str(GO_TARGET / "produce"), "--brokers", self.broker.address, "--topic", topic,
                       "--value-bytes", str(value_bytes), "--linger-ms", "5", "--warm-up", "0",
                       "--seconds", "2"])

    def recovery(self, row, peer) -> dict:
        return self.json(["taskset", "-c", str(self.options.server_cpu), self.tool("recovery"),
                          str(self.folder / "journal"), "--records", str(RECOVERED_RECORDS),
                          "--bytes", str(row.value_bytes)])

    def compare(self, report: dict, topic: str, acknowledged: int) -> None:
        """What was acknowledged must be in the log; what else is there is no loss."""
        report["in_log"] = self.broker.records(topic)
        report["missing"] = max(acknowledged - report["in_log"], 0)

    def topic(self) -> str:
        self.topics += 1
        name = f"bench-{os.getpid()}-{self.topics}"
        self.broker.create(name)
        return name

    def tool(self, name: str) -> str:
        return str(TARGET / self.options.profile / name)

    def client(self, program: str, peer) -> list:
        if peer.name in ("trine", "trine-halting"):
            return [self.tool(program)]
        if peer.name == "librdkafka":
            return [str(C_TARGET / program)]
        client = ["--client", peer.name] if program == "produce" else []
        return [str(GO_TARGET / program), *client]

    def json(self, command: list) -> dict:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                return self.report_of(command, process, self.options.seconds + self.options.warm_up)
            finally:
                process.kill()

    def report_of(self, command: list, process: subprocess.Popen, seconds: float) -> dict:
        """What a tool that takes so long printed."""
        text, error = process.communicate(timeout=LOAD_LIMIT_S + seconds)
        if process.returncode:
            raise RuntimeError(error.strip() or f"{command[0]} ended with {process.returncode}")
        report = json.loads(text)
        if 0 in (report.get("records"), report.get("units")):
            raise RuntimeError(f"nothing was measured: {report.get('first_error')}")
        return report

    def results(self) -> dict:
        rows = []
        for row in self.options.rows:
            able = [peer for peer in self.options.peers if row.kind in peer.kinds]
            rows.append({
                "row": row.name,
                "rate": row.rate or None,
                "peers": {peer.name: self.samples[row.name, peer.name]
                          for peer in able if (row.name, peer.name) in self.samples},
                "missing": {peer.name: why for peer in able if (why := self.missing(row, peer))},
            })
        return {
            "benchmark": "kafka",
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "machine": machine.describe(),
            "versions": machine.versions(),
            "options": {"rounds": self.options.rounds, "seconds": self.options.seconds,
                        "warm_up": self.options.warm_up, "format": self.options.format,
                        "profile": self.options.profile, "spin": False, "awake": self.options.awake,
                        "filesystem": machine.output("stat", "-f", "-c", "%T", str(self.options.folder))},
            "syncs": self.syncs,
            "rows": rows,
        }


def progress(number: int, row, peer, report) -> None:
    rate, cost = kafka_table.rate_and_cost(row, report) if report else (None, None)
    text = "failed"
    if row.kind == "recovery" and report:
        text = f"{report['gib_per_s']:.2f} GiB/s"
    elif report:
        text = f"{rate:11,.0f}/s {cost:8.3f} µs  errors {report['errors']}"
    print(f"round {number + 1}  {row.name:18} {peer.name:15} {text}", file=sys.stderr, flush=True)


def save(results: dict) -> None:
    """The JSON under a name with the date, the plots, and RESULTS.md."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"kafka-{results['date'][:10]}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    drawn = kafka_plots.draw(results, RESULTS, "kafka")
    table.refresh(BENCH / "RESULTS.md", "kafka", kafka_table.markdown(results, path, drawn))
    print(f"wrote {path}, {len(drawn)} plots, and the generated part of RESULTS.md")
