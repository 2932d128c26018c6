"""Websockets to a model: the gate is checked at the start and before each message, and answers are counted."""

from __future__ import annotations

from collections.abc import Callable

from detector.serving.capture import Message, Receive, Send
from detector.serving.exchange import Exchange

_POLICY_VIOLATION = 1008


class Conversation:
    """A websocket, over which a caller may send any number of queries.

    A message to the application that the gate refuses ends the conversation: both sides see it closed. Each message of
    the application is an answer; one without a log call before it counts as unjudged, ``websocket``.
    """

    def __init__(self, exchange: Exchange, refused: Callable[[Exchange], None]) -> None:
        self._exchange = exchange
        self._refused = refused
        self._closed = False

    def receiving(self, receive: Receive, send: Send) -> Receive:
        async def wrapped() -> Message:
            message = await receive()
            if message.get("type") == "websocket.receive" and not self._allowed():
                self._refused(self._exchange)
                self._closed = True
                await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
                return {"type": "websocket.disconnect", "code": _POLICY_VIOLATION}
            return message

        return wrapped

    def sending(self, send: Send) -> Send:
        async def wrapped(message: Message) -> None:
            if self._closed:
                return
            try:
                await send(message)
            finally:
                if message.get("type") == "websocket.send":
                    self._account()

        return wrapped

    def _allowed(self) -> bool:
        exchange = self._exchange
        exchange.verdict = exchange.gate.check(exchange.target.model, exchange.principal)
        return exchange.verdict.allowed

    def _account(self) -> None:
        if not self._exchange.logged:
            self._exchange.unjudged({"websocket": 1})
        self._exchange.logged = False


async def refuse(receive: Receive, send: Send) -> None:
    """Closes the websocket in answer to its request, which the caller sees as a refused handshake."""
    await receive()
    await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
