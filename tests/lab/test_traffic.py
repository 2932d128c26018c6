"""Clients against an application in the same process: what is sent, answered, refused and failed is tallied."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette

from detector.lab.answers import Answers
from detector.lab.data import Dataset
from detector.lab.mappings import ACCOUNT_HEADER
from detector.lab.query_log import THIEF
from detector.lab.server import PREDICT, create_app
from detector.lab.traffic import RING, Client, Tally, Theft, TrafficGenerator, honest_accounts, jacobian_thief
from detector.lab.victims.digits import DIMENSION, DigitsVictim

URL = f"http://server{PREDICT}"
ROW = np.zeros((1, DIMENSION), dtype=np.float32)

Answer = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(scope="module")
def app(victim: DigitsVictim) -> Starlette:
    return create_app(victim, DIMENSION)


def ask(answer: Answer, rows: np.ndarray = ROW) -> tuple[Answers | None, Tally]:
    async def once() -> tuple[Answers | None, Tally]:
        tally = Tally("ann", "steady")
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
            return await Client(http, URL, tally).ask(rows), tally

    return asyncio.run(once())


def post(app: Starlette, body: bytes) -> httpx.Response:
    async def once() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as http:
            return await http.post(URL, content=body)

    return asyncio.run(once())


def test_an_answer_is_returned_and_tallied_by_rows_under_the_account_s_name() -> None:
    accounts = []

    def answer(request: httpx.Request) -> httpx.Response:
        accounts.append(request.headers[ACCOUNT_HEADER])
        return httpx.Response(200, json={"predictions": [[0.25, 0.75], [1.0, 0.0]]})

    got, tally = ask(answer, np.repeat(ROW, 2, axis=0))
    assert got is not None
    assert got.leaf is None
    np.testing.assert_array_equal(got.probabilities, [[0.25, 0.75], [1.0, 0.0]])
    assert (tally.sent, tally.answered, tally.refused, tally.failed) == (2, 2, 0, 0)
    assert accounts == ["ann"]


def test_a_refusal_is_tallied_with_the_number_of_its_query() -> None:
    got, tally = ask(lambda _: httpx.Response(429))
    assert got is None
    assert (tally.sent, tally.answered, tally.refused, tally.failed) == (1, 0, 1, 0)
    assert [number for number, _ in tally.refusals] == [1]


def test_a_broken_answer_and_a_broken_connection_are_failures_that_say_why() -> None:
    def break_off(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route")

    got, tally = ask(lambda _: httpx.Response(500, text="oops"))
    assert (got, tally.failed, tally.last_failure) == (None, 1, "HTTP 500: oops")
    got, tally = ask(break_off)
    assert (got, tally.failed, tally.last_failure) == (None, 1, "ConnectError: no route")


def test_the_server_answers_with_the_victim_s_probabilities(
    app: Starlette, victim: DigitsVictim, split: Dataset
) -> None:
    rows = split.test.features[:3]
    response = post(app, httpx.Request("POST", URL, json={"instances": rows.tolist()}).content)
    np.testing.assert_allclose(response.json()["predictions"], victim.probabilities(rows), atol=1e-6)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"instances": 1}', b'{"instances": [[1, 2]]}', b'{"instances": [["a"]]}']
)
def test_the_server_says_what_it_wants_to_whoever_sends_something_else(app: Starlette, body: bytes) -> None:
    response = post(app, body)
    assert response.status_code == 400
    assert "64 numbers" in response.json()["error"]


def test_everybody_works_at_once_and_the_thief_learns(app: Starlette, victim: DigitsVictim, split: Dataset) -> None:
    traffic = TrafficGenerator(URL, split, accounts=honest_accounts(12), seed=0, tempo=0.02)
    thief = jacobian_thief(split, seed=0, budget=400)

    async def run() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as http:
            await traffic.run(http, 1.0, Theft(thief, enough=1))

    asyncio.run(run())
    assert len(traffic.tallies) == 13
    assert all(tally.sent == tally.answered > 0 for tally in traffic.tallies.values())
    assert len(thief.clone().probabilities(split.test.features)) == len(split.test)


def test_a_refused_thief_gives_up_and_keeps_what_he_got(split: Dataset, victim: DigitsVictim) -> None:
    answers_left = 12

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal answers_left
        answers_left -= 1
        return httpx.Response(200, json={"predictions": [[0.1] * 10]}) if answers_left >= 0 else httpx.Response(429)

    traffic = TrafficGenerator(URL, split, accounts=[], seed=0, tempo=0.001)

    async def run() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
            await traffic.run(http, 1.0, Theft(jacobian_thief(split, seed=0), enough=0))

    asyncio.run(run())
    tally = traffic.tallies[THIEF]
    assert (tally.answered, tally.refused) == (12, 40)
    assert tally.refusals[0][0] == 13


def test_a_ring_asks_as_its_accounts_in_turn_and_gives_up_when_all_are_refused(split: Dataset) -> None:
    refused: set[str] = set()

    def answer(request: httpx.Request) -> httpx.Response:
        account = request.headers[ACCOUNT_HEADER]
        if account in refused:
            return httpx.Response(429)
        refused.add(account)
        return httpx.Response(200, json={"predictions": [[0.1] * 10]})

    traffic = TrafficGenerator(URL, split, accounts=[], seed=0, tempo=0.001)

    async def run() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
            await traffic.run(http, 1.0, Theft(jacobian_thief(split, seed=0), 0, RING))

    asyncio.run(run())
    assert {name: (tally.answered, tally.refused) for name, tally in traffic.tallies.items()} == dict.fromkeys(
        RING, (1, 4)
    )
