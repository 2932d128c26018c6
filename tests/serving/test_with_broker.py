"""Logger, gate and middleware with real clients and a broker: the embedded one, or Apache Kafka if chosen."""

from __future__ import annotations

import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from detector.contracts.actions import ACTIONS, make_action
from detector.contracts.codecs import HEARTBEAT_KEY, KILL_SWITCH_KEY, decision_key
from detector.contracts.findings import Mode
from detector.contracts.queries import DecodedQueries
from detector.contracts.topics import Topics
from detector.runtime.broker import EmbeddedBroker
from detector.serving import Connection, Gate, Header, Identity, QueryLogger, Responder
from detector.serving import asgi as weirguard
from detector.serving.asgi import WeirguardMiddleware, route
from tests.conftest import Broker
from tests.serving.arrivals import LATER, PARTITIONS, counts_of, create_topics, publish, received, rows_of, tell, until
from tests.serving.doubles import decision, record


def test_logged_rows_arrive_once_in_order_and_in_their_principals_partition(connection: Connection) -> None:
    expected: dict[str, list[str]] = defaultdict(list)
    with QueryLogger(connection) as logger:
        for number in range(1_000):
            principal = f"p{number % 17}"
            logger.log(principal, "digits", "1", [float(number), 1.0], [0.5, 0.5], event_id=str(number))
            expected[principal].append(str(number))
    assert logger.snapshot()["sent"] == 1_000
    assert logger.snapshot()["dropped"] == logger.snapshot()["in_flight"] == 0
    arrived: dict[str, list[str]] = defaultdict(list)
    for decoded in received(connection, lambda records: rows_of(records) >= 1_000):
        assert decoded.batch is not None
        assert not decoded.bad_rows
        for row, event_id in enumerate(decoded.batch.event_ids):
            assert decoded.batch.features[row].tolist() == [float(event_id), 1.0]
            arrived[decoded.batch.principals[decoded.batch.principal_index[row]]].append(event_id)
    assert arrived == expected
    assert logger.snapshot()["records"] < 500


def test_refusals_and_losses_arrive_as_counts(connection: Connection) -> None:
    with QueryLogger(connection, max_queries=10) as logger:
        for _ in range(7):
            logger.refused("thief", "digits")
        logger.log("flood", "digits", "1", [[1.0]] * 5_000, [[1.0]] * 5_000)
    lost = logger.snapshot()["dropped"]
    arrived = received(connection, lambda records: sum(count.queries for count in counts_of(records)) >= 7 + lost)
    totals: dict[tuple[str, str], int] = defaultdict(int)
    for count in counts_of(arrived):
        totals[count.principal, count.kind] += count.queries
    assert totals == {("thief", "refused"): 7, ("flood", "dropped"): lost}
    assert rows_of(arrived) == 5_000 - lost


def test_the_gate_knows_what_was_decided_before_it_started(connection: Connection) -> None:
    others = [decision("refuse", principal=f"p{number}", expires_at=LATER) for number in range(50)]
    tell(connection, *others, decision("refuse", expires_at=LATER))
    with Gate(connection) as gate:
        assert gate.wait_until_ready(20)
        assert until(lambda: not gate.check("digits", "thief").allowed)
        assert gate.check("digits", "honest").allowed


def test_the_gate_obeys_a_decision_its_release_and_the_kill_switch(connection: Connection) -> None:
    with Gate(connection) as gate:
        assert gate.wait_until_ready(20)
        assert gate.check("digits", "thief").allowed
        tell(connection, decision("refuse", expires_at=LATER))
        assert until(lambda: not gate.check("digits", "thief").allowed)
        everyone = decision("none", model="*", principal="*", expires_at=LATER)
        publish(connection, record(everyone), partition=0)
        assert until(lambda: gate.check("digits", "thief").allowed)
        publish(connection, (KILL_SWITCH_KEY, None), partition=0)
        assert until(lambda: not gate.check("digits", "thief").allowed)
        tell(connection, decision("none", epoch=(1, 2), expires_at=LATER))
        assert until(lambda: gate.check("digits", "thief").allowed)


def test_heartbeats_count_by_the_clock_of_the_gate_and_those_from_before_its_start_by_their_time(
    connection: Connection,
) -> None:
    long_ago = time.time() - 3_600
    for partition in range(PARTITIONS):
        publish(connection, (HEARTBEAT_KEY, None), partition=partition, at=long_ago)
    tell(connection, decision("refuse", expires_at=LATER))
    with Gate(connection, when_stale={"credit": "refuse"}) as gate:
        assert gate.wait_until_ready(20)
        assert gate.check("credit", "honest").stale
        assert [gate.check("digits", one).action for one in ("thief", "honest")] == ["refuse", "none"]
        for partition in range(PARTITIONS):
            assert not gate.check("credit", "honest").allowed, "one partition of the detector is away"
            publish(connection, (HEARTBEAT_KEY, None), partition=partition, at=long_ago)
        assert until(lambda: gate.check("credit", "honest").allowed)
        assert (gate.snapshot()["applied"], gate.snapshot()["unreadable"]) == (1, 0)


def test_a_rung_changes_answers_where_it_is_enforced_and_never_the_log(connection: Connection) -> None:
    rungs = [name for name, kind in ACTIONS.items() if kind.is_response and name != "spec_noise"]
    modes: tuple[Mode, ...] = ("observe", "enforce")
    told = [
        replace(decision("refuse", principal=f"{mode} {name}", mode=mode, expires_at=LATER), action=make_action(name))
        for name in rungs
        for mode in modes
    ]
    tell(connection, *told)
    own = [0.713, 0.186, 0.101]
    with QueryLogger(connection) as logger, Gate(connection, responder=Responder(b"0123456789abcdef")) as gate:
        assert until(lambda: gate.snapshot()["applied"] == len(told))
        for one in told:
            verdict = gate.check("digits", one.principal)
            answer = gate.answer(verdict, "digits", one.principal, [1.0, 2.0], own)
            assert (answer.outputs == own) == (one.mode == "observe") == (answer.served_mode == "")
            logger.log(one.principal, "digits", "1", [1.0, 2.0], own, served_mode=answer.served_mode)
    for decoded in received(connection, lambda records: rows_of(records) == len(told)):
        assert decoded.batch is not None and np.allclose(decoded.batch.outputs, own)


def test_records_that_do_not_parse_are_counted_and_passed_over(connection: Connection) -> None:
    key = decision_key("digits", "thief")
    publish(connection, (key, b"not a decision"), (b"nor a key", b"{}"), record(decision("refuse", expires_at=LATER)))
    with Gate(connection) as gate:
        assert until(lambda: not gate.check("digits", "thief").allowed)
        assert gate.snapshot()["unreadable"] == 2


def test_a_broker_that_dies_and_comes_back_empty_leaves_both_at_work(prefix: str) -> None:
    """What was decided stands meanwhile, what is logged waits, and afterwards both go on."""
    with EmbeddedBroker() as broker:
        connection = Connection(broker.bootstrap, Topics(prefix))
        create_topics(connection)
        with QueryLogger(connection) as logger, Gate(connection) as gate:
            tell(connection, *[decision("refuse", epoch=(1, n), expires_at=LATER) for n in range(3)])
            assert until(lambda: gate.snapshot()["applied"] == 3)
            applied = time.time()
            assert until(lambda: gate.snapshot()["age_seconds"] < time.time() - applied)
            logger.log("p", "digits", "1", [1.0], [1.0])
            assert until(lambda: logger.snapshot()["sent"] == 1)
            broker.kill()
            for _ in range(100):
                logger.log("p", "digits", "1", [1.0], [1.0])
            assert not gate.check("digits", "thief").allowed
            broker.start()
            create_topics(connection)
            tell(connection, decision("none", epoch=(1, 9), expires_at=LATER))
            assert until(lambda: gate.check("digits", "thief").allowed)
            until(lambda: logger.snapshot()["sent"] + logger.snapshot()["dropped"] == 101)
            logger.log("p", "digits", "1", [1.0], [1.0], event_id="after")
            assert until(lambda: logger.snapshot()["sent"] + logger.snapshot()["dropped"] == 102)
        assert logger.snapshot()["logged"] == 102
        events = received(connection, lambda records: any(_has(decoded, "after") for decoded in records))
        assert events


def _has(decoded: DecodedQueries, event_id: str) -> bool:
    return decoded.batch is not None and event_id in decoded.batch.event_ids


def test_a_gate_and_a_logger_that_start_before_their_topics_find_them_later(
    broker: Broker, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    connection = Connection(broker.bootstrap, Topics(prefix))
    with QueryLogger(connection) as logger, Gate(connection) as gate:
        assert gate.check("digits", "thief").stale
        logger.log("p", "digits", "1", [1.0], [1.0])
        assert until(lambda: gate._background._back_off > 0.2), "it should have looked for its topic twice"
        assert gate.snapshot()["failures"] == 0
        create_topics(connection)
        assert gate.wait_until_ready(20)
        assert until(lambda: logger.snapshot()["sent"] == 1)
    assert [entry for entry in caplog.records if entry.name == "detector.serving.decision_reader"] == []


def test_a_gate_whose_topic_never_comes_says_so(broker: Broker, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    with Gate(Connection(broker.bootstrap, Topics(prefix))) as gate:
        assert until(lambda: gate.snapshot()["failures"] > 0)
        assert f"there is no topic {prefix}.decisions" in caplog.text


@pytest.fixture
def served(connection: Connection) -> Iterator[tuple[str, QueryLogger, Gate]]:
    """A model behind the middleware on a real HTTP server: its address, its logger and its gate."""

    async def predict(request: Request) -> Response:
        rows = (await request.json())["instances"]
        weirguard.log(request.scope, rows, [[0.5, 0.5]] * len(rows))
        return JSONResponse({"predictions": [[0.5, 0.5]] * len(rows)})

    logger, gate = QueryLogger(connection), Gate(connection)
    app = WeirguardMiddleware(
        Starlette(routes=[Route("/predict", predict, methods=["POST"])]),
        logger=logger,
        gate=gate,
        target=route("/predict", "digits", "1"),
        identity=Identity([Header("x-account")]),
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/predict", logger, gate
        server.should_exit = True
        thread.join(20)


def _ask(client: httpx.Client, address: str, account: str, rows: int = 1) -> Any:
    body = {"instances": [[1.0, 2.0]] * rows}
    return client.post(address, json=body, headers={"x-account": account})


def test_over_http_queries_are_logged_and_a_thief_is_refused(
    connection: Connection, served: tuple[str, QueryLogger, Gate]
) -> None:
    address, logger, gate = served
    with httpx.Client() as client:
        assert _ask(client, address, "thief", rows=3).status_code == 200
        assert gate.wait_until_ready(20)
        tell(connection, decision("refuse", expires_at=LATER))
        assert until(lambda: _ask(client, address, "thief").status_code == 429)
        assert _ask(client, address, "honest").status_code == 200
    arrived = received(
        connection, lambda records: bool(counts_of(records)) and rows_of(records) >= logger.snapshot()["logged"]
    )
    assert {count.principal for count in counts_of(arrived)} == {"thief"}
