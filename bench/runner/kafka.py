"""`bench/run kafka`: durable events beside a Go gateway; Kafka clients alone; the journal."""

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

from . import kafka_table, machine, peers, table
from .broker import PARTITIONS, Broker, require_kafka
from .kafka_rows import CONSUMED_RECORDS, NOT_YET, PEERS, RECOVERED_RECORDS, ROWS
from .peers import BENCH, GO_TARGET, TARGET, Server
from .ws import LOAD_LIMIT_S, RESULTS, names

C_TARGET = TARGET / "bench-c"
CONFIGS = BENCH / "configs"
SYNC_SECONDS = 2
WITH_BROKER = ("gateway", "producer", "consumer")


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
        with Broker(folder / "kafka") if with_broker else nullcontext() as broker:
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
    if "gateway" in kinds and any(peer.name.startswith("trine-") for peer in wanted):
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
                    if row.kind not in peer.kinds or self.missing(row, peer):
                        continue
                    try:
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
        options, log_kind = self.options, "embedded" if peer.name == "trine-embedded" else "kafka"
        data = Path(tempfile.mkdtemp(prefix="data-", dir=self.folder))
        topics = ("ticket.create", "durable") if log_kind == "kafka" else ()
        for topic in topics:
            self.broker.create(topic)
        command = [self.tool("load"), *row.arguments, "--format", options.format,
                   "--seconds", str(options.seconds), "--warm-up", str(options.warm_up),
                   "--cpu", str(options.load_cpu), "--server-cpu", str(options.server_cpu)]
        command += ["--at", "journal" if log_kind == "embedded" else "kafka"]
        if row.rate:
            command += ["--rate", str(row.rate)]
        if log_kind == "kafka":
            command += ["--broker-pid", str(self.broker.pid)]
        try:
            with Server(self.server(peer, log_kind, data), options.profile, options.server_cpu) as server:
                command += ["--address", server.address, "--server-pid", str(server.process.pid)]
                report = self.json(command)
            if log_kind == "kafka":
                self.compare(report, "ticket.create", report["replies"])
        finally:
            for topic in topics:
                self.broker.delete(topic)
            shutil.rmtree(data)
        return report

    def server(self, peer, log_kind: str, data: Path) -> peers.Peer:
        if peer.name.startswith("go-"):
            arguments = ("--brokers", self.broker.address)
            return peers.Peer(peer.name, peer.label, "go", "gateway", arguments, peer.environment)
        config = "durable.toml" if log_kind == "embedded" else "kafka.toml"
        text = (CONFIGS / config).read_text().replace("BROKERS", self.broker.address)
        (data / config).write_text(text)
        arguments = ("run", "-c", str(data / config))
        # Until its journal (the log's or the spool's) is read durable events are refused.
        ready = '"message":"journal","phase":"Ready"'
        return peers.Peer(peer.name, peer.label, "trine", "trine", arguments, peer.environment, ready=ready)

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
        before_s = self.broker.cpu_s()
        try:
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
        if peer.name == "trine":
            return [self.tool(program)]
        if peer.name == "librdkafka":
            return [str(C_TARGET / program)]
        client = ["--client", peer.name] if program == "produce" else []
        return [str(GO_TARGET / program), *client]

    def json(self, command: list) -> dict:
        limit_s = LOAD_LIMIT_S + self.options.seconds + self.options.warm_up
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
        if done.returncode:
            raise RuntimeError(done.stderr.strip() or f"{command[0]} ended with {done.returncode}")
        report = json.loads(done.stdout)
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
                        "profile": self.options.profile, "spin": False,
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
    """The JSON under a name with the date, and RESULTS.md."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"kafka-{results['date'][:10]}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    table.refresh(BENCH / "RESULTS.md", "kafka", kafka_table.markdown(results, path))
    print(f"wrote {path} and the generated part of RESULTS.md")
