"""What the results were measured on and with."""

import os
import platform
import re
import subprocess
from pathlib import Path

from .broker import LIBRARY
from .peers import BENCH, ROOT


def describe() -> dict:
    cpu = re.search(r"model name\s*:\s*(.*)", read("/proc/cpuinfo"))
    memory = re.search(r"MemTotal:\s*(\d+)", read("/proc/meminfo"))
    return {
        "cpu": cpu.group(1).strip() if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory.group(1)) / 2**20, 1) if memory else None,
        "kernel": platform.release(),
        "virtual": "hypervisor" in read("/proc/cpuinfo"),
    }


def versions() -> dict:
    modules = read(BENCH / "baselines" / "go" / "go.mod")
    module = {name: version for name, version in re.findall(r"(\S+/\S+) (v\S+)", modules)}
    return {
        "trine": output("git", "describe", "--always", "--dirty"),
        "rustc": output("rustc", "--version"),
        "go": output("go", "version"),
        "centrifuge": module.get("github.com/centrifugal/centrifuge"),
        "gws": module.get("github.com/lxzan/gws"),
        "franz-go": module.get("github.com/twmb/franz-go"),
        "sarama": module.get("github.com/IBM/sarama"),
        "librdkafka": output("pkg-config", "--modversion", "rdkafka"),
        "kafka": kafka(),
    }


def kafka() -> str:
    """The broker's version, by the name of its server's archive."""
    archives = [path.stem for path in LIBRARY.glob("kafka-server-[0-9]*.jar")]
    return archives[0].removeprefix("kafka-server-") if archives else ""


def read(path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def output(*command: str) -> str:
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
