"""Websockets to a model, through a real application."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.websockets import WebSocket, WebSocketDisconnect

from detector.serving import asgi as weirguard
from tests.serving.doubles import FedGate, decision
from tests.serving.stage import ANSWER, BODY, THIEF, Guarded


def application(logs: bool) -> FastAPI:
    app = FastAPI()

    @app.websocket("/predict")
    async def predict(socket: WebSocket) -> None:
        await socket.accept()
        with suppress(WebSocketDisconnect):
            await answer(socket)

    async def answer(socket: WebSocket) -> None:
        while True:
            rows = (await socket.receive_json())["instances"]
            if logs:
                weirguard.log(socket.scope, rows, ANSWER["predictions"])
            await socket.send_json(ANSWER)

    return app


ASKED = {"type": "websocket.receive", "text": json.dumps(BODY)}


def converse(app: Any, *incoming: dict[str, str] | Callable[[], None]) -> list[str]:
    """The types of what ``app`` sends when it gets ``incoming``; a function among it is called in its turn."""
    sent: list[str] = []
    waiting = [{"type": "websocket.connect"}, *incoming]

    async def receive() -> Any:
        while waiting:
            step = waiting.pop(0)
            if isinstance(step, dict):
                return step
            step()
        return {"type": "websocket.disconnect", "code": 1000}

    async def send(message: Any) -> None:
        sent.append(message["type"].removeprefix("websocket."))

    scope = {"type": "websocket", "path": "/predict", "query_string": b"", "root_path": "", "subprotocols": []}
    headers = [(name.encode(), value.encode()) for name, value in THIEF.items()]
    asyncio.run(asyncio.wait_for(app(scope | {"headers": headers}, receive, send), 10))
    return sent


@pytest.mark.parametrize(("logs", "accounts"), [(False, (0, {"websocket": 3})), (True, (6, {}))])
def test_each_answer_is_logged_or_counted(logs: bool, accounts: Any) -> None:
    guarded = Guarded(application(logs))
    assert converse(guarded.app, ASKED, ASKED, ASKED) == ["accept", "send", "send", "send"]
    assert guarded.accounts == accounts


def test_a_refused_principal_gets_no_websocket() -> None:
    guarded = Guarded(application(False), gate=FedGate([decision("refuse", expires_at=130.0)]))
    assert converse(guarded.app, ASKED) == ["close"]
    assert guarded.accounts == (0, {})
    assert guarded.logger.refusals() == {"thief": 1}


def test_a_decision_ends_a_conversation_that_runs() -> None:
    gate = FedGate()
    guarded = Guarded(application(False), gate=gate)
    banned = decision("refuse", expires_at=130.0)
    sent = converse(guarded.app, ASKED, lambda: gate.feed(banned), ASKED, ASKED)
    assert sent == ["accept", "send", "close"]
    assert guarded.accounts == (0, {"websocket": 1})
    assert guarded.logger.refusals() == {"thief": 1}


def test_an_answer_is_not_covered_by_the_log_of_the_one_before() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        weirguard.log(scope, BODY["instances"], ANSWER["predictions"])
        for _ in range(3):
            await send({"type": "websocket.send", "text": "{}"})

    guarded = Guarded(app)
    converse(guarded.app)
    assert guarded.accounts == (2, {"websocket": 2})


def test_nothing_is_sent_after_a_refusal_closed_it() -> None:
    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        gate.feed(decision("refuse", expires_at=130.0))
        assert (await receive())["type"] == "websocket.disconnect"
        await send({"type": "websocket.send", "text": "{}"})
        await send({"type": "websocket.close"})

    gate = FedGate()
    guarded = Guarded(app, gate=gate)
    assert converse(guarded.app, ASKED) == ["accept", "close"]
    assert guarded.accounts == (0, {})


def test_a_websocket_elsewhere_passes() -> None:
    guarded = Guarded(application(False), target=weirguard.route("/other", "digits", "1"))
    assert converse(guarded.app, ASKED) == ["accept", "send"]
    assert guarded.accounts == (0, {})
    assert guarded.app.counters.snapshot()["unmatched"] == 1
