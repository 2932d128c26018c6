"""Debian's nginx with the file of deploy/nginx, on free ports."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detector.runtime.broker import free_port

PROGRAM = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
SNIPPET = Path(__file__).parents[2] / "deploy" / "nginx" / "weirguard.conf"
CLOSED = {"return 204;": "return 403;"}

_MAIN = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/bodies;
    proxy_temp_path {folder}/proxied;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/weirguard.conf;
}}
"""


@contextmanager
def nginx(folder: Path, gate: int, model: int, changes: dict[str, str] | None = None) -> Iterator[str]:
    """nginx between its clients and the model server at port ``model``; gives its address.

    The file is taken as it is, but for the three addresses and ``changes``.
    """
    port = free_port()
    addresses = {"127.0.0.1:9109": f"127.0.0.1:{gate}", "127.0.0.1:8000": f"127.0.0.1:{model}"}
    text = SNIPPET.read_text("utf-8")
    for old, new in {**addresses, "listen 8080": f"listen 127.0.0.1:{port}", **(changes or {})}.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "weirguard.conf").write_text(text, "utf-8")
    (folder / "nginx.conf").write_text(_MAIN.format(folder=folder), "utf-8")
    assert PROGRAM is not None
    command = [PROGRAM, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "start.log")]
    process = subprocess.Popen(command)
    try:
        _wait_until_open(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def _wait_until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, "nginx does not listen"
            time.sleep(0.02)
