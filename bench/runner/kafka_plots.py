"""Draws results of `bench/run kafka` as SVG, as `plots` does those of `ws`."""

from . import plots
from .kafka_rows import PEERS
from .kafka_table import BASELINE, ROW, baseline, cost, latency


def draw(results: dict, folder, name: str) -> list:
    """Writes the plots that the results have rows for; gives their paths."""
    return plots.write({"cpu": cpu(results), "latency": latencies(results)}, folder, name)


def label(row) -> tuple:
    """What fits in front of a bar, the rate apart."""
    return row.name, f"{row.rate:,}/s" if row.rate else "closed loop"


def cpu(results: dict):
    """CPU a unit, relative to the row's baseline."""
    groups = []
    for entry in results["rows"]:
        row, peers = ROW[entry["row"]], entry["peers"]
        base = baseline(row, peers)
        if not base:
            continue
        bars = [(name, cost(row, reports) / base, f"{cost(row, reports):.2f} µs") for name, reports in peers.items()]
        name, loop = label(row)
        groups.append((name, f"{loop}, beside {BASELINE[row.kind]}", bars))
    return plots.bar_chart("CPU a unit; 1 is the best Go gateway, franz-go or librdkafka, less is better", groups, PEERS)


def latencies(results: dict):
    """p50, p99 and p99.9 of each open loop."""
    groups = [(*label(row), [(name, [latency(row, reports, key) for key in plots.KEYS])
                             for name, reports in entry["peers"].items()])
              for entry in results["rows"] if (row := ROW[entry["row"]]).rate]
    title = "Latency at one rate for all: p50, p99, p99.9 from small to large dot, less is better"
    return plots.dot_chart(title, groups, PEERS)
