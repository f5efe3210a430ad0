"""Cores that do not halt: one that does, a virtual one above all, is late when it is wanted."""

import struct
import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path

NO_DELAY = "n/a"


def resume_latency(cpu: int) -> Path:
    """Where Linux is asked how late a core may be (PM QoS); it is not there on every system."""
    return Path(f"/sys/devices/system/cpu/cpu{cpu}/power/pm_qos_resume_latency_us")


def stays_awake(cpu: int) -> bool:
    """Whether a core was told not to halt."""
    path = resume_latency(cpu)
    return path.exists() and path.read_text().strip() == NO_DELAY


@contextmanager
def core_awake(cpu: int, wanted: bool):
    """While it lasts a core does not halt, unless it was told so before. Where the system does not take
    that, it says so once."""
    path = resume_latency(cpu)
    before = None
    if wanted and not stays_awake(cpu):
        try:
            before = path.read_text()
            path.write_text(NO_DELAY)
        except OSError as error:
            before = None
            say_once(f"CPU {cpu} may halt, which lengthens tails: {error}")
    try:
        yield
    finally:
        if before is not None:
            path.write_text(before)


@cache
def say_once(text: str) -> None:
    print(text, file=sys.stderr)


@contextmanager
def all_awake(wanted: bool):
    """While it lasts no core halts, as on a host that is tuned for latency. Raises RuntimeError where
    that is not to be had."""
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
