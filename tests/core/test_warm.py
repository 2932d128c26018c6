"""After ``warm_all`` no loop is left to compile."""

from __future__ import annotations

from importlib import import_module
from pkgutil import walk_packages
from typing import Any

import numpy as np
import pytest

import detector.core
import detector.groups
from detector.core.configuration import EngineConfig
from detector.core.engine import Engine
from detector.core.loops.compiled import is_off, loops
from detector.core.loops.machine_code import reached
from detector.core.warm import warm_all
from detector.groups.warm import warm_groups
from tests.core.profiles import profile
from tests.core.streams import batch, clustered, linear_outputs

pytestmark = pytest.mark.skipif(is_off(), reason="nothing is compiled")


def test_every_loop_is_called() -> None:
    for package in (detector.core, detector.groups):
        for found in walk_packages(package.__path__, f"{package.__name__}."):
            import_module(found.name)
    warm_all()
    warm_groups()
    ours = [loop for loop in loops() if loop.py_func.__module__.startswith("detector.")]
    called = reached(loop.py_func for loop in ours if loop.signatures)
    assert reached(loop.py_func for loop in ours).keys() == called.keys()


@pytest.mark.parametrize("dimension", [1, 70])
def test_other_traffic_compiles_nothing_more(dimension: int) -> None:
    warm_all()
    before = {loop: loop.signatures for loop in loops()}
    rows = clustered(np.random.default_rng(3), 300, dimension)
    outputs = linear_outputs(rows, 3)
    who = [f"p{at % 5}" for at in range(300)]
    for wired in (rows, outputs):  # as decoded from a packed record
        wired.flags.writeable = False
    for config in (EngineConfig(), EngineConfig(mode="compatible"), EngineConfig(profiles=(profile(rows),))):
        engine, successor = Engine(config), Engine(config)
        labels: dict[str, Any] = {"kind": "label", "outputs": outputs[:, :1].round()}
        for given in ({"kind": "probabilities", "outputs": outputs}, {**labels, "hardness": rows[:, 0]}, labels):
            successor.absorb(engine.observe([batch(rows, who, **given)]).sections)
        successor.load(engine.dump(engine.keys()[:2]))
        successor.clear("credit", "p0")
    assert {loop: loop.signatures for loop in before} == before
