"""The HTTP side of the gate service: requests of NGINX and Envoy, health and metrics."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from aiohttp import web

from detector.gateway.authorizer import Authorizer
from detector.serving.denial import Denial, Notice
from detector.serving.metrics import render_metrics

ENVOY_PREFIX = "/envoy"
URI_HEADER = "x-original-uri"
METHOD_HEADER = "x-original-method"
STATUS_HEADER = "weirguard-status"
"""Header of a denial with the status that is meant for the client: NGINX understands no other denial than 403."""


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
