"""`bench/run ws`: live channels over WebSocket beside two Go servers and a floor."""

import argparse
import datetime
import json
import statistics
import subprocess
import sys

from . import awake, machine, plots, table
from .peers import BENCH, PEERS, TARGET, Server, build
from .rows import FORMATS, OPEN_SHARE, ROWS, TOOL_LOOKS, TOOL_SHARE

RESULTS = BENCH / "results"
LOAD_LIMIT_S = 60


def main(arguments: list) -> int:
    options = parse(arguments)
    build(options.peers, options.profile)
    bench = Bench(options)
    try:
        with awake.all_awake(options.awake):
            bench.run()
    except RuntimeError as error:
        print(f"bench/run ws: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what was measured so far follows", file=sys.stderr)
    if not bench.samples:
        return 1
    results = bench.results()
    text = table.render(results)
    print(text)
    if options.save:
        save(results)
    return 0


def parse(arguments: list) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run ws", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (5)")
    parser.add_argument("--seconds", type=float, default=3, help="measured in each run (3)")
    parser.add_argument("--warm-up", type=float, default=1, help="seconds before measuring (1)")
    parser.add_argument("--rows", type=names([row.name for row in ROWS]), default=None,
                        help="comma-separated; " + ", ".join(row.name for row in ROWS))
    parser.add_argument("--peers", type=names([peer.name for peer in PEERS]), default=None,
                        help="comma-separated; " + ", ".join(peer.name for peer in PEERS))
    parser.add_argument("--formats", type=names(FORMATS), default=list(FORMATS),
                        help="comma-separated; protobuf, json")
    parser.add_argument("--awake", action="store_true", help="no core may halt, for any peer")
    parser.add_argument("--spin", action="store_true", help="a load tool that never sleeps")
    parser.add_argument("--profile", default="release", help="cargo profile (release)")
    parser.add_argument("--server-cpu", type=int, default=0)
    parser.add_argument("--load-cpu", type=int, default=1)
    parser.add_argument("--no-save", dest="save", action="store_false",
                        help="print only; leave results, plots and RESULTS.md alone")
    options = parser.parse_args(arguments)
    options.rows = [row for row in ROWS if options.rows is None or row.name in options.rows]
    options.peers = [peer for peer in PEERS if options.peers is None or peer.name in options.peers]
    return options


def names(known: list):
    def check(text: str) -> list:
        chosen = text.split(",")
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"no {name!r}; there are {', '.join(known)}")
        return chosen

    return check


class Bench:
    """The rounds, and what they gave."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.samples = {}  # (row, format, peer): reports
        self.calibration = {}  # the same, for rows that only set a rate
        self.rates = {}  # (row, format): units a second

    def run(self) -> None:
        closed = [row for row in self.options.rows if not row.saturation]
        opened = [row for row in self.options.rows if row.saturation]
        self.rounds(closed, self.samples, self.options.rounds)
        if opened:
            wanted = {row.saturation for row in opened} - {row.name for row in closed}
            self.rounds([row for row in ROWS if row.name in wanted], self.calibration, 1)
            self.choose_rates(opened)
            self.rounds(opened, self.samples, self.options.rounds)

    def rounds(self, rows: list, into: dict, count: int) -> None:
        for number in range(count):
            for row in rows:
                for form in self.options.formats:
                    for peer in self.turn(number):
                        if (row.needs_history and not peer.history) or (peer.open_only and not row.saturation):
                            continue
                        report = self.measure(row, form, peer)
                        if report:
                            into.setdefault((row.name, form, peer.name), []).append(report)
                        progress(number, row, form, peer, report)

    def turn(self, number: int) -> list:
        """The peers, begun with another one each round."""
        peers = self.options.peers
        start = number % len(peers)
        return peers[start:] + peers[:start]

    def measure(self, row, form: str, peer):
        options = self.options
        command = [
            str(TARGET / options.profile / "load"), *row.arguments,
            "--format", form, "--seconds", str(options.seconds),
            "--warm-up", str(options.warm_up), "--cpu", str(options.load_cpu),
            "--server-cpu", str(options.server_cpu),
        ]
        if row.saturation:
            command += ["--rate", str(self.rates[row.name, form])]
        if options.spin:
            command.append("--spin")
        try:
            with (awake.core_awake(options.load_cpu, bool(row.saturation)),
                  Server(peer, options.profile, options.server_cpu) as server):
                command += ["--address", server.address, "--server-pid", str(server.process.pid)]
                limit_s = LOAD_LIMIT_S + options.seconds + options.warm_up
                load = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
                # It sees that the load has ended only after a second.
                if peer.keeps_awake and row.saturation and not awake.stays_awake(options.server_cpu):
                    print(f"{peer.name} {row.name} {form}: its core may have halted", file=sys.stderr)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"{peer.name} {row.name} {form}: {error}", file=sys.stderr)
            return None
        if load.returncode != 0:
            print(f"{peer.name} {row.name} {form}: {load.stderr.strip()}", file=sys.stderr)
            return None
        return json.loads(load.stdout)

    def choose_rates(self, rows: list) -> None:
        """One rate for all peers: a share of the slowest's saturation, lowered while the load tool would
        shape the latencies. The first peer tells that: Trine, if it is among them, whose answers come one
        by one, so that the tool has most to do."""
        known = {**self.calibration, **self.samples}
        for row in rows:
            for form in self.options.formats:
                rates = [statistics.median(report["units_per_s"] for report in reports)
                         for (name, its_form, _), reports in known.items()
                         if (name, its_form) == (row.saturation, form)]
                if not rates:
                    raise SystemExit(f"no peer finished {row.saturation}: no rate for {row.name}")
                self.rates[row.name, form] = round(OPEN_SHARE * min(rates))
                for _ in range(TOOL_LOOKS):
                    report = self.measure(row, form, self.options.peers[0])
                    if not report or report["tool_share"] <= TOOL_SHARE:
                        break
                    rate = self.rates[row.name, form] * TOOL_SHARE / report["tool_share"]
                    self.rates[row.name, form] = round(rate)

    def results(self) -> dict:
        rows = []
        for row in ROWS:
            for form in FORMATS:
                peers = {
                    peer.name: self.samples[row.name, form, peer.name]
                    for peer in PEERS
                    if (row.name, form, peer.name) in self.samples
                }
                if peers:
                    rate = self.rates.get((row.name, form))
                    rows.append({"row": row.name, "format": form, "rate": rate, "peers": peers})
        return {
            "benchmark": "ws",
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "machine": machine.describe(),
            "versions": machine.versions(),
            "options": {
                "rounds": self.options.rounds,
                "seconds": self.options.seconds,
                "warm_up": self.options.warm_up,
                "spin": self.options.spin,
                "awake": self.options.awake,
                "profile": self.options.profile,
            },
            "rows": rows,
        }


def progress(number: int, row, form: str, peer, report) -> None:
    text = "failed"
    if report:
        faults = sum(report["faults"].values())
        text = (f"{report['units_per_s']:11,.0f}/s {report['server_us_per_unit']:8.2f} µs"
                f"  faults {faults}  errors {report['errors']}")
    print(f"round {number + 1}  {row.name:13} {form:8}  {peer.name:15} {text}",
          file=sys.stderr, flush=True)


def save(results: dict) -> None:
    """The JSON under a name with the date, the plots, and RESULTS.md. Each mode, and open loops alone,
    have a part of their own there."""
    RESULTS.mkdir(exist_ok=True)
    modes = [mode for mode in ("spin", "awake") if results["options"][mode]]
    if not modes and all(entry["rate"] for entry in results["rows"]):
        modes = ["open"]
    mode = "".join(f"-{mode}" for mode in modes)
    path = RESULTS / f"ws{mode}-{results['date'][:10]}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    drawn = plots.draw(results, RESULTS, f"ws{mode}")
    table.refresh(BENCH / "RESULTS.md", f"ws{mode}", table.markdown(results, path, drawn))
    print(f"wrote {path}, {len(drawn)} plots, and the generated part of RESULTS.md")
