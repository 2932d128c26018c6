"""Copies of a request's and a response's body, made while they pass, up to a limit."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class _Body:
    """At most ``limit`` bytes; one more and all are forgotten."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.data = bytearray()
        self.ended = False
        self.too_large = False

    def add(self, message: Message) -> None:
        self.ended = not message.get("more_body", False)
        chunk = message.get("body", b"")
        self.too_large = self.too_large or len(self.data) + len(chunk) > self._limit
        if self.too_large:
            self.data = bytearray()
        else:
            self.data += chunk


class Capture:
    """Listens to one exchange. With ``limit`` 0 only the status is noted.

    Each message goes on at once, so a stream stays a stream.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._request = _Body(limit)
        self._response = _Body(limit)
        self._status = 0
        self._readable = False

    @property
    def succeeded(self) -> bool:
        """Whether the answer was of the kind 2xx."""
        return 200 <= self._status < 300

    @property
    def too_large(self) -> bool:
        return self._readable and (self._request.too_large or self._response.too_large)

    @property
    def complete(self) -> bool:
        """Whether both bodies are here whole and the answer is JSON that says a model's output."""
        whole = self._request.ended and self._response.ended and not self.too_large
        return whole and self._readable and self.succeeded

    def documents(self) -> tuple[Any, Any]:
        """Request and response. Raises ValueError where one is not JSON."""
        return json.loads(self._request.data), json.loads(self._response.data)

    def receiving(self, receive: Receive) -> Receive:
        if not self._limit:
            return receive

        async def wrapped() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                self._request.add(message)
            return message

        return wrapped

    def sending(self, send: Send) -> Send:
        async def wrapped(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._start(message)
            elif self._readable and message["type"] == "http.response.body":
                self._response.add(message)
            await send(message)

        return wrapped

    def _start(self, message: Message) -> None:
        self._status = message["status"]
        headers = {bytes(name).lower(): bytes(value).lower() for name, value in message.get("headers", ())}
        is_json = b"json" in headers.get(b"content-type", b"").partition(b";")[0]
        encoded = headers.get(b"content-encoding", b"identity") != b"identity"
        self._readable = bool(self._limit) and self.succeeded and is_json and not encoded
