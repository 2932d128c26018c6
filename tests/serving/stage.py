"""A middleware around a real application, called over httpx without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from detector.serving import Gate, Header, Identity
from detector.serving.asgi import FindTarget, WeirguardMiddleware, route
from detector.serving.extractors import Extractor, kserve_v1
from tests.serving.doubles import FedGate, KeepingLogger

Application = Callable[[Any, Any, Any], Awaitable[None]]
BODY = {"instances": [[1.0, 2.0], [3.0, 4.0]]}
ANSWER = {"predictions": [[0.25, 0.75], [0.5, 0.5]]}
THIEF = {"x-account": "thief"}


class Guarded:
    """``app`` behind the middleware; ``target`` is /predict and ``extract`` reads KServe's version 1 unless given."""

    def __init__(
        self,
        app: Application,
        *,
        target: FindTarget | None = None,
        extract: Extractor | None = kserve_v1(),  # noqa: B008  immutable
        gate: Gate | None = None,
        max_body_bytes: int = 1 << 20,
    ) -> None:
        self.logger = KeepingLogger()
        self.app = WeirguardMiddleware(
            app,
            logger=self.logger,
            gate=gate or FedGate(),
            target=target or route("/predict", "digits", "1"),
            identity=Identity([Header("x-account")]),
            extract=extract,
            max_body_bytes=max_body_bytes,
        )

    def ask(
        self, path: str = "/predict", *, method: str = "POST", root_path: str = "", **request: Any
    ) -> httpx.Response:
        """One request of the thief, through the middleware or ``around`` it, an application that has it inside."""
        around = request.pop("around", self.app)
        if "content" not in request:
            request.setdefault("json", BODY)
        request["headers"] = THIEF | request.get("headers", {})

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=around, root_path=root_path, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://model") as client:
                return await client.request(method, path, **request)

        return asyncio.run(send())

    @property
    def accounts(self) -> tuple[int, dict[str, int]]:
        """Rows of the thief that are in the log, and what is unjudged by reason."""
        rows = sum(rows.queries for rows in self.logger.kept() if rows.principal == "thief")
        return rows, {reason: queries for (who, reason), queries in self.logger.unread.items() if who == "thief"}
