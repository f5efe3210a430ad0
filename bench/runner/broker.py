"""One real Kafka broker on loopback, pinned nowhere, in a folder of its own."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from .peers import ROOT

CLUSTER = ROOT / "tests" / "services" / "kafka" / "cluster.py"
LIBRARY = Path(os.environ.get("TRINE_KAFKA_LIBRARY", ROOT / "tests" / ".cache" / "kafka"))
START_LIMIT_S = 90
TOPIC_LIMIT_S = 20
PARTITIONS = 16


def require_kafka() -> None:
    """Raises RuntimeError when there is no broker to run."""
    if not list(LIBRARY.glob("*.jar")):
        raise RuntimeError(f"there is no Kafka in {LIBRARY}: `tests/run install` brings it")


class Broker:
    """A running broker; a context manager."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.command = [sys.executable, str(CLUSTER), str(folder)]
        self.environment = {**os.environ, "TRINE_KAFKA_LIBRARY": str(LIBRARY)}
        self.admin = None

    def __enter__(self):
        try:
            self.address = self.cluster("start", "1").strip()
            self.wait()
            self.pid = int((self.folder / "node1" / "pid").read_text())
            self.admin = subprocess.Popen(
                [*self.command, "admin"], env=self.environment, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self) -> None:
        if self.admin:
            self.admin.stdin.close()
            self.admin.wait()
        self.cluster("wipe")

    def cluster(self, *words: str) -> str:
        done = subprocess.run([*self.command, *words], env=self.environment, text=True,
                              capture_output=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def wait(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        log = self.folder / "node1" / "log"
        while "Kafka Server started" not in log.read_text(errors="replace"):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the broker does not start; see {log}")
            time.sleep(0.1)

    @contextmanager
    def away(self):
        """It hangs, with its connections open."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def ask(self, *words: str) -> list:
        """The lines of an answer. Raises RuntimeError with the broker's error."""
        self.admin.stdin.write("\t".join(words) + "\n")
        self.admin.stdin.flush()
        lines = []
        for line in self.admin.stdout:
            line = line.rstrip("\n")
            if line == "ok":
                return lines
            if line.startswith("error "):
                raise RuntimeError(f"{' '.join(words)}: {line[6:]}")
            lines.append(line)
        raise RuntimeError("the admin client has ended")

    def create(self, topic: str) -> None:
        """Makes a topic and waits until it can be written to: clients that
        find none wait for seconds."""
        self.ask("create", topic, str(PARTITIONS), "1", "file.delete.delay.ms=1000")
        deadline = time.monotonic() + TOPIC_LIMIT_S
        while True:
            try:
                lines = self.ask("describe", topic)
            except RuntimeError:
                lines = []
            if len(lines) == PARTITIONS and all(" end 0" in line for line in lines):
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"topic {topic} is not there; the broker says {lines}")
            time.sleep(0.05)

    def delete(self, topic: str) -> None:
        self.ask("delete", topic)

    def records(self, topic: str) -> int:
        """What the log of a fresh topic holds."""
        return sum(int(line.rsplit(" end ", 1)[1]) for line in self.ask("describe", topic))

    def cpu_s(self) -> float:
        """CPU time of the broker so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
