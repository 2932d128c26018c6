"""``weirguard demo``, ``traffic`` and ``serve-demo``: what their options become, and their exit status."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
import uvicorn

from detector.cli.main import main
from detector.lab.demo import run
from detector.lab.demo.report import Outcome
from detector.lab.demo.script import DemoOptions
from detector.lab.query_log import THIEF
from detector.lab.server import PREDICT, TUMOURS
from detector.serving.asgi import WeirguardMiddleware
from tests.lab.test_demo_outcome import AS_PROMISED


def _exit_status(*arguments: str) -> Any:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


class Stand:
    """Stands in for the demo's run: keeps its options and returns ``outcome``."""

    def __init__(self) -> None:
        self.options: list[DemoOptions] = []
        self.outcome = AS_PROMISED

    def __call__(self, options: DemoOptions, *_: object) -> Outcome:
        self.options.append(options)
        return self.outcome


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    before = signal.getsignal(signal.SIGTERM)
    made = Stand()
    monkeypatch.setattr(run, "run_demo", made)
    yield made
    signal.signal(signal.SIGTERM, before)


def test_the_demo_runs_as_its_options_say(stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_status("demo") == 0
    assert _exit_status("demo", "--observe", "--seconds", "70", "--seed", "3") == 0
    assert stand.options == [DemoOptions(), DemoOptions(observe=True, seconds=70.0, seed=3)]
    assert "As promised" in capsys.readouterr().out


def test_a_demo_that_broke_its_promise_has_status_1(stand: Stand) -> None:
    stand.outcome = replace(AS_PROMISED, failed=AS_PROMISED.queries)
    assert _exit_status("demo") == 1


@pytest.mark.parametrize("wrong", [("--seconds", "29"), ("--seconds", "101"), ("--seed", "-1"), ("--thief",)])
def test_the_demo_refuses_options_that_it_cannot_keep(stand: Stand, wrong: tuple[str, ...]) -> None:
    assert _exit_status("demo", *wrong) == 2
    assert stand.options == []


class _Model(BaseHTTPRequestHandler):
    """Answers honest accounts with one probability vector per row, and refuses the thief."""

    protocol_version = "HTTP/1.1"
    status = 200

    def do_POST(self) -> None:
        rows = json.loads(self.rfile.read(int(self.headers["content-length"])))["instances"]
        status = 429 if self.headers["x-account"] == THIEF else self.status
        body = json.dumps({"predictions": [[0.1] * 10] * len(rows)}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def _served(status: int) -> Iterator[str]:
    handler = type("Handler", (_Model,), {"status": status})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}{PREDICT}"
        finally:
            server.shutdown()
            thread.join()


def test_traffic_comes_from_as_many_accounts_as_asked_and_a_refusal_is_an_answer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with _served(200) as url:
        assert _exit_status("traffic", "--target", url, "--accounts", "2", "--seconds", "1", "--thief") == 0
    captured = capsys.readouterr().out
    assert [name for name in ("steady-1", "bursts-1", "retries-1", THIEF) if name in captured] == [
        "steady-1",
        "bursts-1",
        THIEF,
    ]


def test_traffic_that_got_no_proper_answer_has_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    with _served(500) as url:
        assert _exit_status("traffic", "--target", url, "--accounts", "1", "--seconds", "1") == 1
    captured = capsys.readouterr().out
    assert "HTTP 500" in captured
    assert THIEF not in captured


@pytest.mark.parametrize("wrong", [(), ("--target", "x", "--accounts", "0"), ("--target", "x", "--accounts", "501")])
def test_traffic_without_a_target_or_with_impossible_accounts_is_refused(wrong: tuple[str, ...]) -> None:
    assert _exit_status("traffic", *wrong) == 2


def test_serve_demo_serves_the_guarded_model_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: served.append((app, options)))
    monkeypatch.setenv("WEIRGUARD_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:9")
    assert _exit_status("serve-demo", "--host", "0.0.0.0", "--port", "8123") == 0
    ((app, options),) = served
    assert (options["host"], options["port"]) == ("0.0.0.0", 8123)
    assert isinstance(app, WeirguardMiddleware)
    assert len(_told(app, PREDICT, 64)["predictions"][0]) == 10
    tree = _told(app, TUMOURS + PREDICT, 30)
    assert len(tree["predictions"][0]) == 2
    assert len(tree["leaf"]) == 1


def _told(app: WeirguardMiddleware, path: str, features: int) -> Any:
    async def ask() -> Any:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as http:
            answer = await http.post(path, json={"instances": [[0.0] * features]})
            return answer.json()

    return asyncio.run(ask())


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_serve_demo_refuses_what_is_no_port(port: str) -> None:
    assert _exit_status("serve-demo", "--port", port) == 2


def test_serve_demo_names_a_wrong_setting(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WEIRGUARD_KAFKA__BOOTSTRAP_SERVERS", "localhost")
    assert _exit_status("serve-demo") == 2
    assert "kafka.bootstrap_servers" in capsys.readouterr().err
