"""Draws results as SVG: bars of CPU and memory, and latencies on a log scale."""

import math
from html import escape

from .peers import PEERS
from .rows import FORMAT_LABEL
from .table import ROW, baseline, cost, median, resident

WIDTH = 860
LEFT = 250
RIGHT = 90
BAR = 14
GAP = 18
COLOURS = {
    "trine": "#1f6f8b",
    "trine-halting": "#14465a",
    "trine-epoll": "#6fb1c7",
    "centrifuge": "#c8553d",
    "centrifuge-400": "#e39a86",
    "handmade": "#d9a441",
    "handmade-400": "#ecd199",
    "floor": "#7a7a7a",
    "trine-kafka": "#1f6f8b",
    "trine-embedded": "#6fb1c7",
    "go-gateway": "#c8553d",
    "go-gateway-400": "#e39a86",
    "franz-go": "#c8553d",
    "librdkafka": "#d9a441",
    "sarama": "#7a7a7a",
}
KEYS = ("p50_us", "p99_us", "p999_us")


def draw(results: dict, folder, name: str) -> list:
    """Writes the plots that the results have rows for; gives their paths."""
    return write({"cpu": cpu(results), "latency": latency(results), "memory": memory(results)}, folder, name)


def write(drawings: dict, folder, name: str) -> list:
    """Writes those that are there; gives their paths."""
    paths = []
    for kind, svg in drawings.items():
        if svg:
            path = folder / f"{name}-{kind}.svg"
            path.write_text(svg)
            paths.append(path)
    return paths


def cpu(results: dict):
    """Server CPU a unit, relative to centrifuge at its better GOGC."""
    groups = []
    for entry in results["rows"]:
        base = baseline(entry["peers"])
        if entry["row"] == "idle" or ROW[entry["row"]].saturation or not base:
            continue
        bars = [(name, cost(reports) / base, f"{cost(reports):.2f} µs")
                for name, reports in entry["peers"].items()]
        row = ROW[entry["row"]]
        groups.append((row.label, f"{FORMAT_LABEL[entry['format']]}, a {row.unit}", bars))
    title = "Server CPU a unit; 1 is centrifuge at its better GOGC, less is better"
    return bar_chart(title, groups)


def memory(results: dict):
    """Resident memory of an idle, subscribed connection."""
    groups = []
    for entry in results["rows"]:
        if entry["row"] == "idle":
            bars = [(name, resident(reports) / 1000, f"{resident(reports) / 1000:.1f} kB")
                    for name, reports in entry["peers"].items()]
            groups.append((ROW["idle"].label, FORMAT_LABEL[entry["format"]], bars))
    return bar_chart("Resident memory a connection in kB, less is better", groups)


def bar_chart(title: str, groups: list, peers: list = PEERS):
    """Groups are label, note and bars; a bar is its peer's name, its length and what it says."""
    if not groups:
        return None
    longest = max(value for _, _, bars in groups for _, value, _ in bars)
    scale = (WIDTH - LEFT - RIGHT) / longest
    parts, y = [], 70
    for label, note, bars in groups:
        middle = y + len(bars) * BAR / 2
        parts.append(text(LEFT - 12, middle - 2, label, "end"))
        parts.append(text(LEFT - 12, middle + 13, note, "end", "note"))
        for name, value, said in bars:
            width = max(value * scale, 1)
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 2}" '
                         f'fill="{COLOURS[name]}"/>')
            parts.append(text(LEFT + width + 5, y + BAR - 4, said, "start", "note"))
            y += BAR
        y += GAP
    shown = [peer for peer in peers
             if any(peer.name == name for _, _, bars in groups for name, _, _ in bars)]
    return page(title, shown, parts, y)


def latency(results: dict):
    """p50, p99 and p99.9 of each open loop, on one log scale."""
    groups = [(ROW[entry["row"]].label, f"{FORMAT_LABEL[entry['format']]}, {entry['rate']:,} units/s",
               [(name, [median(reports, "latency", key) for key in KEYS]) for name, reports in entry["peers"].items()])
              for entry in results["rows"] if ROW[entry["row"]].saturation]
    return dot_chart("Latency at one rate for all: p50, p99, p99.9 from small to large dot, less is better", groups)


def dot_chart(title: str, groups: list, peers: list = PEERS):
    """Groups are label, note and lines; a line is its peer's name and three latencies in µs."""
    values = [max(value, 1) for _, _, lines in groups for _, three in lines for value in three]
    if not values:
        return None
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    scale = (WIDTH - LEFT - RIGHT) / (high - low)

    def at(value: float) -> float:
        return LEFT + (math.log10(max(value, 1)) - low) * scale

    parts, y = [], 90
    for label, note, lines in groups:
        middle = y + len(lines) * BAR / 2
        parts.append(text(LEFT - 12, middle - 2, label, "end"))
        parts.append(text(LEFT - 12, middle + 13, note, "end", "note"))
        for name, three in lines:
            p50, p99, p999 = map(at, three)
            line = y + BAR / 2
            parts.append(f'<line x1="{p50:.1f}" y1="{line}" x2="{p999:.1f}" y2="{line}" '
                         f'stroke="{COLOURS[name]}" stroke-width="2"/>')
            for x, radius in ((p50, 3), (p99, 4), (p999, 5)):
                parts.append(f'<circle cx="{x:.1f}" cy="{line}" r="{radius}" '
                             f'fill="{COLOURS[name]}"/>')
            y += BAR
        y += GAP
    for power in range(low, high + 1):
        x = at(10**power)
        parts.insert(0, f'<line x1="{x:.1f}" y1="78" x2="{x:.1f}" y2="{y - GAP + 4}" class="grid"/>')
        parts.append(text(x, 72, duration(10**power), "middle", "note"))
    shown = [peer for peer in peers if any(peer.name == name for _, _, lines in groups for name, _ in lines)]
    return page(title, shown, parts, y)


def duration(microseconds: float) -> str:
    if microseconds >= 1e6:
        return f"{microseconds / 1e6:g} s"
    if microseconds >= 1e3:
        return f"{microseconds / 1e3:g} ms"
    return f"{microseconds:g} µs"


def text(x: float, y: float, content: str, anchor: str, style: str = "label") -> str:
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{style}">'
            f"{escape(content)}</text>")


def page(title: str, shown: list, parts: list, height: float) -> str:
    legend, x = [], 16
    for peer in shown:
        legend.append(f'<rect x="{x}" y="36" width="11" height="11" fill="{COLOURS[peer.name]}"/>')
        legend.append(text(x + 15, 46, peer.label, "start", "note"))
        x += 30 + 6.2 * len(peer.label)
    body = "\n".join([text(16, 24, title, "start", "title"), *legend, *parts])
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}">
<style>
text {{ font-family: system-ui, sans-serif; fill: #222; }}
.title {{ font-size: 14px; font-weight: 600; }}
.label {{ font-size: 12px; }}
.note {{ font-size: 10.5px; fill: #555; }}
.grid {{ stroke: #ddd; }}
</style>
<rect width="100%" height="100%" fill="#fff"/>
{body}
</svg>
"""
