"""Websockets to a model: the gate is asked at the start and before each message, and answers are counted."""

from __future__ import annotations

from collections.abc import Callable

from detector.serving.capture import Message, Receive, Send
from detector.serving.exchange import Exchange

_POLICY_VIOLATION = 1008


class Conversation:
    """Over one websocket a caller may ask any number of times.

    A message to the application that the gate refuses ends the conversation: both sides see it closed.
    What the application sends is an answer; one before which the endpoint logged nothing counts as unjudged,
    ``websocket``.
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
    """Answer the request for a websocket by closing it, which the caller sees as a refused handshake."""
    await receive()
    await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
