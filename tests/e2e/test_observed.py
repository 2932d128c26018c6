"""What a gate must not act on changes no answer over HTTP: observed decisions of every rung, and void ones.

The observed ones are the detector's own: commands make accounts members of groups, and the ladder has a rule for each
size of a group.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

from detector.contracts.actions import ACTIONS, LEFT, NOTICE, make_action
from detector.contracts.codecs.records import decode, encode
from detector.contracts.findings import Action, Command, Decision, Graded
from detector.contracts.topics import partition_of
from tests.conftest import Broker
from tests.e2e.guarded import MODEL, GuardedModel, Reply, guarded_model
from tests.e2e.service import PARTITIONS, Service, running_service
from tests.serving.arrivals import LATER, until
from tests.serving.doubles import decision, record

RUNGS = [name for name in ACTIONS if name != "none"]
PARAMETERS: dict[str, dict[str, float | str]] = {"slow": {"queries_per_second": 0.001}, NOTICE: {LEFT: 20.0}}
ASKED = 3
CHANGING = [name for name in RUNGS if name not in ("tag", "spec_noise")]
"""The rungs that a caller notices at this endpoint, which chooses no model."""


def _ladder() -> str:
    """A rule for each size of a group: 1 is tagged, 2 slowed and so on."""
    rules = [
        {
            "name": name,
            "signals": ["group"],
            "group_size": size,
            "rungs": [{"action": name, "parameters": PARAMETERS.get(name, {})}],
        }
        for size, name in enumerate(RUNGS, start=1)
    ]
    return json.dumps(rules[::-1])


def _join(service: Service, account: str, size: int) -> None:
    command = Command(
        account, "join", time.time(), "group:g", MODEL, account, "a test", group="g", group_size=size, model_version="1"
    )
    _send(service, service.topics.commands, account.encode(), encode(command), account)


def _send(service: Service, topic: str, key: bytes, value: bytes | None, account: str) -> None:
    service.producer.send(topic, value, key, partition=partition_of(account, PARTITIONS)).get(timeout=10)


def _tell(service: Service, *decisions: Decision) -> None:
    for one in decisions:
        _send(service, service.topics.decisions, *record(one), one.principal)


def test_what_a_gate_must_not_act_on_changes_no_answer_over_http(broker: Broker, prefix: str, tmp_path: Path) -> None:
    settings = {"WEIRGUARD_POLICY__MODE": "observe", "WEIRGUARD_POLICY__LADDER": _ladder()}
    with (
        running_service(broker, prefix, tmp_path, **settings) as service,
        guarded_model(service.connection) as model,
    ):
        own = model.ask("honest")
        assert own[0] == 200
        _observed(service, model, own)
        _void(service, model, own)
        _enforced(service, model, own)


def _observed(service: Service, model: GuardedModel, own: Reply) -> None:
    """Each rung that the detector observes changes nothing, and is counted."""
    for size, name in enumerate(RUNGS, start=1):
        _join(service, f"observed {name}", size)
    assert until(lambda: model.gate.gauges()["decisions"] == len(RUNGS)), service.log_tail()
    found = service.read(service.topics.decisions, lambda records: len(records) >= len(RUNGS))
    decided = [decode(Decision, one.value) for one in found]
    assert {(one.principal, one.mode) for one in decided} == {(f"observed {name}", "observe") for name in RUNGS}
    for name in RUNGS:
        assert [model.ask(f"observed {name}") for _ in range(ASKED)] == [own] * ASKED
    counted = model.gate.snapshot()
    for name in RUNGS:
        would_have = ASKED - 1 if name == "slow" else ASKED  # the first of a bucket passes
        assert (name, counted[f"would_have_{ACTIONS[name].done}"]) == (name, would_have)
    assert {name: counted[ACTIONS[name].done] for name in RUNGS} == dict.fromkeys(RUNGS, 0)


def _void(service: Service, model: GuardedModel, own: Reply) -> None:
    """Neither does a decision that is expired, superseded, malformed or unknown to this gate."""
    before = model.gate.snapshot()
    for name in RUNGS:
        told = _of(name, f"void {name}")
        key, value = record(told)
        _tell(service, replace(told, expires_at=time.time() - 1))
        _tell(service, replace(told, principal=f"released {name}", epoch=(1, 2), action=Action("none")))
        _tell(service, replace(told, principal=f"released {name}"))
        _tell(service, replace(told, principal=f"elsewhere {name}", model="another"))
        for wrong in (value[:-9], value.replace(b'"enforce"', b'"insist"'), value.replace(MODEL.encode(), b"x"), b""):
            _send(service, service.topics.decisions, key, wrong, told.principal)
        _send(service, service.topics.decisions, b"no key", value, told.principal)
    later = Action("none", None, Graded("hologram", {}))
    _tell(service, replace(_of("refuse", "void later"), action=later))
    unreadable = before["unreadable"] + 5 * len(RUNGS)
    assert until(lambda: model.gate.snapshot()["unreadable"] == unreadable), model.gate.snapshot()
    assert until(lambda: model.gate.snapshot()["outdated"] == len(RUNGS))
    for name in (*RUNGS, "later"):
        for state in ("void", "released", "elsewhere"):
            assert model.ask(f"{state} {name}") == own
    after = model.gate.snapshot()
    done = [ACTIONS[name].done for name in RUNGS]
    assert {one: after[one] for one in done} == dict.fromkeys(done, 0)


def _enforced(service: Service, model: GuardedModel, own: Reply) -> None:
    """The same actions are obeyed when they are enforced, so the silence above is theirs."""
    _tell(service, *(_of(name, f"enforced {name}") for name in RUNGS))
    for name in CHANGING:
        assert until(lambda name=name: model.ask(f"enforced {name}") != own), name  # type: ignore[misc]
    for name in set(RUNGS) - set(CHANGING):
        assert until(lambda name=name: model.gate.snapshot()[ACTIONS[name].done] == 0)  # type: ignore[misc]
        assert model.ask(f"enforced {name}") == own
        assert model.gate.snapshot()[ACTIONS[name].done] > 0


def _of(name: str, principal: str) -> Decision:
    told = decision("refuse", principal=principal, expires_at=LATER)
    return replace(told, action=make_action(name, PARAMETERS.get(name, {})))
