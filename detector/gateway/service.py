"""Runs the gate service: one process that listens until it is stopped."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import structlog
from aiohttp import web

from detector.contracts.errors import ConfigurationError
from detector.gateway.authorizer import Authorizer, new_authorizer
from detector.gateway.grpc_service import answering
from detector.gateway.http_service import HttpService
from detector.runtime.sections import GateSettings
from detector.runtime.settings import Settings

_END_SECONDS = 2.0
_HEADER_BYTES = 65_536
"""More than a proxy lets through: what it passed must not fail here."""
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
