"""Medians, ratios and verdicts of `bench/run kafka`, as text and as a part of RESULTS.md."""

from .kafka_rows import (
    CONSUMER, DRAIN_TIMES, GATEWAY_AIM, GATEWAY_CLOSED, GATEWAY_OPEN, GO_GATEWAYS, PEERS, PRODUCER_CLOSED,
    PRODUCER_OPEN, RECOVERY_GIB_PER_S, ROWS, SERVED, SYNC_MORE_US, SYNC_TIMES,
)
from .table import heading, mark, median

ROW = {row.name: row for row in ROWS}
LABEL = {peer.name: peer.label for peer in PEERS}
BASELINE = {"gateway": "Go gateway", "deliver": "Go gateway", "producer": "franz-go", "consumer": "librdkafka"}
LATENCIES = {"p50_us": "p50 µs", "p99_us": "p99 µs", "p999_us": "p99.9 µs"}


def rate_and_cost(row, report: dict) -> tuple:
    if row.kind in SERVED:
        return report["units_per_s"], report["server_us_per_unit"]
    return report.get("records_per_s", 0), report.get("cpu_us_per_record", 0)


def cost(row, reports: list) -> float:
    return median([{"cost": rate_and_cost(row, report)[1]} for report in reports], "cost")


def baseline(row, samples: dict):
    """The cost to compare with: of the Go gateway at its better GOGC, or of one client."""
    names = GO_GATEWAYS if row.kind in SERVED else (BASELINE.get(row.kind),)
    costs = [cost(row, samples[name]) for name in names if name in samples]
    return min(costs) if costs else None


def latency(row, reports: list, key: str) -> float:
    return median(reports, "latency", key) if row.kind in SERVED else median(reports, key)


def title(entry: dict) -> str:
    row = ROW[entry["row"]]
    rate = f" at {entry['rate']:,}/s" if entry["rate"] else ""
    return f"{row.label}{rate} (unit: one {row.unit})"


def table(entry: dict) -> list:
    """The head and a line for each peer."""
    row, lines = ROW[entry["row"]], []
    for name, reports in entry["peers"].items():
        cells = {"": LABEL[name], **cells_of(row, entry["peers"], reports)}
        if not lines:
            lines.append(list(cells))
        lines.append(list(cells.values()))
    return lines


def cells_of(row, samples: dict, reports: list) -> dict:
    if row.kind == "recovery":
        direct = [report for report in reports if report["direct_read_gib_per_s"]]
        return {
            "GiB/s": f"{median(reports, 'gib_per_s'):.2f}",
            "records/s": f"{median(reports, 'records_per_s'):,.0f}",
            "cached read GiB/s": f"{median(reports, 'cached_read_gib_per_s'):.2f}",
            "direct read GiB/s": f"{median(direct, 'direct_read_gib_per_s'):.2f}" if direct else "-",
        }
    base = baseline(row, samples)
    own = cost(row, reports)
    rate = median([{"rate": rate_and_cost(row, report)[0]} for report in reports], "rate")
    bound = "≥ " if 2 * sum(r.get("lower_bound", False) for r in reports) > len(reports) else ""
    void = 2 * sum(r.get("void", False) for r in reports) > len(reports)
    cells = drain_cells(reports) if row.kind == "drain" else {}
    cells |= {
        {"reply": "replies/s", "delivery": "deliveries/s"}.get(row.unit, "records/s"): f"{bound}{rate:,.0f}",
        "CPU µs": f"{own:.3f}",
    }
    if row.kind in BASELINE:
        cells[f"× {BASELINE[row.kind]}"] = f"{own / base:.2f}" if base else "-"
    cells |= {
        "broker µs": f"{median(reports, 'broker_us_per_unit'):.2f}",
    }
    if row.kind in SERVED or row.rate:
        for key, name in LATENCIES.items():
            cells[name] = "void" if void else f"{latency(row, reports, key):,.0f}"
    if row.kind in SERVED:
        cells["tool"] = f"{median(reports, 'tool_share'):.0%}"
        cells["others"] = f"{median(reports, 'others_share'):.0%}"
        cells["L/D/R/M"] = "/".join(str(sum(r["faults"][key] for r in reports))
                                    for key in ("lost", "duplicated", "reordered", "misrouted"))
    if row.kind != "consumer":
        checked = [report["missing"] for report in reports if "missing" in report]
        cells["not in log"] = str(sum(checked)) if checked else "-"
    cells["errors"] = str(sum(report["errors"] for report in reports))
    return cells


def drain_cells(reports: list) -> dict:
    """Of the spool; the rest of such a row is the live traffic beside it."""
    return {
        "spooled": f"{median(reports, 'spooled'):,.0f}",
        "empty after s": f"{median(reports, 'drain_s'):.1f}",
        "forwarded/s": f"{median(reports, 'drained_per_s'):,.0f}",
        "× live": f"{median(reports, 'drain_ratio'):.1f}",
    }


def verdicts(results: dict) -> list:
    """One line for each figure that Trine is to reach, and for each that cannot be measured yet."""
    lines = []
    for entry in results["rows"]:
        row, samples = ROW[entry["row"]], entry["peers"]
        for name, why in entry["missing"].items():
            lines.append(f"{LABEL[name]}: {title(entry)}: {why}")
        if row.kind == "recovery" and "trine" in samples:
            lines.append(judge_recovery(samples["trine"]))
        if row.kind in ("producer", "consumer") and "trine" in samples:
            lines += judge_client(entry, samples)
        if row.kind == "drain" and "trine-kafka" in samples:
            ratio = median(samples["trine-kafka"], "drain_ratio")
            lines.append(mark(ratio >= DRAIN_TIMES, f"{title(entry)}: forwarded at {ratio:.1f} × the live rate "
                                                    f"(at least {DRAIN_TIMES})"))
        if row.kind == "gateway" and "trine-kafka" in samples:
            lines += judge_gateway(entry, samples)
        if row.name in ("durable-200", "durable-200-open") and "trine-embedded" in samples:
            lines.append(judge_embedded(entry, samples["trine-embedded"], results["syncs"]))
    gateways = [r for e in results["rows"] for n, rs in e["peers"].items() if n.startswith("trine") for r in rs]
    missing = sum(report.get("missing", 0) for report in gateways)
    faults = sum(sum(report.get("faults", {}).values()) for report in gateways)
    lines.append(mark(missing + faults == 0, f"Trine: {missing} acknowledged records not in the log, {faults} "
                                             "units lost, doubled, out of order or wrong (0)"))
    return lines


def judge_client(entry: dict, samples: dict) -> list:
    row, other = ROW[entry["row"]], BASELINE[ROW[entry["row"]].kind]
    if other not in samples:
        return []
    at_most = CONSUMER if row.kind == "consumer" else PRODUCER_OPEN if row.rate else PRODUCER_CLOSED
    ratio = cost(row, samples["trine"]) / cost(row, samples[other])
    aim = ", aim 0.5" if at_most == PRODUCER_CLOSED and row.kind == "producer" else ""
    lines = [mark(ratio <= at_most, f"{title(entry)}: {ratio:.2f} of {other}'s CPU (at most {at_most}{aim})")]
    return lines + (judge_latency(entry, samples["trine"], samples, (other,)) if row.rate else [])


def judge_gateway(entry: dict, samples: dict) -> list:
    row, base = ROW[entry["row"]], baseline(ROW[entry["row"]], samples)
    if not base:
        return []
    at_most = GATEWAY_OPEN if row.rate else GATEWAY_CLOSED
    ratio = cost(row, samples["trine-kafka"]) / base
    what = f"{title(entry)}, Kafka: {ratio:.2f} of the Go gateway's CPU (at most {at_most}, aim {GATEWAY_AIM})"
    return [mark(ratio <= at_most, what),
            *judge_latency(entry, samples["trine-kafka"], samples, GO_GATEWAYS)]


def judge_latency(entry: dict, reports: list, samples: dict, others: tuple) -> list:
    row, lines = ROW[entry["row"]], []
    for key in ("p50_us", "p99_us"):
        best = min((latency(row, samples[name], key) for name in others if name in samples), default=None)
        own = latency(row, reports, key)
        if best is not None:
            lines.append(mark(own <= best, f"{title(entry)}: {LATENCIES[key][:-3]} {own:,.0f} µs "
                                           f"(no worse than {best:,.0f})"))
    return lines


def judge_embedded(entry: dict, reports: list, syncs: list) -> str:
    own, sync = latency(ROW[entry["row"]], reports, "p99_us"), median(syncs, "p99_us")
    at_most = SYNC_TIMES * sync + SYNC_MORE_US
    return mark(own <= at_most, f"{title(entry)}, embedded: p99 {own:,.0f} µs (at most {at_most:,.0f}: "
                                f"{SYNC_TIMES} × the disk's own sync p99 of {sync:,.0f} µs + {SYNC_MORE_US:,})")


def judge_recovery(reports: list) -> str:
    own = median(reports, "gib_per_s")
    direct = [report["direct_read_gib_per_s"] or RECOVERY_GIB_PER_S for report in reports]
    at_least = min(RECOVERY_GIB_PER_S, sorted(direct)[len(direct) // 2])
    return mark(own >= at_least, f"recovery: {own:.2f} GiB/s (at least {at_least:.2f}: {RECOVERY_GIB_PER_S:g} or "
                                 "what the disk reads)")


def render(results: dict) -> str:
    """The table for a terminal."""
    lines = [heading(results)]
    if results["syncs"]:
        lines.append(disk(results))
    for entry in results["rows"]:
        cells = table(entry)
        if not cells:
            continue
        lines += ["", title(entry)]
        widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
        for line in cells:
            rest = "  ".join(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))
            lines.append(f"  {line[0].ljust(widths[0])}  {rest}")
    return "\n".join([*lines, "", "What was to be reached:", *(f"  {line}" for line in verdicts(results))])


def disk(results: dict) -> str:
    p50, p99 = (median(results["syncs"], key) for key in ("p50_us", "p99_us"))
    return f"The disk alone ({results['options']['filesystem']}), 4 KiB written and synced: p50 {p50:,.0f} µs, p99 {p99:,.0f} µs"


def markdown(results: dict, source, plots: list) -> list:
    versions = results["versions"]
    named = ", ".join(f"{name} {versions[name]}" for name in
                      ("centrifuge", "franz-go", "sarama", "librdkafka", "kafka") if versions[name])
    lines = [f"Measured {heading(results)}.", "",
             f"Trine {versions['trine']}, {versions['rustc']}, {versions['go']}, {named}. "
             f"All samples: [{source.name}](results/{source.name}).", ""]
    if results["syncs"]:
        lines += [disk(results) + ".", ""]
    lines += [f"![{plot.stem}](results/{plot.name})" for plot in plots]
    lines += ["", "### What was to be reached", "", *(f"- {line}" for line in verdicts(results))]
    for entry in results["rows"]:
        cells = table(entry)
        if not cells:
            continue
        head, *rest = cells
        lines += ["", f"### {title(entry)}", "", "| " + " | ".join(["peer", *head[1:]]) + " |",
                  "|---" + "|--:" * (len(head) - 1) + "|"]
        lines += ["| " + " | ".join(line) + " |" for line in rest]
    return lines
