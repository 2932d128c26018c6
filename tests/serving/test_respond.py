"""What a caller gets from an application that responds, for every rung, mode and state of a decision."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from detector.contracts.actions import ACTIONS, make_action
from detector.contracts.codecs import decision_key, encode
from detector.contracts.errors import InvalidRecord
from detector.contracts.findings import Action, Cause, Decision, Graded
from detector.serving import Gate, Header, Identity, Responder
from detector.serving import asgi as weirguard
from detector.serving.asgi import WeirguardMiddleware, route
from detector.serving.responses import RESPONSES
from tests.serving.doubles import Clock, FedGate, KeepingLogger, decision

KEY = b"0123456789abcdef"
ROWS = [[number / 10, 0.2] for number in range(8)]
OUTPUTS = [[0.4131, 0.4069, 0.1, 0.05, 0.03]] * 7 + [[0.05, 0.1131, 0.1069, 0.03, 0.7]]
GRADED = [name for name, kind in ACTIONS.items() if kind.is_response and name != "spec_noise"]


async def endpoint(request: Request) -> JSONResponse:
    rows = np.array((await request.json())["instances"], np.float32)
    outputs = np.array(OUTPUTS[: len(rows)], np.float32)
    answer = weirguard.respond(request.scope, rows, outputs, organisation="acme")
    assert (outputs == np.array(OUTPUTS[: len(rows)], np.float32)).all()
    return JSONResponse({"predictions": answer.tolist()})


class Service:
    """The endpoint behind the middleware; ``predict`` returns what the thief gets, None for a refusal."""

    def __init__(self, *decisions: Decision, clock: Clock | None = None, gate: Gate | None = None) -> None:
        self.logger = KeepingLogger()
        self.gate = gate or FedGate(decisions, clock, responder=Responder(KEY))
        self._app = WeirguardMiddleware(
            Starlette(routes=[Route("/predict", endpoint, methods=["POST"])]),
            logger=self.logger,
            gate=self.gate,
            target=route("/predict", "digits", "1"),
            identity=Identity([Header("x-account")]),
        )

    def predict(self, rows: list[list[float]] = ROWS, principal: str = "thief") -> Any:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://model") as client:
                return await client.post("/predict", json={"instances": rows}, headers={"x-account": principal})

        answer = asyncio.run(send())
        return answer.json()["predictions"] if answer.status_code == 200 else None

    @property
    def logged(self) -> tuple[Any, list[str]]:
        """Outputs and served modes in the log."""
        (kept,) = self.logger.kept()
        return kept.outputs.tolist(), kept.columns.get("served_mode", [""] * kept.queries)

    def counted(self, name: str) -> int:
        return self.gate.counters.snapshot()[name]


def graded(name: str, mode: Any = "enforce", **parameters: Any) -> Decision:
    return replace(decision("refuse", mode=mode), action=make_action(name, parameters))


OWN = Service().predict()


@pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES)
def test_every_response_changes_the_answer_and_not_the_log(response: Any) -> None:
    service = Service(graded(response.action, response=response.name))
    got = service.predict()
    assert got != OWN and np.shape(got) == (8, 5)
    assert np.allclose(np.sum(got, axis=1), 1, atol=1e-6)
    outputs, modes = service.logged
    assert np.allclose(outputs, OUTPUTS) and modes == [response.name] * 8
    assert service.gate.responses.snapshot() == {response.name: 8} and service.counted("unserved") == 0
    assert Service(graded(response.action, response=response.name)).predict() == got
    assert service.predict(principal="somebody else") == OWN


@pytest.mark.parametrize("name", [name for name in ACTIONS if name != "none"])
def test_a_decision_that_observes_changes_no_answer(name: str) -> None:
    parameters = {"queries_per_second": 1.0} if name == "slow" else {}
    service = Service(graded(name, "observe", **parameters))
    for _ in range(3):
        assert service.predict() == OWN
    assert {row for rows in service.logger.kept() for row in rows.columns.get("served_mode", [])} == set()
    assert service.counted(f"would_have_{ACTIONS[name].done}") == (2 if name == "slow" else 3)
    assert service.gate.responses.snapshot() == {}


@pytest.mark.parametrize("name", GRADED)
def test_a_decision_that_is_over_changes_no_answer(name: str) -> None:
    clock = Clock(100.0)
    service = Service(replace(graded(name), expires_at=200.0), clock=clock)
    assert service.predict() != OWN
    clock.now = 200.0
    assert service.predict() == OWN
    released = decision("none", epoch=(1, 2))
    assert Service(graded(name), released).predict() == OWN
    assert Service(released, graded(name)).predict() == OWN  # the older one came last
    assert Service(graded(name), decision("none", model="*", principal="*")).predict() == OWN


BROKEN: dict[str, Mapping[str, Any]] = {
    "no name": {"parameters": {}},
    "a name that is none": {"name": "*"},
    "a parameter that is a list": {"name": "round", "parameters": {"digits": [2]}},
    "parameters that are none": {"name": "round", "parameters": 3},
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_malformed_decision_changes_no_answer(case: str) -> None:
    service = Service()
    document = json.loads(encode(graded("round")))
    document["action"]["graded"] = BROKEN[case]
    with pytest.raises(InvalidRecord, match=r"structure|action"):
        service.gate._table.apply(decision_key("digits", "thief"), json.dumps(document).encode())
    assert service.predict() == OWN


@pytest.mark.parametrize(
    "unknown",
    [Graded("of a later version"), Graded("perturb", {"response": "later"}), Graded("round", {"digits": 99.0})],
)
def test_an_unknown_action_changes_no_answer(unknown: Graded) -> None:
    later = replace(decision("refuse"), action=Action("none", None, unknown))
    assert Service(later).predict() == OWN


def test_a_gate_that_knows_no_current_decisions_changes_no_answer() -> None:
    clock = Clock(100.0)
    service = Service(graded("label_only"), clock=clock)
    clock.now = 170.0
    assert service.predict() == OWN and service.counted("stale_allowed") == 1


def test_an_application_without_a_responder_slows_instead() -> None:
    service = Service(gate=FedGate([graded("label_only")]))
    assert service.predict() == OWN
    assert service.predict() is None and service.counted("slowed") == 1


def test_members_of_a_group_share_their_noise() -> None:
    def of(principal: str, *groups: str) -> Decision:
        causes = tuple(Cause(group, f"group:{group}", 900.0) for group in groups)
        return replace(graded("perturb", response="gaussian"), principal=principal, causes=causes)

    service = Service(of("one", "b", "a"), of("two", "a"), of("three"), of("four"))
    one, two, three, four = (service.predict(principal=name) for name in ("one", "two", "three", "four"))
    assert one == two != three != four


def test_a_row_gets_the_same_noise_alone_and_among_others() -> None:
    service = Service(graded("perturb", response="gaussian"))
    assert np.allclose(service.predict(ROWS[:1]), service.predict()[:1])


def test_labels_and_scores_are_served_as_they_are_and_counted() -> None:
    gate = FedGate([graded("perturb")], responder=Responder(KEY))
    verdict = gate.check("digits", "thief")
    assert gate.answer(verdict, "digits", "thief", ROWS[:2], ["cat", "dog"], output_kind="label") == (
        ["cat", "dog"],
        "",
    )
    assert gate.answer(verdict, "digits", "thief", ROWS[:2], [3.0, 9.0], output_kind="score").outputs == [3.0, 9.0]
    assert gate.counters.snapshot()["unserved"] == 4


def test_a_specification_is_noisy_where_the_decision_says_so() -> None:
    gate = FedGate([graded("spec_noise", scale=0.1)], responder=Responder(KEY))
    scope: dict[str, Any] = {}
    service = Service(gate=gate)
    assert weirguard.specification(scope, ROWS[0], [0.9, 20.0]) == [0.9, 20.0]
    exchange = service._app._open({"type": "http", "path": "/predict", "headers": [(b"x-account", b"thief")]})
    scope["weirguard"] = exchange
    noisy = np.asarray(weirguard.specification(scope, ROWS[0], [0.9, 20.0]))
    assert noisy.shape == (1, 2) and not np.allclose(noisy, [[0.9, 20.0]])
    assert (noisy == weirguard.specification(scope, ROWS[0], [0.9, 20.0])).all()
    assert (noisy != weirguard.specification(scope, ROWS[1], [0.9, 20.0])).all()
    assert weirguard.respond(scope, ROWS, OUTPUTS) == OUTPUTS
    assert service.logged[1] == ["spec_noise"] * 8


def test_without_the_middleware_the_model_answers() -> None:
    assert weirguard.respond({}, ROWS, OUTPUTS) is OUTPUTS
