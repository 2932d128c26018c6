"""Copies of a request's and a response's body, made while they pass, up to a limit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import partial
from typing import Any

from detector.contracts.errors import Unjudged
from detector.serving.bodies import document, rows_told
from detector.serving.raw_tensors import document_with_tensors

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class _Body:
    """At most ``limit`` bytes; one more and all are dropped."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        self.headers: Iterable[tuple[bytes, bytes]] = ()
        self.too_large = False
        self.elsewhere = False

    def add(self, chunk: bytes) -> None:
        if self.too_large or len(self._data) + len(chunk) > self._limit:
            self.too_large = True
            self._data = bytearray()
        else:
            self._data += chunk

    def document(self) -> Any:
        """Returns the body as JSON. Raises Unjudged."""
        if self.too_large:
            raise Unjudged("too-large", f"a body has over {self._limit} bytes")
        if self.elsewhere:
            raise Unjudged("unread", "an answer is sent from a file, past the middleware")
        if not self._data:
            raise Unjudged("empty", "a request or its answer has no body, or nobody read it")
        encodings = ",".join(_values(self.headers, b"content-encoding"))
        head = "".join(_values(self.headers, b"inference-header-content-length"))
        read = document if not head else partial(document_with_tensors, head)
        return read(bytes(self._data), encodings, self._limit)

    def rows(self) -> int:
        """Returns how many rows the body seems to hold; 1 where that is unknown."""
        try:
            return rows_told(self.document())
        except Exception:  # noqa: BLE001  it is unreadable in whatever way
            return 1


class Capture:
    """Observes one exchange. With ``limit`` 0 it records the status alone.

    Each message goes on at once and unchanged, so streams are not buffered. ``headers``: of the request.
    """

    def __init__(self, limit: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._limit = limit
        self._request = _Body(limit)
        self._request.headers = headers
        self._response = _Body(limit)
        self._status = 0
        self._empty = True
        self._ended = False

    @property
    def succeeded(self) -> bool:
        """Whether the answer was 2xx."""
        return 200 <= self._status < 300

    @property
    def negotiation(self) -> bool:
        """Whether the answer to OPTIONS only lists what is allowed: it is empty, or that of a CORS preflight."""
        return self._empty or any(_values(self._response.headers, b"access-control-allow-methods"))

    @property
    def too_large(self) -> bool:
        return self._request.too_large or self._response.too_large

    @property
    def over(self) -> bool:
        """Whether no further part of the answer can be read."""
        return self._ended or self._response.too_large

    def documents(self) -> tuple[Any, Any]:
        """Returns request and response. Raises Unjudged where one cannot be read.

        A stream that broke off is read all the same: its last piece may be empty.
        """
        request = self._request.document()
        try:
            return request, self._response.document()
        except Unjudged as error:
            if self.over:
                raise
            raise Unjudged("interrupted", "an answer broke off") from error

    def rows(self) -> int:
        """Returns how many rows were answered, as far as either body shows, for an exchange that cannot be logged.
        Otherwise a caller could put a thousand rows into each unreadable request and be charged for one."""
        return max(self._request.rows(), self._response.rows())

    def receiving(self, receive: Receive) -> Receive:
        if not self._limit:
            return receive

        async def wrapped() -> Message:
            message = await receive()
            self._note(message)
            return message

        return wrapped

    def sending(self, send: Send, passed: Callable[[], None]) -> Send:
        """Returns a wrapper of ``send`` that calls ``passed`` after the last piece of the answer, or the first beyond
        the limit."""

        async def wrapped(message: Message) -> None:
            over = self.over
            self._note(message)
            await send(message)
            if self.over and not over:
                passed()

        async def noting(message: Message) -> None:
            self._note(message)
            await send(message)

        return wrapped if self._limit else noting

    def _note(self, message: Message) -> None:
        try:
            self._take(message)
        except Exception:  # noqa: BLE001  what is no message of ASGI is for the server to refuse
            return

    def _take(self, message: Message) -> None:
        kind = message.get("type")
        if kind == "http.request":
            self._request.add(message.get("body") or b"")
        elif kind == "http.response.start":
            self._status = int(message["status"])
            headers = message.get("headers", ())
            if not isinstance(headers, list | tuple):  # may be readable only once
                message["headers"] = headers = list(headers)
            self._response.headers = headers
        elif kind == "http.response.body":
            self._add(message.get("body") or b"")
            self._ended = not message.get("more_body", False)
        elif kind in {"http.response.pathsend", "http.response.zerocopysend"}:
            self._empty, self._response.elsewhere = False, True
            self._ended = not message.get("more_body", False)

    def _add(self, chunk: bytes) -> None:
        if chunk:
            self._empty = False
            if self._limit:
                self._response.add(chunk)


def _values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[str]:
    size = len(name)
    return [bytes(value).decode("latin-1") for key, value in headers if len(key) == size and bytes(key).lower() == name]
