"""A guarded model server in its own process, and callers who wait until the detector has judged what they asked."""

from __future__ import annotations

import logging
import multiprocessing
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import httpx
import numpy as np
import uvicorn
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.routing import Mount

from detector.contracts.queries import OutputKind
from detector.lab.answers import Answers
from detector.lab.experiment import victim_of
from detector.lab.mappings import ACCOUNT_HEADER, KServeV1
from detector.lab.server import PREDICT, create_app
from detector.runtime.broker import free_port
from detector.serving import Connection, Gate, Header, Identity, QueryLogger, Responder
from detector.serving.asgi import Target, WeirguardMiddleware

VERSION = "1"
_LOOK_SECONDS = 0.15
_OBEYED_SECONDS = 0.1
"""From the verdict on a query, which the detector's metrics show, to the decision in the gate, at the most."""
_ANSWERED = "weirguard_queries_answered_total"

Rows = NDArray[np.float32]
Model = tuple[str, str]
"""Data set and victim, by name."""


class TurnedAwayError(Exception):
    """The service refused a request."""


def serve(connection: Connection, models: Mapping[str, Model], guarded: Sequence[str], port: int) -> None:
    """Serves each of ``models`` under its name, those of ``guarded`` behind the middleware, until it is killed."""
    logging.getLogger("detector.serving").setLevel(logging.ERROR)  # it warns of what passes unguarded
    mounts = []
    for name, target in models.items():
        dataset, victim = victim_of(*target)
        mounts.append(Mount(f"/{name}", create_app(victim, dataset.dimension)))
    targets = {f"/{name}{PREDICT}": Target(name, VERSION) for name in guarded}
    app = WeirguardMiddleware(
        Starlette(routes=mounts),
        logger=QueryLogger(connection),
        gate=Gate(connection, responder=Responder(secrets.token_bytes(32))),
        target=lambda scope: targets.get(scope["path"]),
        identity=Identity((Header(ACCOUNT_HEADER),)),
    )
    uvicorn.run(app, port=port, log_level="error")


class Served:
    """What callers share: the address of the server, and what the detector at ``metrics_url`` has judged so far."""

    def __init__(self, port: int, metrics_url: str, guarded: Sequence[str]) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._metrics_url = metrics_url
        self._guarded = frozenset(guarded)
        self._sent: Counter[str] = Counter()
        self._judged: Counter[str] = Counter()
        self._news = threading.Condition()
        threading.Thread(target=self._watch, daemon=True).start()

    def sent(self, model: str, queries: int) -> int:
        """Notes ``queries`` answered; returns how many the model has answered in all."""
        with self._news:
            self._sent[model] += queries
            return self._sent[model]

    def wait(self, model: str, queries: int) -> None:
        """Returns once ``queries`` to ``model`` are judged, and the gate has what followed."""
        if model in self._guarded:
            with self._news:
                self._news.wait_for(lambda: self._judged[model] >= queries, 120)
            time.sleep(_OBEYED_SECONDS)

    def _watch(self) -> None:
        while True:
            time.sleep(_LOOK_SECONDS)
            try:
                lines = httpx.get(f"{self._metrics_url}/metrics", timeout=30).text.splitlines()
            except httpx.HTTPError:
                continue  # under load; at the end the worker is gone
            with self._news:
                for line in lines:
                    if line.startswith(_ANSWERED):
                        series, value = line.rsplit(" ", 1)
                        self._judged[series.split('"')[1]] = int(float(value))
                self._news.notify_all()


class Caller:
    """``model`` as ``account`` sees it over HTTP: the victim of a thief. ``answered``: rows so far."""

    output_kind: OutputKind = "probabilities"

    def __init__(self, served: Served, model: str, account: str) -> None:
        self.answered = 0
        self._served, self._model, self._account = served, model, account
        self._http = httpx.Client(timeout=120)
        self._mapping = KServeV1()

    def answer(self, features: Rows) -> Answers:
        """Returns the answers once they are judged. Raises TurnedAwayError."""
        reply, _ = self._post(features)
        self._served.wait(self._model, self._served.sent(self._model, len(features)))
        return self._mapping.reply(reply.json(), len(features))

    def seconds(self, features: Rows) -> float:
        """Returns how long the answer took; it may not be judged yet. Raises TurnedAwayError."""
        _, taken = self._post(features)
        self._served.sent(self._model, len(features))
        return taken

    def _post(self, features: Rows) -> tuple[httpx.Response, float]:
        body = self._mapping.body(features, self._account)
        headers = self._mapping.headers(self._account)
        begun = time.perf_counter()
        reply = self._http.post(f"{self._served.url}/{self._model}{PREDICT}", json=body, headers=headers)
        taken = time.perf_counter() - begun
        if reply.status_code == httpx.codes.TOO_MANY_REQUESTS:
            raise TurnedAwayError
        reply.raise_for_status()
        self.answered += len(features)
        return reply, taken

    def probabilities(self, features: Rows) -> NDArray[np.float64]:
        return self.answer(features).probabilities


@contextmanager
def serving(
    connection: Connection, metrics_url: str, models: Mapping[str, Model], guarded: Sequence[str]
) -> Iterator[Served]:
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(connection, models, guarded, port), daemon=True
    )
    process.start()
    try:
        while not _answers(port):
            if not process.is_alive():
                raise RuntimeError("the model server has ended")
            time.sleep(0.2)
        yield Served(port, metrics_url, guarded)
    finally:
        process.kill()
        process.join()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/").status_code > 0
    except httpx.HTTPError:
        return False
