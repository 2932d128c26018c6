"""``weirguard redteam``: over HTTP against a real server, and against a built-in victim."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from detector.cli.main import main
from detector.lab.endpoint import MEASURER, MEASURING_ROWS
from detector.lab.mappings import ACCOUNT_HEADER
from detector.lab.server import PREDICT, create_app
from detector.lab.victims.digits import DIMENSION, DigitsVictim, load_split
from tests.lab.labelled import read_query_log

FAST = ("--rate", "1000000")


CUT = 0


class Counting:
    """``app``, counting requests by account; answers ``then`` to an account after ``patience`` requests.

    ``then`` is a status, or CUT for a connection that ends within the answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.requests: Counter[str] = Counter()
        self.patience = 10**9
        self.then = 429

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            account = dict(scope["headers"]).get(ACCOUNT_HEADER.lower().encode(), b"").decode()
            self.requests[account] += 1
            if self.requests[account] > self.patience:
                headers = [(b"retry-after", b"0"), (b"content-length", b"9")]
                await send({"type": "http.response.start", "status": self.then or 200, "headers": headers})
                await send({"type": "http.response.body", "body": b"{" if self.then == CUT else b"try again"})
                return
        await self._app(scope, receive, send)


@pytest.fixture(scope="module")
def app() -> Counting:
    return Counting(create_app(DigitsVictim(load_split().training), DIMENSION))


@pytest.fixture(scope="module")
def server(app: Counting) -> Iterator[str]:
    """The demo's model server on a port of its own; the URL that predicts."""
    running = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        while not running.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = running.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}{PREDICT}"
    finally:
        running.should_exit = True
        thread.join()


@pytest.fixture(autouse=True)
def patient(app: Counting) -> None:
    app.requests.clear()
    app.patience = 10**9
    app.then = 429


def _exit_status(*arguments: str) -> Any:
    with pytest.raises(SystemExit) as ended:
        main(["redteam", *arguments])
    return ended.value.code


def test_a_model_server_is_attacked_and_the_log_says_what_came_of_it(
    server: str, app: Counting, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "log.parquet"
    options = ("--attack", "jbda", "--target", server, "--budget", "150", "--seed", "5", "--out", str(out), *FAST)
    assert _exit_status(*options) == 0
    assert app.requests == {MEASURER: 2 * -(-MEASURING_ROWS // 100), "mallory": 150}
    log = read_query_log(out)
    assert (log.run.attack, log.run.sent, log.run.useful, log.run.seed) == ("jbda", 150, 150, 5)
    assert log.queries.principals == ["mallory"]
    assert log.queries.model == server.removeprefix("http://")
    assert {(mark.label, mark.kind) for mark in log.marks} == {("extraction", "jbda")}
    assert log.run.curve[-1].test > 0.7
    text = " ".join(capsys.readouterr().err.split())
    assert f"150 queries, 150 of them useful, and a clone that agrees with it on {log.run.curve[-1].test:.1%}" in text
    victim = DigitsVictim(load_split().training)
    np.testing.assert_allclose(log.queries.outputs, victim.probabilities(log.queries.features), atol=1e-5)


def test_the_same_seed_gives_the_same_log_over_http(server: str, tmp_path: Path) -> None:
    logs = [tmp_path / "one.parquet", tmp_path / "two.parquet"]
    for out in logs:
        options = ("--attack", "jbda", "--target", server, "--budget", "110", "--wrapper", "lineage", "--out", str(out))
        assert _exit_status(*options, *FAST) == 0
    assert logs[0].read_bytes() == logs[1].read_bytes()


def test_the_budget_holds_for_cover_too_and_a_refusal_ends_the_attack(
    server: str, app: Counting, tmp_path: Path
) -> None:
    out = tmp_path / "log.parquet"
    options = ("--attack", "jbda", "--target", server, "--wrapper", "dummies", "--out", str(out), *FAST)
    assert _exit_status(*options, "--budget", "60") == 0
    assert app.requests["mallory"] == 60
    assert read_query_log(out).run.useful == 30
    app.requests.clear()
    app.patience = 40
    assert _exit_status(*options, "--budget", "200") == 0
    assert app.requests["mallory"] == 46
    assert read_query_log(out).run.sent == 40


@pytest.mark.parametrize(
    "ending",
    [(500, 1, "HTTP 500: try again"), (503, 6, "HTTP 503: try again"), (CUT, 1, "Error")],
)
def test_a_server_that_fails_ends_the_attack_and_what_it_answered_is_kept(
    server: str, app: Counting, tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: tuple[int, int, str]
) -> None:
    then, attempts, complaint = ending
    out = tmp_path / "log.parquet"
    app.patience, app.then = 130, then
    options = ("--attack", "jbda", "--target", server, "--budget", "200", "--out", str(out), *FAST)
    assert _exit_status(*options) == 2
    assert app.requests["mallory"] == 130 + attempts
    log = read_query_log(out)
    assert (len(log.queries), log.run.sent, log.run.useful) == (130, 130, 130)
    assert [point.queries for point in log.run.curve] == [10, 12, 25, 50, 100, 130]
    assert {(mark.label, mark.kind) for mark in log.marks} == {("extraction", "jbda")}
    text = " ".join(capsys.readouterr().err.split())
    assert complaint in text
    assert f"130 queries in {out}" in text


def test_a_server_that_never_answers_the_thief_leaves_no_log(
    server: str, app: Counting, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app.patience, app.then = 2 * -(-MEASURING_ROWS // 100), 500
    app.requests["mallory"] = app.patience
    options = ("--attack", "jbda", "--target", server, "--out", str(tmp_path / "log.parquet"), *FAST)
    assert _exit_status(*options) == 2
    assert "HTTP 500" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_built_in_victim_is_attacked_among_honest_accounts(tmp_path: Path) -> None:
    out = tmp_path / "log.parquet"
    options = ("--attack", "jbda", "--target", "logistic regression", "--data", "iris", "--budget", "60")
    assert _exit_status(*options, "--out", str(out), "--rate", "0.5") == 0
    log = read_query_log(out)
    assert log.run.victim == "logistic regression on iris"
    assert {mark.label for mark in log.marks} == {"honest", "extraction"}
    thief = log.queries.principals.index("mallory")
    np.testing.assert_allclose(np.diff(log.queries.occurred_at[log.queries.principal_index == thief]), 2.0)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (("--target", "http://example.org/predict"), "--i-own-this-endpoint example.org"),
        (
            ("--target", "http://example.org/", "--i-own-this-endpoint", "other.org"),
            "--i-own-this-endpoint example.org",
        ),
        (("--out", "log.csv"), "FILE.parquet"),
        (("--attack", "no-such"), "no attack 'no-such'; there is"),
        (("--wrapper", "no-such"), "no wrapper 'no-such'; there is"),
        (("--mapping", "no-such"), "kserve-v1"),
        (("--target", "no-such"), "no victim 'no-such'; there is"),
        (("--data", "no-such"), "no data set 'no-such'; there is"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_sent(
    wrong: tuple[str, ...],
    complaint: str,
    server: str,
    app: Counting,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    right = ("--attack", "jbda", "--target", server, "--out", str(tmp_path / "log.parquet"), *FAST)
    assert _exit_status(*right, *wrong) == 2
    assert complaint in capsys.readouterr().err
    assert not app.requests
    assert list(tmp_path.iterdir()) == []
