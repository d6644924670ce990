"""A real Apache Kafka on loopback, without containers: jars from Maven, one node, free ports, stopped by its pid."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

POM = Path(__file__).with_name("pom.xml")
CACHE = Path(__file__).parents[2] / "build" / "kafka"
JAVA_VERSION_MIN = 17
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
USER = "skinflint"
PASSWORD = "correct-horse"  # of a broker that lives for one test, on loopback


class BrokerError(Exception):
    """The broker cannot be had, and why."""


class Broker:
    """One Kafka node in a folder of its own. `start`, `kill` and `start` again keep ports and logs."""

    def __init__(
        self,
        folder: Path | None = None,
        port: int = 0,
        sasl: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.libs = _libs(CACHE)
        self._own_folder = folder is None
        self.folder = (folder or Path(tempfile.mkdtemp(prefix="skinflint-kafka-"))).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port, self._controller_port = _free_ports(port)
        self.sasl = sasl
        self._settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """host:port for clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """What the broker printed."""
        return self.folder / "broker.log"

    def start(self) -> Broker:
        """Format the storage if it is new, start, and return once clients are served."""
        properties = self.folder / "server.properties"
        properties.write_text("".join(f"{key}={value}\n" for key, value in self._properties().items()))
        if not (self.folder / "data" / "meta.properties").exists():
            self._format(properties)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._java(), "kafka.Kafka", str(properties)], cwd=self.folder, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._wait_until_served()
        return self

    def stop(self) -> None:
        """End the broker in order, and remove the folder if it was made here."""
        self._end(signal.SIGTERM)
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self) -> None:
        """End the broker at once, as a power cut would; `start` brings it back on the same ports."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop the broker's clock: connections stay open and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen broker go on."""
        self._signal(signal.SIGCONT)

    def wait(self) -> int:
        """Return the exit status once the broker has ended."""
        assert self._process is not None
        return self._process.wait()

    def run_tool(self, main_class: str, *arguments: str) -> str:
        """Run one of Kafka's command line tools and return what it printed."""
        done = subprocess.run(
            [*self._java(heap="128m"), main_class, *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise BrokerError(f"{main_class}: {done.stdout}{done.stderr}")
        return done.stdout

    def _properties(self) -> dict[str, str]:
        scheme = "SASL_PLAINTEXT" if self.sasl else "PLAINTEXT"
        properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller_port}",
            "listeners": f"CLIENTS://{self.address},CONTROLLER://127.0.0.1:{self._controller_port}",
            "advertised.listeners": f"CLIENTS://{self.address}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "CLIENTS",
            "listener.security.protocol.map": f"CONTROLLER:PLAINTEXT,CLIENTS:{scheme}",
            "log.dirs": str(self.folder / "data"),
            "num.partitions": "4",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "group.initial.rebalance.delay.ms": "0",
            "message.max.bytes": "8388608",
            # A broker that was killed may register again only when its former self has expired.
            "broker.session.timeout.ms": "2000",
            "broker.heartbeat.interval.ms": "500",
            # Telemetry in tests lies months back: nothing is deleted for its age.
            "log.retention.ms": "-1",
        }
        if self.sasl:
            login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
            properties |= {
                "sasl.enabled.mechanisms": "PLAIN",
                "sasl.mechanism.inter.broker.protocol": "PLAIN",
                "listener.name.clients.plain.sasl.jaas.config":
                    f'{login} username="{USER}" password="{PASSWORD}" user_{USER}="{PASSWORD}";',
            }  # fmt: skip
        return properties | self._settings

    def _java(self, heap: str = "512m") -> list[str]:
        log_level = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        return ["java", f"-Xms{heap}", f"-Xmx{heap}", log_level, "-cp", f"{self.libs}/*"]

    def _format(self, properties: Path) -> None:
        uuid = self.run_tool("kafka.tools.StorageTool", "random-uuid").split()[-1]
        self.run_tool("kafka.tools.StorageTool", "format", "-t", uuid, "-c", str(properties))

    def _wait_until_served(self) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not _answers(self.port):
            if self._process is None or self._process.poll() is not None:
                raise BrokerError(f"the broker ended while it started:\n{self._last_words()}")
            if time.monotonic() > deadline_s:
                self.kill()
                raise BrokerError(f"no broker on {self.address} in {START_TIMEOUT_S:.0f} s:\n{self._last_words()}")
            time.sleep(0.05)

    def _last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self.thaw()
        self._signal(number)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def _libs(cache: Path) -> Path:
    """Return the folder with the jars, fetching them once for all test runs."""
    _require_java()
    libs = cache / "libs"
    stamp = cache / "pom.xml"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_bytes() == POM.read_bytes():
            return libs
        if shutil.which("mvn") is None:
            raise BrokerError("Maven is missing: apt-get install maven")
        shutil.rmtree(libs, ignore_errors=True)
        done = subprocess.run(
            ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={libs}"],
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise BrokerError(f"Maven could not fetch Kafka's jars:\n{done.stdout}{done.stderr}")
        shutil.copyfile(POM, stamp)
    return libs


def _require_java() -> None:
    advice = f"Java {JAVA_VERSION_MIN} or newer: apt-get install default-jre-headless"
    if shutil.which("java") is None:
        raise BrokerError(f"Java is missing: expected {advice}")
    printed = subprocess.run(["java", "-version"], capture_output=True, text=True).stderr
    version = re.search(r'version "(\d+)', printed)
    if version is None or int(version[1]) < JAVA_VERSION_MIN:
        raise BrokerError(f"{printed.strip()}: expected {advice}")


def _free_ports(wanted: int) -> tuple[int, int]:
    """Return the wanted port, or a free one for 0, and a free one beside it."""
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            first.bind(("127.0.0.1", wanted))
        except OSError as error:
            raise BrokerError(f"port {wanted} on 127.0.0.1: {error.strerror}") from error
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def _answers(port: int) -> bool:
    """Tell whether a broker serves clients: it opens the port before it is ready, but answers no request until then."""
    request = b"\x00\x12\x00\x00\x00\x00\x00\x01\x00\x05probe"  # ApiVersions v0
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(len(request).to_bytes(4, "big") + request)
            return len(connection.recv(4)) == 4
    except OSError:
        return False
