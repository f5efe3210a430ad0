"""What the results were measured on and with."""

import os
import platform
import re
import struct
import subprocess
import sys
from contextlib import contextmanager
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


@contextmanager
def awake(wanted: bool):
    """While it lasts no core halts (PM QoS of Linux), as on a host that is tuned for latency: a core
    that halts, a virtual one above all, is late when it is wanted. Raises RuntimeError where that is
    not to be had."""
    if not wanted:
        yield
        return
    try:
        request = open("/dev/cpu_dma_latency", "wb", buffering=0)
    except OSError as error:
        raise RuntimeError(f"--awake: {error}") from error
    with request:
        request.write(struct.pack("i", 0))
        yield


@contextmanager
def core_awake(cpu: int, wanted: bool = True):
    """While it lasts a core does not halt, where the system allows to ask for that: what must be in time
    on it, the load tool above all, is not what a latency tells of. Undoes only what it did itself."""
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/power/pm_qos_resume_latency_us")
    before = read(path).strip()
    held = wanted and before not in ("", "n/a")
    try:
        if held:
            path.write_text("n/a")
    except OSError as error:
        print(f"CPU {cpu} may halt, longer tails for every peer: {error}", file=sys.stderr)
        held = False
    try:
        yield
    finally:
        if held:
            path.write_text(before)


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
