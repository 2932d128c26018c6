"""Comparing a row with the reference gives the same bits among any rows, compiled or not."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.core.loops.compiled import SWITCH
from detector.core.reference.reference import ReferenceIndex
from tests.core.reference_bits import Said, compared, everything, examples, measured

COUNT = 20
CUTS = st.lists(st.integers(1, 8 * COUNT - 1), max_size=9, unique=True).map(sorted)
EXAMPLES = {dimension: examples(dimension, COUNT) for dimension in (3, 31, 64, 90)}


def _assert_same(one: Said, other: Said) -> None:
    assert one.keys() == other.keys()
    for name, bits in one.items():
        np.testing.assert_array_equal(bits, other[name], err_msg=name)


@pytest.mark.parametrize("dimension", EXAMPLES)
@settings(max_examples=15, deadline=None)
@given(cuts=CUTS)
def test_a_row_is_compared_as_it_would_be_among_any_others(dimension: int, cuts: list[int]) -> None:
    reference, rows = EXAMPLES[dimension]
    index = ReferenceIndex(reference)
    parts = [compared(index, part) for part in np.split(rows, cuts)]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    _assert_same(compared(index, rows), joined)


@pytest.mark.parametrize("dimension", [3, 90])
@settings(max_examples=4, deadline=None)
@given(cuts=CUTS)
def test_every_measure_says_the_same_however_a_stream_is_cut(dimension: int, cuts: list[int]) -> None:
    reference, rows = EXAMPLES[dimension]
    _assert_same(measured(reference, rows, []), measured(reference, rows, cuts))


def test_uncompiled_it_says_the_same() -> None:
    program = [sys.executable, "-W", "error", "-m", "tests.core.reference_bits"]
    done = subprocess.run(program, env={**os.environ, SWITCH: "off"}, capture_output=True, text=True, check=True)
    plain = dict(line.split(": ") for line in done.stdout.splitlines())
    assert plain == {name: part.tobytes().hex() for name, part in everything().items()}
