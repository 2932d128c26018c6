"""WSGI middleware that checks the gate before the application runs and logs what it answered: Flask, Django, Bottle.

    app.wsgi_app = WsgiMiddleware(app.wsgi_app, logger=..., gate=..., target=route("/predict", "digits", "1"))

An endpoint calls :func:`log` or :func:`respond` with the environment of its request, or ``extract`` reads the JSON
bodies. WSGI knows no
end of an application: call ``close()`` of logger and gate when a process ends, as in gunicorn's ``worker_exit``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any

from detector.serving.denial import Notice, denial_of, notice_of
from detector.serving.exchange import Exchange
from detector.serving.middleware import SCOPE_KEY, Copies, ModelMiddleware, log, respond, specification, verdict
from detector.serving.targets import FindTarget, Scope, Target, kserve_routes, route

__all__ = [
    "FindTarget",
    "Target",
    "WsgiMiddleware",
    "kserve_routes",
    "log",
    "respond",
    "route",
    "specification",
    "verdict",
]

Environment = MutableMapping[str, Any]
Write = Callable[[bytes], object]
StartResponse = Callable[..., Write]


class WsgiMiddleware(ModelMiddleware):
    """Wraps the WSGI application ``app``, as :class:`detector.serving.asgi.WeirguardMiddleware` does an ASGI one.

    Who is authenticated before is ``REMOTE_USER``. Bodies are copied while the application reads and the server
    writes them: nothing is buffered. Threads start with the first request of each process.
    """

    def __call__(self, environ: Environment, start_response: StartResponse) -> Iterable[bytes]:
        scope = scope_of(environ)
        exchange = self._open(scope)
        if exchange is None:
            return self._app(environ, start_response)  # type: ignore[no-any-return]
        if not exchange.verdict.allowed:
            self._count_refusal(exchange)
            status, headers, body = denial_of(exchange.verdict)
            start_response(f"{status.value} {status.phrase}", headers)
            return [body]
        copies = Copies(self._limit, scope["headers"])
        environ[SCOPE_KEY] = exchange
        if self._limit:
            environ["wsgi.input"] = CopiedInput(environ["wsgi.input"], copies)
        answer = CopiedAnswer(copies, lambda: self._read(exchange, copies), lambda: self._end(exchange, copies, scope))
        try:
            answer.chunks = self._app(environ, answer.starter(start_response, notice_of(exchange.verdict)))
        except BaseException:
            answer.close()
            raise
        return answer

    def _end(self, exchange: Exchange, copies: Copies, scope: Scope) -> None:
        try:
            self._finish(exchange, copies, scope["method"])
        except Exception as error:  # noqa: BLE001  no fault of the SDK may break the application
            self._fail("failures", "the end of an answer was not seen", error)


def scope_of(environ: Environment) -> Scope:
    """Returns the request as ASGI describes it, as far as targets and identities look at it."""
    root = _utf8(environ.get("SCRIPT_NAME", ""))
    fields = {name[5:]: value for name, value in environ.items() if name.startswith("HTTP_")}
    fields |= {name: environ[name] for name in ("CONTENT_TYPE", "CONTENT_LENGTH") if environ.get(name)}
    return {
        "type": "http",
        "method": environ.get("REQUEST_METHOD", ""),
        "path": root + _utf8(environ.get("PATH_INFO", "")),
        "root_path": root,
        "headers": [
            (name.replace("_", "-").lower().encode("latin-1"), str(value).encode("latin-1"))
            for name, value in fields.items()
        ],
        "state": {"principal": environ.get("REMOTE_USER")},
    }


def _utf8(text: str) -> str:
    """Returns a path as applications see it: WSGI passes its bytes as Latin-1."""
    return text.encode("latin-1", "replace").decode("utf-8", "replace")


class CopiedInput:
    """The body of a request, copied as the application reads it."""

    def __init__(self, stream: Any, copies: Copies) -> None:
        self._stream = stream
        self._copies = copies

    def read(self, *size: int) -> bytes:
        return self._copied(self._stream.read(*size))

    def readline(self, *size: int) -> bytes:
        return self._copied(self._stream.readline(*size))

    def readlines(self, *hint: int) -> list[bytes]:
        return [self._copied(line) for line in self._stream.readlines(*hint)]

    def __iter__(self) -> Iterator[bytes]:
        return map(self._copied, self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _copied(self, chunk: bytes) -> bytes:
        self._copies.request.add(chunk)
        return chunk


class CopiedAnswer:
    """The body of an answer, copied as the server takes it. ``answered`` is called after its last piece, or the first
    beyond the limit, ``closed`` when the server is done with it."""

    def __init__(self, copies: Copies, answered: Callable[[], None], closed: Callable[[], None]) -> None:
        self.chunks: Iterable[bytes] = ()
        self._copies = copies
        self._answered = answered
        self._closed = closed

    def starter(self, start_response: StartResponse, notice: Notice) -> StartResponse:
        """Returns ``start_response`` that notes the status and the headers, and adds those of the ``notice``."""

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Write:
            write = start_response(status, [*headers, *notice] if notice else headers, *exc_info)
            self._copies.status = _code(status)
            self._copies.response.headers = [
                (name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in headers
            ]

            def write_and_note(chunk: bytes) -> object:
                self._copies.note_chunk(chunk)
                return write(chunk)

            return write_and_note

        return start

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self.chunks:
            over = self._copies.over
            self._copies.note_chunk(chunk)
            yield chunk
            if self._copies.over and not over:
                self._answered()
        self._copies.ended = True
        self._answered()

    def __len__(self) -> int:
        """Returns the number of pieces, where the application knows it: from one a server makes a Content-Length."""
        return len(self.chunks)  # type: ignore[arg-type]  # TypeError is what servers expect of a stream

    def __bool__(self) -> bool:
        return True

    def close(self) -> None:
        try:
            if hasattr(self.chunks, "close"):
                self.chunks.close()
        finally:
            self._closed()


def _code(status: str) -> int:
    code = status.partition(" ")[0]
    return int(code) if code.isdecimal() else 0
