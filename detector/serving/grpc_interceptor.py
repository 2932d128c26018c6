"""gRPC server interceptors that check the gate before a method runs and log what it answered.

    interceptor = new_interceptor(logger=..., gate=..., target=route("/shop.Model/Predict", "digits", "1"))
    server = grpc.server(pool, interceptors=[interceptor])

A method calls :func:`log` or :func:`respond` with its arrays, or ``extract`` reads request and response.
:func:`new_aio_interceptor` is for ``grpc.aio``. Start and close logger and gate with the server.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Unpack

from detector.contracts.errors import Unjudged
from detector.contracts.queries import OutputKind
from detector.serving import middleware
from detector.serving.bodies import tensor_array
from detector.serving.denial import denial_of, notice_of
from detector.serving.exchange import Exchange
from detector.serving.extractors import Extractor, Scored
from detector.serving.gate import Verdict
from detector.serving.middleware import SCOPE_KEY, ModelMiddleware
from detector.serving.rows import OptionalColumns
from detector.serving.targets import FindTarget, Scope, Target, route

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "kserve_messages",
    "kserve_method",
    "log",
    "new_aio_interceptor",
    "new_interceptor",
    "respond",
    "route",
    "specification",
    "verdict",
]

_KSERVE_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_exchange: ContextVar[Exchange | None] = ContextVar("weirguard_exchange", default=None)


def log(
    features: ArrayLike,
    outputs: ArrayLike,
    *,
    output_kind: OutputKind = "probabilities",
    **columns: Unpack[OptionalColumns],
) -> None:
    """Logs from within a method, as :func:`detector.serving.middleware.log` does from within an endpoint. In the thread
    or task of the call. Never raises."""
    middleware.log({SCOPE_KEY: _exchange.get()}, features, outputs, output_kind=output_kind, **columns)


def respond(
    features: ArrayLike,
    outputs: Any,
    *,
    output_kind: OutputKind = "probabilities",
    **columns: Unpack[OptionalColumns],
) -> Any:
    """Logs as :func:`log` does, and returns what to answer: :func:`detector.serving.middleware.respond`."""
    return middleware.respond({SCOPE_KEY: _exchange.get()}, features, outputs, output_kind=output_kind, **columns)


def specification(features: ArrayLike, requested: ArrayLike, offered: ArrayLike | None = None) -> ArrayLike:
    """Returns the specification by which to choose a model of a zoo:
    :func:`detector.serving.middleware.specification`."""
    return middleware.specification({SCOPE_KEY: _exchange.get()}, features, requested, offered)


def verdict() -> Verdict:
    """Returns the gate's verdict on the call of this thread or task."""
    return middleware.verdict({SCOPE_KEY: _exchange.get()})


def kserve_method(model_version: str = "1") -> FindTarget:
    """Returns the model that a request of the Open Inference Protocol names: of KServe, Triton, Seldon.

    ``model_version`` is used if the request names none. Only for servers that refuse an unknown name.
    """

    def find(scope: Scope) -> Target | None:
        message = scope.get("message")
        if scope["path"] != _KSERVE_METHOD or message is None:
            return None
        return Target(message.model_name, message.model_version or model_version)

    return find


def kserve_messages(extract: Extractor) -> Extractor:
    """Returns ``extract``, made by :func:`detector.serving.extractors.kserve_v2`, for messages instead of JSON."""

    def extract_messages(request: Any, response: Any) -> Scored | None:
        document = _document(request, "inputs", request.raw_input_contents)
        return extract(document, _document(response, "outputs", response.raw_output_contents))

    return extract_messages


_CONTENTS = {
    "BOOL": "bool",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint"),
    "INT64": "int64",
    "UINT64": "uint64",
    "FP32": "fp32",
    "FP64": "fp64",
}


def _document(message: Any, name: str, raw: Sequence[bytes]) -> dict[str, Any]:
    """Returns a message of the protocol as its JSON would be, with arrays for raw tensors."""
    tensors = []
    for at, tensor in enumerate(getattr(message, name)):
        if raw:
            data = tensor_array(tensor.datatype, raw[at])
        else:
            data = list(getattr(tensor.contents, f"{_CONTENTS.get(tensor.datatype, 'bytes')}_contents"))
        tensors.append({"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape), "data": data})
    parameters = {
        key: getattr(parameter, parameter.WhichOneof("parameter_choice"))
        for key, parameter in message.parameters.items()
    }
    return {name: tensors, "parameters": parameters}


@dataclass(frozen=True, slots=True)
class Messages:
    """Request and response of one call; ``rows``: how many rows it counts for if it cannot be read."""

    request: Any
    response: Any
    succeeded: bool
    too_large: bool = False

    def documents(self) -> tuple[Any, Any]:
        return self.request, self.response

    def rows(self) -> int:
        return max(map(_rows, (self.request, self.response)))


def _rows(message: Any) -> int:
    """Returns the first dimension of the largest tensor of the Open Inference Protocol; 1 for other messages."""
    tensors = [*getattr(message, "inputs", ()), *getattr(message, "outputs", ())]
    return max([1, *(int(tensor.shape[0]) for tensor in tensors if getattr(tensor, "shape", ()))])


class GrpcMiddleware(ModelMiddleware):
    """Guards the methods of a server of ``grpc``, the module.

    A refusal is RESOURCE_EXHAUSTED, or UNAVAILABLE if the gate is stale and set to refuse, with the headers of the HTTP
    answer as trailing metadata. Each message of a stream is checked. In an answering stream, each message without a log
    call before it is unjudged, ``stream``. The authenticated principal is the peer of mutual TLS.
    """

    def __init__(self, grpc: Any, **parts: Any) -> None:
        super().__init__(None, **parts)
        self._grpc = grpc

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        handler = continuation(details)
        return handler and self._guarded(handler, details)

    def _guarded(self, handler: Any, details: Any) -> Any:
        """Returns ``handler``, of any of the four kinds, with its method behind the gate."""
        kind = "_".join(
            "stream" if many else "unary" for many in (handler.request_streaming, handler.response_streaming)
        )
        guard = self._streaming if handler.response_streaming else self._answering
        method = guard(getattr(handler, kind), details, handler.request_streaming)
        make = getattr(self._grpc, f"{kind}_rpc_method_handler")
        return make(method, handler.request_deserializer, handler.response_serializer)

    def _answering(self, method: Any, details: Any, streamed: bool) -> Any:
        def answer(request: Any, context: Any) -> Any:
            exchange = self._begin(details, None if streamed else request, context)
            if exchange is None:
                return method(request, context)
            if not self._let_in(exchange, context):
                return None
            given = self._checked(exchange, request, context) if streamed else request
            with _current(exchange):
                response = method(given, context)
            if exchange.verdict.allowed:
                self._end(exchange, None if streamed else request, response, context)
            return response

        return answer

    def _streaming(self, method: Any, details: Any, streamed: bool) -> Any:
        def answers(request: Any, context: Any) -> Iterator[Any]:
            exchange = self._begin(details, None if streamed else request, context)
            if exchange is None:
                yield from method(request, context)
                return
            if not self._let_in(exchange, context):
                return
            responses = iter(method(self._checked(exchange, request, context) if streamed else request, context))
            while True:
                with _current(exchange):
                    response = next(responses, _ENDED)
                if response is _ENDED:
                    return
                self._streamed(exchange)
                yield response

        return answers

    def _checked(self, exchange: Exchange, requests: Any, context: Any) -> Iterator[Any]:
        for request in requests:
            if not self._check_again(exchange):
                self._let_in(exchange, context)
                return
            yield request

    def _let_in(self, exchange: Exchange, context: Any) -> bool:
        """Ends the call if it is refused, and returns whether it continues. gRPC's ``abort`` raises, except in a
        blocking method on a server of asyncio, where it returns."""
        if not exchange.verdict.allowed:
            code, text, metadata = self._refusal(exchange)
            context.set_trailing_metadata(metadata)
            context.abort(code, text)
        return exchange.verdict.allowed

    def _begin(self, details: Any, message: Any, context: Any) -> Exchange | None:
        """Returns the exchange of a call to a model, counted if it is refused."""
        try:
            exchange = self._open(_scope(details, message, context))
            if exchange is not None and (notice := notice_of(exchange.verdict)):
                context.set_trailing_metadata(tuple(notice))  # a method that sets its own replaces it
        except Exception as error:  # noqa: BLE001  no fault of the SDK may break the application
            self._fail("failures", "a call could not be read, and passed unchecked", error)
            return None
        if exchange is not None and not exchange.verdict.allowed:
            self._count_refusal(exchange)
        return exchange

    def _check_again(self, exchange: Exchange) -> bool:
        """Returns whether the next message of a stream may pass."""
        if exchange.check():
            return True
        self._count_refusal(exchange)
        return False

    def _end(self, exchange: Exchange, request: Any, response: Any, context: Any) -> None:
        """Accounts for a call that was answered; ``request`` is None for a stream."""
        try:
            answer = Messages(request, response, self._succeeded(context))
            if request is None:
                exchange.fault = Unjudged("stream", "a stream was answered without a log call")
            if answer.succeeded:
                self._read(exchange, answer)
                self._settle(exchange, answer)
        except Exception as error:  # noqa: BLE001  no fault of the SDK may break the application
            self._fail("failures", "the end of a call was not seen", error)

    def _succeeded(self, context: Any) -> bool:
        """Returns whether a method that raised nothing has set no error; some contexts of grpc.aio do not know."""
        return not hasattr(context, "code") or context.code() in (None, 0, self._grpc.StatusCode.OK)

    def _streamed(self, exchange: Exchange) -> None:
        """Logs or counts one message of an answering stream."""
        self.counters.add("logged" if exchange.logged else "unlogged")
        if not exchange.logged:
            exchange.unjudged({"stream": 1})
        exchange.logged = False

    def _refusal(self, exchange: Exchange) -> tuple[Any, str, tuple[tuple[str, str], ...]]:
        """Returns code, text and trailing metadata of a refusal."""
        status, headers, _ = denial_of(exchange.verdict)
        metadata = [(name, value) for name, value in headers if not name.startswith("content-")]
        milliseconds = [f"{value}000" for name, value in metadata if name == "retry-after"]
        codes = self._grpc.StatusCode
        code = codes.UNAVAILABLE if status == HTTPStatus.SERVICE_UNAVAILABLE else codes.RESOURCE_EXHAUSTED
        return code, status.phrase.lower(), (*metadata, ("grpc-retry-pushback-ms", milliseconds[0]))


class AsyncGrpcMiddleware(GrpcMiddleware):
    """The same for ``grpc.aio``, whose methods are coroutines, asynchronous generators, or blocking ones in threads."""

    async def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        handler = await continuation(details)
        return handler and self._guarded(handler, details)

    def _answering(self, method: Any, details: Any, streamed: bool) -> Any:
        if not inspect.iscoroutinefunction(method):
            return super()._answering(method, details, streamed)

        async def answer(request: Any, context: Any) -> Any:
            exchange = self._begin(details, None if streamed else request, context)
            if exchange is None:
                return await method(request, context)
            await self._let_in_async(exchange, context)
            given = self._checked_async(exchange, request, context) if streamed else request
            with _current(exchange):
                response = await method(given, context)
            self._end(exchange, None if streamed else request, response, context)
            return response

        return answer

    def _streaming(self, method: Any, details: Any, streamed: bool) -> Any:
        if inspect.iscoroutinefunction(method):  # it writes to the context, and what it writes is not seen
            return self._answering(method, details, streamed)
        if not inspect.isasyncgenfunction(method):
            return super()._streaming(method, details, streamed)

        async def answers(request: Any, context: Any) -> AsyncIterator[Any]:
            exchange = self._begin(details, None if streamed else request, context)
            if exchange is not None:
                await self._let_in_async(exchange, context)
                request = self._checked_async(exchange, request, context) if streamed else request
            responses = method(request, context)
            while True:
                with _current(exchange):
                    response = await anext(responses, _ENDED)
                if response is _ENDED:
                    return
                if exchange is not None:
                    self._streamed(exchange)
                yield response

        return answers

    async def _checked_async(self, exchange: Exchange, requests: Any, context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            if not self._check_again(exchange):
                await self._let_in_async(exchange, context)
            yield request

    async def _let_in_async(self, exchange: Exchange, context: Any) -> None:
        if not exchange.verdict.allowed:
            code, text, metadata = self._refusal(exchange)
            await context.abort(code, text, metadata)


_ENDED = object()


def new_interceptor(**parts: Any) -> Any:
    """Returns a ``grpc.ServerInterceptor``.

    ``parts``: ``logger``, ``gate``, ``target`` and ``identity`` as the ASGI middleware takes them, ``extract`` from the
    messages of a call. Its counters are those of a middleware.
    """
    import grpc

    return type("Interceptor", (GrpcMiddleware, grpc.ServerInterceptor), {})(grpc, **parts)


def new_aio_interceptor(**parts: Any) -> Any:
    """Returns a ``grpc.aio.ServerInterceptor``; see :func:`new_interceptor`."""
    import grpc
    import grpc.aio

    return type("AioInterceptor", (AsyncGrpcMiddleware, grpc.aio.ServerInterceptor), {})(grpc, **parts)


def _scope(details: Any, message: Any, context: Any) -> Scope:
    """Returns the call as ASGI would describe it, with its ``message``, unless a stream of them follows."""
    pairs = (
        (key.encode("latin-1", "replace"), value if isinstance(value, bytes) else value.encode("utf-8", "replace"))
        for key, value in details.invocation_metadata or ()
    )
    peers = context.peer_identities() or ()
    return {
        "path": details.method,
        "root_path": "",
        "headers": list(pairs),
        "message": message,
        "state": {"principal": next((peer.decode("utf-8", "replace") for peer in peers), None)},
    }


@contextmanager
def _current(exchange: Exchange | None) -> Iterator[None]:
    token = _exchange.set(exchange)
    try:
        yield
    finally:
        _exchange.reset(token)
