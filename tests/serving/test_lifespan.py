"""Logger and gate live as long as the application does, however often it is started."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette

from detector.serving.asgi import WeirguardMiddleware, route
from tests.serving.doubles import FedGate, KeepingLogger


def _noting(kind: Any, name: str, steps: list[str], broken: bool) -> Any:
    """A logger or a gate that records calls, and fails at them if it is ``broken``."""

    class Noting(kind):  # type: ignore[misc]
        def start(self) -> None:
            self._note("start")

        def close(self, timeout: float = 1.0) -> None:
            self._note("close")

        def _note(self, step: str) -> None:
            steps.append(f"{step} {name}")
            if broken:
                raise RuntimeError("can't start new thread")

    return Noting()


async def _live(app: Any) -> list[str]:
    """One life of ``app`` under a server: what it sends."""
    sent: list[str] = []
    incoming = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> dict[str, str]:
        return {"type": next(incoming)}

    async def send(message: dict[str, str]) -> None:
        sent.append(message["type"].removeprefix("lifespan."))

    await app({"type": "lifespan", "state": {}}, receive, send)
    return sent


@pytest.mark.parametrize("kind", [Starlette, FastAPI])
@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("listed", [False, True])
def test_each_life_opens_and_closes_both(kind: Callable[..., Starlette], broken: bool, listed: bool) -> None:
    steps: list[str] = []
    options: dict[str, Any] = {
        "logger": _noting(KeepingLogger, "logger", steps, broken),
        "gate": _noting(FedGate, "gate", steps, broken),
        "target": route("/predict", "digits", "1"),
    }
    app: Any = kind()
    if listed:
        app.add_middleware(WeirguardMiddleware, **options)
    else:
        app = WeirguardMiddleware(app, **options)
    for life in range(1, 4):
        assert asyncio.run(_live(app)) == ["startup.complete", "shutdown.complete"]
        assert steps == ["start logger", "start gate", "close logger", "close gate"] * life
    if not listed:
        assert app.counters.snapshot()["failures"] == 12 * broken


def test_an_application_that_does_not_come_up_closes_what_was_opened() -> None:
    steps: list[str] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed"})

    logger = _noting(KeepingLogger, "logger", steps, broken=False)
    gate = _noting(FedGate, "gate", steps, broken=False)
    middleware = WeirguardMiddleware(app, logger=logger, gate=gate, target=route("/predict", "digits", "1"))
    assert asyncio.run(_live(middleware)) == ["startup.failed"]
    assert steps == ["start logger", "start gate", "close logger", "close gate"]
