"""The gate service: one process that listens until it is stopped. It answers NGINX and Envoy over HTTP, with health and
metrics."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import web

from detector.contracts.errors import ConfigurationError
from detector.gateway.authorizer import Authorizer, new_authorizer
from detector.gateway.grpc_service import answering
from detector.runtime.sections import GateSettings
from detector.runtime.settings import Settings
from detector.serving.denial import Denial, Notice
from detector.serving.metrics import render_metrics

ENVOY_PREFIX = "/envoy"
URI_HEADER = "x-original-uri"
METHOD_HEADER = "x-original-method"
STATUS_HEADER = "weirguard-status"
"""Header of a denial with the status that is meant for the client: NGINX understands no other denial than 403."""

_END_SECONDS = 2.0
_HEADER_BYTES = 65_536
"""More than a proxy allows: a request that the proxy accepts must not fail here."""
_log = structlog.get_logger("weirguard.gate")


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT. Raises ConfigurationError for a setting that cannot be served."""
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with listening(new_authorizer(settings), settings.gate) as ports:
        _log.info("the gate service listens", host=settings.gate.host, ports=ports)
        await stopped.wait()


@asynccontextmanager
async def listening(authorizer: Authorizer, settings: GateSettings) -> AsyncIterator[dict[str, int]]:
    """Runs the gate service of the settings; yields its ports, ``http`` and maybe ``grpc``. At the end, open requests
    get two seconds. Raises ConfigurationError if it cannot listen.
    """
    async with AsyncExitStack() as stack:
        stack.callback(authorizer.close)
        authorizer.start()
        ports = {"http": await _listen(authorizer, settings, stack)}
        if settings.grpc_port is not None:
            ports["grpc"] = await stack.enter_async_context(answering(authorizer, settings))
        yield ports


async def _listen(authorizer: Authorizer, settings: GateSettings, stack: AsyncExitStack) -> int:
    sizes: Any = {"max_line_size": _HEADER_BYTES, "max_field_size": _HEADER_BYTES}
    server = web.Server(HttpService(authorizer), access_log=None, **sizes)
    runner = web.ServerRunner(server, shutdown_timeout=_END_SECONDS)
    stack.push_async_callback(runner.cleanup)
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.host, settings.port).start()
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        raise ConfigurationError(f"gate.host, gate.port: cannot listen on {where}: {error}") from None
    return int(runner.addresses[0][1])


class HttpService:
    """Answers ``/nginx``, ``/envoy`` followed by the path that a client asks for, ``/metrics``, ``/livez`` and
    ``/readyz``.

    The path is used unchanged: a router would normalise what follows ``/envoy``, and answer for another page.
    """

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer
        self._pages: dict[str, Callable[[web.BaseRequest], web.Response]] = {
            "/nginx": self._nginx,
            "/metrics": self._metrics,
            "/livez": lambda _: web.Response(text="ok\n"),
            "/readyz": self._ready,
        }

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        if request.raw_path.startswith(ENVOY_PREFIX):
            return self._envoy(request)
        page = self._pages.get(request.raw_path.partition("?")[0])
        return web.Response(status=HTTPStatus.NOT_FOUND) if page is None else page(request)

    def _nginx(self, request: web.BaseRequest) -> web.Response:
        uris = set(request.headers.getall(URI_HEADER, ()))
        if len(uris) != 1:
            text = f"set {URI_HEADER} to $request_uri: {len(uris)} are given\n"
            return web.Response(status=HTTPStatus.BAD_REQUEST, text=text)
        method = request.headers.get(METHOD_HEADER, "GET")
        denial, notice = self._authorizer.check(method, uris.pop(), request.headers.items())
        return _answer(denial, notice, HTTPStatus.FORBIDDEN)

    def _envoy(self, request: web.BaseRequest) -> web.Response:
        path = request.raw_path.removeprefix(ENVOY_PREFIX)
        denial, notice = self._authorizer.check(request.method, path, request.headers.items())
        # Envoy takes any 5xx for a fault of this service and then follows its own failure_mode_allow.
        away = denial is not None and denial.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        return _answer(denial, notice, HTTPStatus.FORBIDDEN if away else None)

    def _metrics(self, _: web.BaseRequest) -> web.Response:
        headers = {"content-type": "text/plain; version=0.0.4"}
        return web.Response(body=render_metrics(*self._authorizer.parts), headers=headers)

    def _ready(self, _: web.BaseRequest) -> web.Response:
        if self._authorizer.gate.ready:
            return web.Response(text="ok\n")
        return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text="the decisions are not read yet\n")


def _answer(denial: Denial | None, notice: Notice, status: HTTPStatus | None) -> web.Response:
    """Returns 200 with the ``notice`` without a denial, else the denial under ``status``, if that is given."""
    if denial is None:
        return web.Response(headers=notice)
    headers = [*denial.headers, (STATUS_HEADER, str(int(denial.status)))]
    return web.Response(status=status or denial.status, headers=headers, body=denial.body)
