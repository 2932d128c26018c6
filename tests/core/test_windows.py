"""The default mode's test against plain lists and scipy; and both modes' tests: any cut, and plain source, say the same
to the bit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from math import nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import shapiro

from detector.core.configuration import PradaConfig
from detector.core.signals.prada import WindowedPrada
from detector.core.signals.prada_published import PublishedPrada
from tests.core.distance_streams import KINDS, Distances, judge, stream

SMALL = PradaConfig(window=160, repeat_memory=128)
CONFIGURATIONS = {
    "default": PradaConfig(),
    "small": SMALL,
    "every distance": PradaConfig(window=128, check_every=1, consecutive_checks=1),
    "rarely": PradaConfig(window=128, check_every=150, consecutive_checks=1),
}
TESTS: dict[str, Callable[[], WindowedPrada | PublishedPrada]] = {
    "default": lambda: WindowedPrada(SMALL),
    "compatible": lambda: PublishedPrada(PradaConfig(delta=0.95)),
}


class _Principal:
    """One principal's test as lists."""

    def __init__(self, config: PradaConfig) -> None:
        self.config = config
        self.distances: list[float] = []
        self.inside: list[bytes] = []
        self.repeats, self.below, self.w, self.constant, self.alarms = 0, 0, nan, nan, 0

    def query(self, features: NDArray[np.float32], distance: float, admitted: bool) -> None:
        if not np.isfinite(distance):
            return
        known = distance == 0.0
        if not admitted and distance > 0.0:
            known = features.tobytes() in self.inside[-self.config.repeat_memory :]
            self.inside += [] if known else [features.tobytes()]
        if known:
            self.repeats += 1
            return
        self.distances.append(distance)
        if len(self.distances) > 100 and len(self.distances) % self.config.check_every == 0:
            self._test(np.array(self.distances[-self.config.window :]))

    def _test(self, window: NDArray[np.float64]) -> None:
        kept = window[np.abs(window - window.mean()) < 3.0 * window.std()]
        equal = np.ptp(window) == 0.0
        if len(kept) <= 100 and not equal:
            return
        constant = np.abs(window - np.sort(window)[(len(window) - 1) // 2]) <= 1e-9 * np.median(window)
        self.constant = float(constant.mean())
        self.w = nan if equal or np.ptp(kept) <= 1e-9 * kept.max() else float(shapiro(kept).statistic)
        self.below = self.below + 1 if self.w < self.config.delta else 0
        self.alarms += self.below == self.config.consecutive_checks


def _by_lists(queries: Distances, config: PradaConfig) -> dict[str, NDArray[np.float64]]:
    principals = [_Principal(config) for _ in range(int(queries.who.max()) + 1)]
    said: dict[str, list[float]] = {name: [] for name in ("w", "alarm", "risen", "constant_steps", "repeats")}
    for row, who in enumerate(queries.who.tolist()):
        own = principals[who]
        before = own.alarms
        own.query(queries.features[row], float(queries.distance[row]), bool(queries.admitted[row]))
        said["w"].append(own.w)
        said["alarm"].append(own.below >= config.consecutive_checks)
        said["risen"].append(own.alarms - before)
        said["constant_steps"].append(own.constant)
        said["repeats"].append(own.repeats)
    return {name: np.array(values, float) for name, values in said.items()}


def _assert_same_bits(one: dict[str, NDArray[np.float64]], other: dict[str, NDArray[np.float64]]) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values.view(np.int64), other[name].view(np.int64), name)


@pytest.mark.parametrize("kind", ["honest", "thief", "outliers"])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_what_is_said_is_what_lists_and_scipy_say(name: str, kind: str) -> None:
    config, queries = CONFIGURATIONS[name], stream(kind, 1, 2400)
    found, expected = judge(WindowedPrada(config), queries, [700, 1500]), _by_lists(queries, config)
    assert found.keys() == expected.keys()
    for column, values in expected.items():
        np.testing.assert_allclose(found[column], values, rtol=0, atol=1e-9, err_msg=column)
    assert (expected["risen"].sum() > 0) == (kind == "thief")
    assert expected["repeats"].max() > 50 and np.isfinite(expected["w"]).any()


@pytest.mark.parametrize("name", TESTS)
@settings(max_examples=12, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 10_000),
    cuts=st.lists(st.integers(1, 899), max_size=30, unique=True),
)
def test_any_cut_says_the_same_to_the_bit(name: str, kind: str, seed: int, cuts: list[int]) -> None:
    queries = stream(kind, seed, 900)
    _assert_same_bits(judge(TESTS[name](), queries), judge(TESTS[name](), queries, sorted(cuts)))


@pytest.mark.parametrize("name", TESTS)
@pytest.mark.parametrize("kind", KINDS)
def test_after_recovery_the_same_is_said_to_the_bit(name: str, kind: str) -> None:
    queries, slots = stream(kind, 4, 1200), np.arange(3)
    whole = judge(TESTS[name](), queries)
    for cut in (5, 333, 801):
        before, after = TESTS[name](), TESTS[name]()
        rows = queries.rows(slice(0, cut))
        tested = before.judge(rows, queries.distance[:cut].copy(), queries.admitted[:cut].copy())
        after.apply(rows.slots, rows.pools, tested.delta)
        loaded = TESTS[name]()
        loaded.apply(slots, slots, before.dump(slots, slots))
        rest = queries.part(slice(cut, None))
        expected = {column: values[cut:] for column, values in whole.items()}
        for test in (before, after, loaded):
            _assert_same_bits(judge(test, rest), expected)


@pytest.mark.parametrize("name", TESTS)
def test_what_another_has_judged_can_be_applied_at_any_time(name: str) -> None:
    queries, follower, leader = stream("thief", 4, 1200), TESTS[name](), TESTS[name]()
    judge(follower, queries.part(slice(0, 500)))
    judge(leader, queries.part(slice(0, 500)))
    for start in (500, 503, 700):
        part = queries.part(slice(start, {500: 503, 503: 700, 700: 800}[start]))
        rows = part.rows(slice(None))
        follower.apply(rows.slots, rows.pools, leader.judge(rows, part.distance, part.admitted).delta)
    rest = queries.part(slice(800, 1200))
    _assert_same_bits(judge(follower, rest), judge(leader, rest))


@pytest.mark.parametrize("name", TESTS)
def test_a_slot_that_was_dropped_begins_anew(name: str) -> None:
    test, queries, slots = TESTS[name](), stream("thief", 5, 900), np.arange(3)
    fresh, first, own = test.nbytes(slots), judge(test, queries), queries.who == 1
    test.evict(np.array([1]), np.array([1]))
    again = judge(test, queries.part(own))
    _assert_same_bits(again, {column: values[own] for column, values in first.items()})
    untouched = TESTS[name]()
    judge(untouched, queries)
    others = queries.part(~own)
    _assert_same_bits(judge(test, others), judge(untouched, others))
    test.evict(slots, slots)
    assert test.nbytes(slots) == fresh


def fingerprint() -> str:
    """The results of both tests on small streams, as hexadecimal digits."""
    said = [judge(make(), stream(kind, 6, 500, principals=2)) for make in TESTS.values() for kind in KINDS]
    return "".join(values[::7].tobytes().hex() for part in said for values in part.values())


def test_plain_source_says_the_same_to_the_bit() -> None:
    source = "from tests.core.test_windows import fingerprint; print(fingerprint())"
    plain = os.environ | {"WEIRGUARD_COMPILED": "off"}
    done = subprocess.run([sys.executable, "-c", source], env=plain, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == fingerprint()
