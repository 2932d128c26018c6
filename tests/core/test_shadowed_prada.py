"""With a profile the growing sets are searched through shadows: what `prada` says is the same to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from detector.contracts.queries import QueryBatch
from detector.core import history
from detector.core.engine import Engine, EngineConfig, Limits
from tests.core.profiles import profile
from tests.core.streams import KINDS, Seen, batch, linear_outputs, observe, rows_between

DIMENSION, ROWS, CLASSES = 8, 600, 5
REFERENCE = KINDS["clustered"](np.random.default_rng(4), 300, DIMENSION)
LIMITS = {"long": Limits(), "short": Limits(history_queries=60), "few principals": Limits(principals=4)}


def _pieces(seed: int) -> list[QueryBatch]:
    """Some principals who ask much and some who ask little, of whatever kind, in several pieces."""
    generator = np.random.default_rng(seed)
    pieces = []
    for kind in (*KINDS, "clustered"):
        features = KINDS[kind](generator, ROWS // 4, DIMENSION)
        who = [f"p{number}" for number in generator.zipf(1.7, len(features)) % 9]
        outputs = linear_outputs(features, CLASSES)
        pieces.append(batch(features, who, outputs=outputs, kind="probabilities"))
    return pieces


def _said(limits: Limits, pieces: list[QueryBatch], cuts: list[int], *, profiled: bool) -> Seen:
    profiles = (profile(REFERENCE, CLASSES),) if profiled else ()
    return observe(Engine(EngineConfig(limits=limits, profiles=profiles)), pieces, cuts)


@pytest.mark.parametrize("many", [1, 300])
@pytest.mark.parametrize("limits", LIMITS)
def test_all_signals_are_the_same(many: int, limits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever shadows begin, however long they are kept, and in whatever batches queries come."""
    for seed in range(3):
        pieces = _pieces(seed)
        monkeypatch.setattr(history, "MANY", 1 << 40)
        without = _said(LIMITS[limits], pieces, [], profiled=True)
        monkeypatch.setattr(history, "MANY", many)
        cuts = np.random.default_rng(seed).choice(np.arange(1, len(without.index)), 12, replace=False)
        without.assert_equals(_said(LIMITS[limits], pieces, sorted(cuts.tolist()), profiled=True))


@pytest.mark.parametrize("known", [0, 150])
def test_a_log_of_no_profile_may_hold_what_shadows_cannot(known: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features that no profile brought in come before somebody asks here, or after."""
    features = REFERENCE.copy()
    features[known + 10] = 5e18
    outputs = linear_outputs(REFERENCE, CLASSES)
    pieces = [batch(features, ["ann"] * len(features), outputs=outputs, kind="probabilities")]
    said = []
    for many in (1, 1 << 40):
        monkeypatch.setattr(history, "MANY", many)
        logging, following = Engine(EngineConfig()), Engine(EngineConfig(profiles=(profile(REFERENCE, CLASSES),)))
        if known:
            following.absorb(logging.observe(rows_between(pieces, 0, known)).sections)
            following.observe(rows_between(pieces, 200, 230))
        following.absorb(logging.observe(rows_between(pieces, known, 200)).sections)
        said.append(following.observe(rows_between(pieces, 230, 300)).signals)
    for name, values in said[0].items():
        np.testing.assert_array_equal(values, said[1][name], err_msg=name)
    assert np.isfinite(said[0]["suspicion.near_duplicate"]).all()


@pytest.mark.parametrize("limits", ["long", "short"])
def test_prada_is_the_same_without_a_profile(limits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody is evicted: with a profile others stay."""
    monkeypatch.setattr(history, "MANY", 1)
    for seed in range(3):
        pieces = _pieces(seed)
        alone, shadowed = (_said(LIMITS[limits], pieces, [], profiled=profiled) for profiled in (False, True))
        for name in ("prada", "prada.constant_steps", "prada.repeats"):
            np.testing.assert_array_equal(shadowed.signals[name], alone.signals[name])
        assert np.isfinite(alone.signals["prada"]).sum() > 100
