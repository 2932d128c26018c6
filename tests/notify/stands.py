"""Receivers, each a real process that can be killed and started again on its port."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from detector.runtime.broker import dying_with_parent, free_port

ALERTMANAGER = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
"""Debian's package prometheus-alertmanager; without it a process that checks what Alertmanager would check."""


@dataclass
class Stand:
    """One receiver. ``settings``: its entry in notify.receivers."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def settings(self) -> dict[str, Any]:
        raise NotImplementedError

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        """Returns once something listens."""
        self.process = subprocess.Popen(dying_with_parent(self.command()), cwd=self.folder, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while not _listens(self.port):
            assert self.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)

    def kill(self) -> None:
        """As kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def received(self) -> list[str]:
        """The ids of the notifications that it has, each as often as it came."""
        raise NotImplementedError

    def entries(self) -> list[dict[str, Any]]:
        """What a listener has kept."""
        path = self.folder / "kept.jsonl"
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []

    def _listener(self, *arguments: object) -> list[str]:
        kind, *rest = map(str, arguments)
        kept = str(self.folder / "kept.jsonl")
        module = Path(__file__).with_name("listener.py")
        return [sys.executable, str(module), kind, str(self.port), kept, *rest]


def self_signed(folder: Path) -> Path:
    """A certificate for 127.0.0.1 and its key, in one file."""
    both = folder / "both.pem"
    if not both.exists():
        name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1"]
        request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *name, "-keyout", str(both)]
        done = subprocess.run([*request, "-out", "-"], check=True, capture_output=True, text=True)
        both.write_text(both.read_text("utf-8") + done.stdout, "utf-8")
    return both


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class WebhookStand(Stand):
    @property
    def settings(self) -> dict[str, Any]:
        return {"webhook": {"url": f"http://127.0.0.1:{self.port}/hooks/SECRET"}}

    def command(self) -> list[str]:
        return self._listener("http")

    def received(self) -> list[str]:
        return [json.loads(entry["body"])["id"] for entry in self.entries()]


class AlertmanagerStand(Stand):
    @property
    def settings(self) -> dict[str, Any]:
        return {"alertmanager": {"url": f"http://user:SECRET@127.0.0.1:{self.port}"}}

    def command(self) -> list[str]:
        if ALERTMANAGER is None:
            return self._listener("alertmanager")
        config = self.folder / "alertmanager.yml"
        config.write_text("route: {receiver: none}\nreceivers: [{name: none}]\n", "utf-8")
        address = f"--web.listen-address=127.0.0.1:{self.port}"
        quiet = ["--cluster.listen-address=", "--log.level=error"]
        return [ALERTMANAGER, f"--config.file={config}", f"--storage.path={self.folder}", address, *quiet]

    def alerts(self) -> list[dict[str, Any]]:
        """The alerts that it has now."""
        if ALERTMANAGER is None:
            return [alert for entry in self.entries() for alert in json.loads(entry["body"])]
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v2/alerts", timeout=5) as answer:
            found: list[dict[str, Any]] = json.load(answer)
            return found

    def received(self) -> list[str]:
        return [alert["labels"]["alert_id"] for alert in self.alerts()]


class SyslogStand(Stand):
    @property
    def settings(self) -> dict[str, Any]:
        return {"syslog": {"host": "127.0.0.1", "port": self.port}}

    def command(self) -> list[str]:
        return self._listener("tcp")

    def received(self) -> list[str]:
        return [re.findall(r' id="([^"]*)"', entry["message"])[0] for entry in self.entries()]


class TlsSyslogStand(SyslogStand):
    @property
    def settings(self) -> dict[str, Any]:
        trusted = str(self.folder / "both.pem")
        return {"syslog": {"host": "127.0.0.1", "port": self.port, "transport": "tls", "ssl_cafile": trusted}}

    def command(self) -> list[str]:
        both = self_signed(self.folder)
        return self._listener("tls", both)


RSYSLOG = shutil.which("rsyslogd") or shutil.which("rsyslogd", path="/usr/sbin")
"""Debian's package rsyslog."""


class RsyslogStand(SyslogStand):
    """rsyslog, which writes what it gets as it came, and syncs it."""

    def command(self) -> list[str]:
        assert RSYSLOG
        config = self.folder / "rsyslog.conf"
        lines = [
            'module(load="imtcp" KeepAlive="on")',
            f'input(type="imtcp" port="{self.port}" address="127.0.0.1")',
            'template(name="raw" type="string" string="%rawmsg%\\n")',
            f'action(type="omfile" file="{self.folder}/messages" template="raw")',
        ]
        config.write_text("\n".join(lines) + "\n", "utf-8")
        return [RSYSLOG, "-n", "-f", str(config), "-i", str(self.folder / "pid")]

    def entries(self) -> list[dict[str, Any]]:
        """Waits a moment: rsyslog writes after it has closed the connection."""
        time.sleep(0.2)
        path = self.folder / "messages"
        return [{"message": line} for line in path.read_text("utf-8").splitlines()] if path.exists() else []


class LinesStand(Stand):
    """A file; it is unavailable while its folder is missing."""

    def start(self) -> None:
        self._path.parent.mkdir(exist_ok=True)

    def kill(self) -> None:
        if self._path.parent.exists():
            self._path.parent.rename(self._path.parent.with_name(f"gone-{time.monotonic_ns()}"))

    @property
    def _path(self) -> Path:
        return self.folder / "lake" / "findings.jsonl"

    @property
    def settings(self) -> dict[str, Any]:
        return {"ocsf": {"path": str(self._path)}}

    def findings(self) -> list[dict[str, Any]]:
        """All findings, those in folders that are gone first."""
        files = [*sorted(self.folder.glob("gone-*/findings.jsonl")), *self.folder.glob("lake/findings.jsonl")]
        return [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]

    def received(self) -> list[str]:
        return [found["finding_info"]["uid"] for found in self.findings()]


STANDS: dict[str, type[Stand]] = {
    "webhook": WebhookStand,
    "alertmanager": AlertmanagerStand,
    "syslog over TCP": SyslogStand,
    "syslog over TLS": TlsSyslogStand,
    "ocsf": LinesStand,
    **({"rsyslog over TCP": RsyslogStand} if RSYSLOG else {}),
}
