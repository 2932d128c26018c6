"""One real Apache Kafka node (KRaft, loopback only) as a child process. Needs Java 17 and, the first time, Maven."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from detector.runtime.broker import answers_metadata, dying_with_parent, free_port

HOST = "127.0.0.1"
STEADY = "STEADY"
"""A plain-text listener that stays where it is when the node moves."""
_HERE = Path(__file__).parent

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller}
controller.listener.names=CONTROLLER
listeners={listeners},CONTROLLER://{host}:{controller}
advertised.listeners={listeners}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL,STEADY:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
{extra}
"""


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "weirguard-kafka"


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} is not on the PATH: the Apache Kafka suite needs Java 17 and Maven")
    return found


def jars() -> Path:
    """The folder of Kafka's jars, in the user's cache; fetched by Maven the first time (46 MB)."""
    version = uuid.uuid5(uuid.NAMESPACE_OID, (_HERE / "pom.xml").read_text()).hex[:12]
    target = _cache() / f"jars-{version}"
    if not target.exists():
        _fetch(target)
    return target


def _fetch(target: Path) -> None:
    fresh = target.with_name(f"{target.name}.{os.getpid()}")
    command = [_tool("mvn"), "-q", "-B", "-f", str(_HERE / "pom.xml"), "dependency:copy-dependencies"]
    subprocess.run([*command, f"-DoutputDirectory={fresh}", "-DincludeScope=runtime"], check=True)
    try:
        fresh.rename(target)
    except OSError:  # another run was faster
        shutil.rmtree(fresh)


def _cluster_id() -> str:
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


class KafkaNode:
    """Apache Kafka on a free loopback port; its data in ``directory`` outlive stop, kill and restart.

    ``extra``: further lines of server.properties. ``secured``: security protocols that each get a listener of that
    name, on the port in ``ports``; plain text is always there. The process dies with the thread that started it.
    Topics are not created by themselves, the first rebalance of a group does not wait, and a killed broker may return
    after 3 s.
    """

    def __init__(self, directory: Path, port: int | None = None, extra: str = "", secured: Sequence[str] = ()) -> None:
        self.directory = directory
        self.port = port or free_port()
        self.ports = {"PLAINTEXT": self.port} | {protocol: free_port() for protocol in secured}
        self.controller = free_port()
        self._extra = extra
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def log(self) -> Path:
        return self.directory / "kafka.log"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self, timeout_seconds: float = 60.0) -> None:
        """Start on this directory and return once a Metadata request is answered."""
        assert self._process is None, "the node already runs"
        self._configure()
        command = dying_with_parent(self._java("kafka.Kafka", str(self.directory / "server.properties")))
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        deadline = time.monotonic() + timeout_seconds
        while not answers_metadata(HOST, self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"Apache Kafka did not start; its log:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.1)

    def stop(self, timeout_seconds: float = 60.0) -> None:
        """A clean stop (SIGTERM)."""
        self._end(signal.SIGTERM, timeout_seconds)

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL, 60.0)

    def restart(self, down_seconds: float = 0.0, *, kill: bool = False) -> None:
        """Stops (or kills) it, waits ``down_seconds``, and starts it on the same directory and port."""
        self.kill() if kill else self.stop()
        time.sleep(down_seconds)
        self.start()

    def move(self) -> None:
        """Have the next start listen on another port than ``port`` has been."""
        assert self._process is None, "the node runs"
        self.port = self.ports["PLAINTEXT"] = free_port()

    def _end(self, how: signal.Signals, timeout_seconds: float) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout_seconds)
            self._process = None

    def _configure(self) -> None:
        data = self.directory / "data"
        self.directory.mkdir(parents=True, exist_ok=True)
        properties = self.directory / "server.properties"
        listeners = ",".join(f"{protocol}://{HOST}:{port}" for protocol, port in self.ports.items())
        values = {"host": HOST, "listeners": listeners, "controller": self.controller, "data": data}
        properties.write_text(_PROPERTIES.format(**values, extra=self._extra))
        if not (data / "meta.properties").exists():
            arguments = ["format", "-t", _cluster_id(), "-c", str(properties)]
            subprocess.run(self._java("kafka.tools.StorageTool", *arguments), check=True, capture_output=True)

    def _java(self, main: str, *arguments: str) -> list[str]:
        options = [
            "-Xms128m",
            "-Xmx512m",
            "-XX:+UseSerialGC",
            f"-Dlog4j2.configurationFile={_HERE / 'log4j2.properties'}",
        ]
        return [_tool("java"), *options, "-cp", f"{jars()}/*", main, *arguments]
