#!/usr/bin/env python3
"""Real Kafka brokers on loopback, for tests: KRaft, every node broker and controller at once.

usage: cluster.py FOLDER COMMAND [ARG...]

    start [NODES]      makes 1 or 3 nodes on the given or free ports if need be, starts them; prints the addresses
    stop | wipe        ends all nodes; wipe also removes the folder
    start-node N       starts node N again            stop-node N     ends node N in an orderly way
    kill-node N        kills node N                   pause-node N    stops it (SIGSTOP); resume-node N goes on
    addresses          the bootstrap list             status          pid, port and memory of each node
    admin COMMAND ...  topics, configs, leaders, groups, users: `admin help` lists them; without a command it
                       takes one a line, words between tabs, and ends each answer with "ok" or "error WHY"

FOLDER holds everything of one cluster: cluster.json (ports), and a folder a node with its server.properties, data,
log and pid. A command sends signals only to a pid of that folder whose command line still names the folder.
Commands don't wait until a node serves: the caller polls what it needs.

    --ports P,C,S,V,A;...   five ports a node: plaintext, controller, SASL, via a proxy, the proxy's own (advertised)
    --property KEY=VALUE    a broker property, may be repeated

Beside the plaintext listener a node has one with SASL (PLAIN, SCRAM-SHA-256 and -512; user "trine", password
"secret") and one that tells clients the proxy's port, so that a proxy stays in their way.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
LIBRARY = pathlib.Path(os.environ.get("TRINE_KAFKA_LIBRARY", HERE.parent.parent / ".cache/kafka"))
# Any 16 bytes in base64url; always the same, so that a restart finds its data.
CLUSTER_ID = "VHJpbmVUZXN0S2Fma2EwMQ"
USER, PASSWORD = "trine", "secret"
PORTS = ("plaintext", "controller", "sasl", "via", "advertised")
# An orderly stop of a whole quorum can't finish once its majority is gone; what is left is killed.
STOP_LIMIT_S = 5

# Small and quick: few threads, short sessions, topics of the broker's own with few partitions.
PROPERTIES = {
    "process.roles": "broker,controller",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT,VIA:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    "num.network.threads": 2,
    "num.io.threads": 2,
    "num.replica.fetchers": 1,
    "background.threads": 2,
    "num.recovery.threads.per.data.dir": 1,
    "offsets.topic.num.partitions": 3,
    "transaction.state.log.num.partitions": 3,
    "transaction.state.log.min.isr": 1,
    "share.coordinator.state.topic.num.partitions": 1,
    "share.coordinator.state.topic.min.isr": 1,
    "group.initial.rebalance.delay.ms": 0,
    "group.min.session.timeout.ms": 500,
    "group.consumer.min.session.timeout.ms": 1000,
    "group.consumer.session.timeout.ms": 6000,
    "group.consumer.min.heartbeat.interval.ms": 100,
    "group.consumer.heartbeat.interval.ms": 500,
    "broker.heartbeat.interval.ms": 500,
    "broker.session.timeout.ms": 3000,
    "replica.lag.time.max.ms": 3000,
    "controller.quorum.election.timeout.ms": 500,
    "controller.quorum.fetch.timeout.ms": 1000,
    "unclean.leader.election.enable": "false",
    "log.cleaner.dedupe.buffer.size": 4194304,
    "log.index.size.max.bytes": 1048576,
    "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
    "listener.name.sasl.plain.sasl.jaas.config": "org.apache.kafka.common.security.plain.PlainLoginModule required "
    f'user_{USER}="{PASSWORD}";',
    "listener.name.sasl.scram-sha-256.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
    "listener.name.sasl.scram-sha-512.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
}


class Cluster:
    """The nodes of one folder."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder).resolve()
        description = self.folder / "cluster.json"
        self.nodes = json.loads(description.read_text()) if description.exists() else {}

    def make(self, count, ports, properties):
        """Chooses ports and writes the config of each node; a folder that has some keeps them."""
        if self.nodes:
            return
        ports = ports or free_ports(count)
        if len(ports) != count or any(len(of) != len(PORTS) for of in ports):
            sys.exit(f"{count} node(s) want {len(PORTS)} ports each: {', '.join(PORTS)}")
        self.nodes = {str(number): dict(zip(PORTS, of)) for number, of in enumerate(ports, 1)}
        self.folder.mkdir(parents=True, exist_ok=True)
        for number in self.nodes:
            (self.folder / f"node{number}").mkdir(exist_ok=True)
            lines = [f"{key}={value}" for key, value in self.properties(number, properties).items()]
            self.config(number).write_text("\n".join(lines) + "\n")
        (self.folder / "cluster.json").write_text(json.dumps(self.nodes))

    def properties(self, number, own):
        ports, count = self.nodes[number], len(self.nodes)
        listeners = {name: ports[name.lower()] for name in ("PLAINTEXT", "CONTROLLER", "SASL", "VIA")}
        told = {"PLAINTEXT": ports["plaintext"], "SASL": ports["sasl"], "VIA": ports["advertised"]}
        voters = [f"{other}@127.0.0.1:{of['controller']}" for other, of in self.nodes.items()]
        replicated = {"default.replication.factor": count, "min.insync.replicas": 1 if count < 3 else 2}
        for topic in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic"):
            replicated[f"{topic}.replication.factor"] = count
        return {
            "node.id": number,
            "controller.quorum.voters": ",".join(voters),
            "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in listeners.items()),
            "advertised.listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in told.items()),
            "log.dirs": self.folder / f"node{number}/data",
            **PROPERTIES,
            **replicated,
            **own,
        }

    def config(self, number):
        return self.folder / f"node{number}/server.properties"

    def addresses(self):
        return ",".join(f"127.0.0.1:{ports['plaintext']}" for ports in self.nodes.values())

    def pid(self, number):
        """The node's pid while it is that node's process and runs."""
        try:
            pid = int((self.folder / f"node{number}/pid").read_text())
            named = str(self.config(number)).encode() in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if named else None

    def start_node(self, number):
        if self.pid(number):
            return
        folder = self.folder / f"node{number}"
        if not (folder / "data/meta.properties").exists():
            self.format(number)
        # It stays in the caller's process group, so that whoever ends that ends it too, but
        # survives the terminal's hang-up.
        heap = "512m" if len(self.nodes) == 1 else "384m"
        with open(folder / "log", "ab") as log:
            process = subprocess.Popen(
                java(heap, "kafka.Kafka", self.config(number)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
            )
        (folder / "pid").write_text(str(process.pid))

    def format(self, number):
        shutil.rmtree(self.folder / f"node{number}/data", ignore_errors=True)
        command = java("128m", "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", self.config(number))
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            command += ["--add-scram", f"{mechanism}=[name={USER},password={PASSWORD}]"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"node {number} can't be formatted:\n{done.stdout}{done.stderr}")

    def send(self, number, *signals):
        """Sends signals to a node that runs; its pid."""
        pid = self.pid(number)
        for each in signals if pid else ():
            try:
                os.kill(pid, each)
            except ProcessLookupError:
                break
        return pid

    def stop(self, numbers):
        """Ends nodes, all at once: in an orderly way while there is time, and then surely."""
        pids = [self.send(number, signal.SIGCONT, signal.SIGTERM) for number in numbers]
        if not gone(pids, STOP_LIMIT_S):
            self.kill(numbers)

    def kill(self, numbers):
        pids = [self.send(number, signal.SIGKILL) for number in numbers]
        if not gone(pids, 10):
            sys.exit("a killed node is still there")

    def status(self):
        for number, ports in self.nodes.items():
            pid = self.pid(number)
            memory = pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1] if pid else 0
            mib = int(memory) * os.sysconf("SC_PAGE_SIZE") >> 20
            print(f"node {number} {f'pid {pid}, {mib} MiB' if pid else 'down'}, ports {ports}")


def gone(pids, limit_s):
    """Whether processes end in time, with all they had open."""
    end = time.monotonic() + limit_s
    while any(holds(pid) for pid in pids if pid):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def holds(pid):
    """Whether a process still holds its files: a dead one does until its last thread is gone."""
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
        return state != "Z" or len(os.listdir(f"/proc/{pid}/task")) > 1
    except OSError:
        return False


def java(heap, main, *arguments, log="info"):
    options = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Djava.awt.headless=true"]
    options += [f"-Dorg.slf4j.simpleLogger.defaultLogLevel={log}", "-Dorg.slf4j.simpleLogger.showDateTime=true"]
    options += ["-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS", "-Dlog4j2.disable.jmx=true"]
    memory = [f"-Xmx{heap}", "-Xms64m"]
    return ["java", *memory, *options, "-cp", f"{LIBRARY}/*:{LIBRARY}", main, *map(str, arguments)]


def free_ports(count):
    """Ports that were free a moment ago, different ones."""
    sockets = [[socket.create_server(("127.0.0.1", 0)) for _ in PORTS[:-1]] for _ in range(count)]
    ports = [[each.getsockname()[1] for each in of] for of in sockets]
    for each in sum(sockets, []):
        each.close()
    # Without a proxy a listener tells its own port.
    return [[*of, of[-1]] for of in ports]


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1], add_help=False)
    parser.add_argument("folder")
    parser.add_argument("command")
    parser.add_argument("--ports", default="")
    parser.add_argument("--property", action="append", default=[])
    options, rest = parser.parse_known_args()
    cluster, command = Cluster(options.folder), options.command
    node = rest[:1]
    if command == "start":
        ports = [[int(port) for port in of.split(",")] for of in options.ports.split(";") if of]
        own = dict(pair.split("=", 1) for pair in options.property)
        cluster.make(int(rest[0]) if rest else 1, ports, own)
        for number in cluster.nodes:
            cluster.start_node(number)
        print(cluster.addresses())
    elif command in ("stop", "wipe"):
        (cluster.stop if command == "stop" else cluster.kill)(cluster.nodes)
        if command == "wipe" and cluster.nodes:
            shutil.rmtree(cluster.folder)
    elif command == "addresses":
        print(cluster.addresses())
    elif command == "status":
        cluster.status()
    elif command == "admin":
        admin = java("64m", "TrineAdmin", cluster.addresses(), *rest, log="error")
        os.execvp(admin[0], admin)
    elif not node or node[0] not in cluster.nodes:
        sys.exit(f"{command}: which node? There are: {', '.join(cluster.nodes) or 'none'}")
    elif command == "start-node":
        cluster.start_node(node[0])
    elif command == "stop-node":
        cluster.stop(node)
    elif command == "kill-node":
        cluster.kill(node)
    elif command == "pause-node":
        cluster.send(node[0], signal.SIGSTOP)
    elif command == "resume-node":
        cluster.send(node[0], signal.SIGCONT)
    else:
        sys.exit(f"no command is called {command}\n{__doc__}")


if __name__ == "__main__":
    main()
