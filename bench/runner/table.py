"""Medians, ratios and verdicts, as text and as the generated part of RESULTS.md."""

import statistics

from .peers import BASELINES, GO_SERVERS, PEERS
from .rows import FORMAT_LABEL, IDLE_AIM_BYTES, IDLE_AT_MOST_BYTES, JSON_AT_MOST, ROWS

ROW = {row.name: row for row in ROWS}
LABEL = {peer.name: peer.label for peer in PEERS}
TRINE = ("trine", "trine-halting", "trine-epoll")


def median(reports: list, *path: str) -> float:
    def dig(report):
        for key in path:
            report = report[key]
        return report

    return statistics.median(dig(report) for report in reports)


def cost(reports: list) -> float:
    return median(reports, "server_us_per_unit")


def resident(reports: list) -> float:
    return median(reports, "memory", "server_bytes_a_connection")


def baseline(peers: dict):
    """The centrifuge baseline's cost at its better GOGC."""
    costs = [cost(peers[name]) for name in BASELINES if name in peers]
    return min(costs) if costs else None


def render(results: dict) -> str:
    """The table for a terminal."""
    lines = [heading(results)]
    for entry in results["rows"]:
        lines += ["", title(entry)]
        cells = [header(entry)] + [cells_of(entry, name) for name in entry["peers"]]
        widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
        for line in cells:
            first = line[0].ljust(widths[0])
            rest = "  ".join(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))
            lines.append(f"  {first}  {rest}")
    lines += ["", "What was to be reached:"] + [f"  {line}" for line in verdicts(results)]
    return "\n".join(lines)


def heading(results: dict) -> str:
    machine, options = results["machine"], results["options"]
    mode = ", load tool never sleeps" if options["spin"] else ""
    mode += ", no core halts" if options["awake"] else ""
    return (f"{results['date']}, {machine['cores']} × {machine['cpu']}, Linux {machine['kernel']}; "
            f"{options['rounds']} interleaved rounds of {options['seconds']:g} s, medians{mode}; "
            f"build {options['profile']}")


def title(entry: dict) -> str:
    row = ROW[entry["row"]]
    rate = f" at {entry['rate']:,} units/s" if entry["rate"] else ""
    return f"{row.label}{rate}, {FORMAT_LABEL[entry['format']]} (unit: one {row.unit})"


def header(entry: dict) -> list:
    if entry["row"] == "idle":
        return ["", "RSS/conn", "slab/conn", "RSS at start", "× centrifuge", "L/D/R/M", "errors"]
    columns = ["", "units/s", "µs/unit", "× centrifuge", "× floor", "p50 µs", "p99 µs", "p99.9 µs",
               "tool", "others", "L/D/R/M", "errors"]
    return columns


def cells_of(entry: dict, name: str) -> list:
    peers, reports = entry["peers"], entry["peers"][name]
    faults = "/".join(str(sum(r["faults"][key] for r in reports))
                      for key in ("lost", "duplicated", "reordered", "misrouted"))
    errors = str(sum(r["errors"] for r in reports))
    if entry["row"] == "idle":
        costs = [resident(peers[other]) for other in BASELINES if other in peers]
        ratio = f"{resident(reports) / min(costs):.2f}" if costs else "-"
        return [LABEL[name], f"{resident(reports):,.0f} B",
                f"{median(reports, 'memory', 'slab_bytes_a_connection'):,.0f} B",
                f"{median(reports, 'memory', 'server_before_bytes') / 1e6:,.1f} MB",
                ratio, faults, errors]
    base = baseline(peers)
    floor = cost(peers["floor"]) if "floor" in peers else None
    bound = "≥ " if 2 * sum(r["lower_bound"] for r in reports) > len(reports) else ""
    void = is_void(reports)
    latencies = [f"{median(reports, 'latency', key):,.0f}" for key in ("p50_us", "p99_us", "p999_us")]
    return [LABEL[name], f"{bound}{median(reports, 'units_per_s'):,.0f}", f"{cost(reports):.2f}",
            f"{cost(reports) / base:.2f}" if base else "-",
            f"{cost(reports) / floor:.2f}" if floor else "-",
            *(["void"] * 3 if void else latencies),
            f"{median(reports, 'tool_share'):.0%}", f"{median(reports, 'others_share'):.0%}",
            faults, errors]


def is_void(reports: list) -> bool:
    """Whether most rounds' latencies are the load tool's rather than the server's."""
    return 2 * sum(r["void"] for r in reports) > len(reports)


def verdicts(results: dict) -> list:
    """One line for each figure that Trine is to reach."""
    lines = []
    protobuf = {e["row"]: e["peers"] for e in results["rows"] if e["format"] == "protobuf"}
    for entry in results["rows"]:
        for name in TRINE:
            if name in entry["peers"]:
                lines += judge(entry, name, protobuf.get(entry["row"]))
    everything = [r for e in results["rows"] for n in TRINE for r in e["peers"].get(n, [])]
    if everything:
        faults = sum(sum(r["faults"].values()) for r in everything)
        lines.append(mark(faults == 0, f"Trine: {faults} deliveries lost, duplicated, "
                                       "reordered or misrouted (0)"))
    return lines or ["Trine was not among the peers."]


def judge(entry: dict, name: str, protobuf) -> list:
    row, peers, reports = ROW[entry["row"]], entry["peers"], entry["peers"][name]
    what = f"{LABEL[name]}: {row.label}, {FORMAT_LABEL[entry['format']]}"
    if row.name == "idle":
        value = resident(reports)
        aim = ", aim reached" if value <= IDLE_AIM_BYTES else f", aim {IDLE_AIM_BYTES:,}"
        return [mark(value <= IDLE_AT_MOST_BYTES,
                     f"{what}: {value:,.0f} B a connection (at most {IDLE_AT_MOST_BYTES:,}{aim})")]
    lines = []
    base = baseline(peers)
    if row.at_most and base and entry["format"] == "protobuf":
        ratio = cost(reports) / base
        text = f"{what}: {ratio:.2f} of centrifuge (at most {row.at_most})"
        if "floor" in peers:
            text += f", {cost(reports) / cost(peers['floor']):.2f} × the floor (aim {row.aim})"
        lines.append(mark(ratio <= row.at_most, text))
    if entry["format"] == "json" and protobuf and name in protobuf and not row.saturation:
        ratio = cost(reports) / cost(protobuf[name])
        lines.append(mark(ratio <= JSON_AT_MOST,
                          f"{what}: {ratio:.2f} of Protobuf (at most {JSON_AT_MOST})"))
    if row.saturation:
        lines += judge_latency(what, reports, peers)
    return lines


def judge_latency(what: str, reports: list, peers: dict) -> list:
    if is_void(reports):
        return [f"void  {what}: the load tool was the limit"]
    lines = []
    others = [peers[other] for other in GO_SERVERS if other in peers and not is_void(peers[other])]
    for key, label in (("p99_us", "p99"), ("p999_us", "p99.9")):
        go = [median(reports, "latency", key) for reports in others]
        if go:
            own = median(reports, "latency", key)
            lines.append(mark(own <= min(go), f"{what}: {label} {own:,.0f} µs "
                                              f"(no worse than the best Go server's {min(go):,.0f})"))
    return lines


def mark(passed: bool, text: str) -> str:
    return f"{'pass' if passed else 'FAIL'}  {text}"


def refresh(path, name: str, lines: list) -> None:
    """Replaces what is between the markers of this benchmark."""
    begin, end = f"<!-- {name}: generated -->", f"<!-- {name}: end -->"
    text = path.read_text() if path.exists() else "# Results\n"
    body = "\n".join([begin, "", *lines, "", end])
    if begin in text and end in text:
        head, rest = text.split(begin, 1)
        text = head + body + rest.split(end, 1)[1]
    else:
        text = f"{text.rstrip()}\n\n{body}\n"
    path.write_text(text)


def markdown(results: dict, source, plots: list) -> list:
    versions = results["versions"]
    lines = [f"Measured {heading(results)}.", "",
             f"Trine {versions['trine']}, {versions['rustc']}, {versions['go']}, "
             f"centrifuge {versions['centrifuge']}, gws {versions['gws']}. "
             f"All samples: [{source.name}](results/{source.name}).", ""]
    lines += [f"![{plot.stem}](results/{plot.name})" for plot in plots]
    lines += ["", "### What was to be reached", ""]
    lines += [f"- {line}" for line in verdicts(results)]
    for entry in results["rows"]:
        head = header(entry)
        lines += ["", f"### {title(entry)}", "", "| " + " | ".join(["server", *head[1:]]) + " |",
                  "|---" + "|--:" * (len(head) - 1) + "|"]
        lines += ["| " + " | ".join(cells_of(entry, name)) + " |" for name in entry["peers"]]
    return lines
