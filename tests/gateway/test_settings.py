"""What the settings make of the gate service."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from pydantic import ValidationError

from detector.contracts.errors import ConfigurationError
from detector.gateway.authorizer import new_authorizer
from detector.gateway.service import listening
from detector.runtime.sections import GateSettings
from detector.runtime.settings import Settings
from tests.gateway.stage import fed_authorizer
from tests.serving.doubles import FedGate


@pytest.mark.parametrize(
    ("gate", "named"),
    [
        ({"principal": ["bearer"]}, "gate.routes"),
        ({"routes": {"/predict": "digits"}}, "gate.principal"),
    ],
)
def test_a_service_that_would_not_know_the_model_or_the_principal_is_refused(gate: Any, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        new_authorizer(Settings(gate=gate))


@pytest.mark.parametrize("source", ["header", "header:", "apikey", "api-key:a b", "bearer:x", "*"])
def test_a_source_of_principals_that_there_is_not_is_refused(source: str) -> None:
    with pytest.raises(ValidationError):
        GateSettings(principal=(source,))


def test_a_port_that_is_taken_is_named() -> None:
    async def listen(port: int) -> None:
        async with listening(fed_authorizer(FedGate()), GateSettings(port=port)):
            pass

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigurationError, match=r"gate\.port"):
        asyncio.run(listen(taken.getsockname()[1]))
