"""The servers that are compared: how to build, start and stop each."""

import os
import random
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from .awake import stays_awake

BENCH = Path(__file__).resolve().parent.parent
ROOT = BENCH.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
GO_TARGET = TARGET / "bench-go"
# Below the kernel's ephemeral ports, so that no client gets in the way.
PORTS = range(20000, 32000)
START_LIMIT_S = 20
STOP_LIMIT_S = 12


@dataclass(frozen=True)
class Peer:
    """One server in one setting."""

    name: str
    label: str
    kind: str  # trine, go or floor
    binary: str
    arguments: tuple = ()
    environment: dict = field(default_factory=dict)
    history: bool = False  # keeps history for channels named "history:…"
    ready: str = ""  # what its output says once it does all that it does
    keeps_awake: bool = False  # its core does not halt while it is busy
    open_only: bool = False  # it differs from another one only where it has time to rest

    def command(self, profile: str) -> list:
        folder = GO_TARGET if self.kind == "go" else TARGET / profile
        return [str(folder / self.binary), *self.arguments]


CONFIG = BENCH / "configs" / "trine.toml"
HALTING_CONFIG = TARGET / "bench-trine-halting.toml"
TRINE = ("run", "-c", str(CONFIG))
TRINE_HALTING = ("run", "-c", str(HALTING_CONFIG))
EPOLL = {"TRINE_DRIVER": "epoll"}
PEERS = [
    Peer("trine", "Trine, io_uring", "trine", "trine", TRINE, history=True, keeps_awake=True),
    Peer("trine-halting", "Trine, may halt", "trine", "trine", TRINE_HALTING, history=True, open_only=True),
    Peer("trine-epoll", "Trine, epoll", "trine", "trine", TRINE, EPOLL, history=True, keeps_awake=True),
    Peer("centrifuge", "centrifuge", "go", "centrifuge", (), {"GOGC": "100"}, True),
    Peer("centrifuge-400", "centrifuge, GOGC=400", "go", "centrifuge", (), {"GOGC": "400"}, True),
    Peer("handmade", "gws by hand", "go", "handmade", (), {"GOGC": "100"}),
    Peer("handmade-400", "gws by hand, GOGC=400", "go", "handmade", (), {"GOGC": "400"}),
    Peer("floor", "floor", "floor", "floor"),
]
BASELINES = ("centrifuge", "centrifuge-400")
GO_SERVERS = (*BASELINES, "handmade", "handmade-400")


def build(peers: list, profile: str) -> None:
    """Builds the load tool and the peers. Raises CalledProcessError."""
    packages = ["-p", "trine-bench"]
    if any(peer.kind == "trine" for peer in peers):
        packages += ["-p", "trine"]
    subprocess.run(["cargo", "build", "--profile", profile, *packages], cwd=ROOT, check=True)
    HALTING_CONFIG.write_text(CONFIG.read_text().replace("[shards]\n", "[shards]\nkeep_awake = false\n"))
    if any(peer.kind == "go" for peer in peers):
        build_go()


def build_go() -> None:
    """Builds all that is written in Go. Raises CalledProcessError."""
    GO_TARGET.mkdir(parents=True, exist_ok=True)
    command = ["go", "build", "-o", f"{GO_TARGET}/", "./..."]
    subprocess.run(command, cwd=BENCH / "baselines" / "go", check=True)


class Metrics:
    """What a Trine's admin listener says of itself."""

    def __init__(self, page: str):
        self.lines = page.splitlines()

    def get(self, name: str, label: str = "") -> float:
        """The sum over a metric's series that have a label's value."""
        return sum(float(line.rsplit(" ", 1)[1]) for line in self.lines
                   if line.startswith((name + " ", name + "{")) and (not label or f'="{label}"' in line))


class Server:
    """A running peer, pinned to one core; a context manager."""

    def __init__(self, peer: Peer, profile: str, cpu: int):
        if stays_awake(cpu):
            raise RuntimeError(f"CPU {cpu} is kept awake by another program")
        self.peer = peer
        self.address = f"127.0.0.1:{free_port()}"
        command = ["taskset", "-c", str(cpu), *peer.command(profile), "--listen", self.address]
        # A journal that the config puts nowhere else is gone with the server.
        self.state = tempfile.TemporaryDirectory(prefix="bench-state-", dir=TARGET)
        self.log = open(TARGET / f"bench-{peer.name}.log", "w")
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "XDG_STATE_HOME": self.state.name, **peer.environment},
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self):
        try:
            self.wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def wait(self) -> None:
        """Waits until it serves. Raises RuntimeError when it does not."""
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            if self.serves():
                return
            time.sleep(0.02)
        raise RuntimeError(f"{self.peer.name} did not start; see {self.log.name}")

    def serves(self) -> bool:
        if self.peer.ready not in Path(self.log.name).read_text(errors="replace"):
            return False
        host, port = self.address.split(":")
        try:
            if self.peer.kind == "trine":
                with urllib.request.urlopen(f"http://{self.address}/healthz", timeout=1) as answer:
                    return answer.status == 200
            socket.create_connection((host, int(port)), timeout=1).close()
            return True
        except OSError:
            return False

    def metrics(self) -> Metrics:
        """Of a Trine; its admin listener is on the next port. Raises RuntimeError when it has none."""
        host, port = self.address.split(":")
        try:
            with urllib.request.urlopen(f"http://{host}:{int(port) + 1}/metrics", timeout=5) as answer:
                return Metrics(answer.read().decode())
        except OSError as error:
            raise RuntimeError(f"{self.peer.name}: no metrics: {error}") from error

    def metric(self, name: str, label: str = "") -> float:
        return self.metrics().get(name, label)

    def until(self, there, limit_s: float = START_LIMIT_S) -> None:
        """Waits for something of a running server. Raises RuntimeError when it does not come."""
        deadline = time.monotonic() + limit_s
        while not there():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.peer.name} does not get there in {limit_s} s; see {self.log.name}")
            time.sleep(0.05)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        self.state.cleanup()


def free_port() -> int:
    """A port that is free, as is the next one (for an admin listener)."""
    while True:
        port = random.choice(PORTS)
        try:
            for number in (port, port + 1):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", number))
            return port
        except OSError:
            continue
