"""The gRPC side of the gate service: Envoy's ``envoy.service.auth.v3.Authorization``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from detector.contracts.errors import ConfigurationError
from detector.gateway.authorizer import Authorizer
from detector.runtime.sections import GateSettings
from detector.serving.denial import Denial, Notice

_SERVICE = "envoy.service.auth.v3.Authorization"
_OK, _UNAVAILABLE, _RESOURCE_EXHAUSTED = 0, 14, 8
"""Codes of google.rpc.Status."""

_FIELDS: Mapping[str, Mapping[str, tuple[int, str]]] = {
    "HeaderValue": {"key": (1, "string"), "value": (2, "string"), "raw_value": (3, "bytes")},
    "HeaderMap": {"headers": (1, "*HeaderValue")},
    "HeaderEntry": {"key": (1, "string"), "value": (2, "string")},
    "HttpRequest": {
        "method": (2, "string"),
        "headers": (3, "*HeaderEntry"),
        "path": (4, "string"),
        "header_map": (13, "HeaderMap"),
    },
    "Request": {"http": (2, "HttpRequest")},
    "AttributeContext": {"request": (4, "Request")},
    "CheckRequest": {"attributes": (1, "AttributeContext")},
    "Status": {"code": (1, "int32")},
    "HttpStatus": {"code": (1, "int32")},
    "HeaderValueOption": {"header": (1, "HeaderValue")},
    "DeniedHttpResponse": {"status": (1, "HttpStatus"), "headers": (2, "*HeaderValueOption"), "body": (3, "string")},
    "OkHttpResponse": {"response_headers_to_add": (6, "*HeaderValueOption")},
    "CheckResponse": {
        "status": (1, "Status"),
        "denied_response": (2, "DeniedHttpResponse"),
        "ok_response": (3, "OkHttpResponse"),
    },
}
"""What is read and written of Envoy's messages: number and type of each field, by message; * is a list. A map goes over
the wire as a list of entries, an enumeration as its number, and fields that are not here are skipped."""


@asynccontextmanager
async def answering(authorizer: Authorizer, settings: GateSettings) -> AsyncIterator[int]:
    """Serves at ``gate.grpc_port`` and yields the port. Raises ConfigurationError if it is taken, or without grpcio."""
    try:
        import grpc
        import grpc.aio

        messages = new_messages()
    except ImportError as error:
        raise ConfigurationError(
            f"gate.grpc_port needs the module {error.name}, which is not installed: pip install 'weirguard[grpc]'"
        ) from None
    server = grpc.aio.server()
    check = grpc.unary_unary_rpc_method_handler(
        Checks(authorizer, messages).check,
        messages["CheckRequest"].FromString,
        messages["CheckResponse"].SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {"Check": check}),))
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    where = f"{host}:{settings.grpc_port}"
    try:
        port = server.add_insecure_port(where)
    except RuntimeError:
        port = 0
    if not port:
        raise ConfigurationError(f"gate.host, gate.grpc_port: cannot listen on {where}")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


def new_messages() -> dict[str, Any]:
    """Returns the classes of the messages in ``_FIELDS``, by name."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="ext_authz.proto", package="weirguard", syntax="proto3")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            descriptor = message.field.add(name=field, number=number)
            descriptor.label = descriptor.LABEL_REPEATED if kind.startswith("*") else descriptor.LABEL_OPTIONAL
            if kind.strip("*") in _FIELDS:
                descriptor.type, descriptor.type_name = descriptor.TYPE_MESSAGE, f".weirguard.{kind.strip('*')}"
            else:
                descriptor.type = getattr(descriptor, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"weirguard.{name}")) for name in _FIELDS}


class Checks:
    """Answers Envoy's checks."""

    def __init__(self, authorizer: Authorizer, messages: Mapping[str, Any]) -> None:
        self._authorizer = authorizer
        self._messages = messages

    async def check(self, request: Any, _: Any) -> Any:
        http = request.attributes.request.http
        denial, notice = self._authorizer.check(http.method, http.path, _headers(http))
        if denial is None:
            allowed = self._messages["OkHttpResponse"](response_headers_to_add=self._options(notice))
            return self._messages["CheckResponse"](status=self._status(_OK), ok_response=allowed)
        away = denial.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        status = self._status(_UNAVAILABLE if away else _RESOURCE_EXHAUSTED)
        return self._messages["CheckResponse"](status=status, denied_response=self._denied(denial))

    def _status(self, code: int) -> Any:
        return self._messages["Status"](code=code)

    def _denied(self, denial: Denial) -> Any:
        return self._messages["DeniedHttpResponse"](
            status=self._messages["HttpStatus"](code=int(denial.status)),
            headers=self._options(denial.headers),
            body=denial.body.decode(),
        )

    def _options(self, headers: Notice) -> list[Any]:
        option, value = self._messages["HeaderValueOption"], self._messages["HeaderValue"]
        return [option(header=value(key=name, value=text)) for name, text in headers if name != "content-length"]


def _headers(http: Any) -> Iterator[tuple[str, str]]:
    """Yields the headers of the client, in either of the forms that Envoy uses."""
    for header in http.headers:
        yield header.key, header.value
    for header in http.header_map.headers:
        yield header.key, header.raw_value.decode("utf-8", "surrogateescape") or header.value
