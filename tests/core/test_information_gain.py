"""``information_gain`` equals one computed from lists of each principal's queries; cuts, restarts and merging change
nothing."""

from __future__ import annotations

import numpy as np
import pytest

from detector.contracts.queries import QueryBatch
from detector.core.engine import EngineConfig, Limits
from detector.core.exposure import BUCKETS, TreeProbe, Validation, hash_pairs, smallest_of
from detector.core.signals.base import Arrays, Delta
from detector.core.signals.meters import InformationGain
from detector.core.state.arrays import Sections, unpack
from tests.core.exposures import Queries, asked, engine, interleaved, profile, stream, validation
from tests.core.streams import observe

NAME = "information_gain"
DUE = (20, 160)
CUTS = [1, 19, 20, 21, 150, 151, 400, 640]


def _exposure(own: Validation, queries: Queries, count: int) -> float:
    """What a tree knows that learned from the first ``count`` of ``queries``."""
    examination = TreeProbe(own.levels.sketch(own.features[:, own.levels.columns]), own.labels)
    sketches = own.levels.sketch(queries.features[:count, own.levels.columns])
    kept = smallest_of(hash_pairs(sketches, queries.labels[:count], own.tag), np.zeros(count, np.int64))
    return examination.exposure(sketches[kept], queries.labels[kept])


def _obvious(piece: QueryBatch) -> list[float]:
    """The exposure after each row: refitted from a dictionary of the principal's queries."""
    own = validation()
    known = own.levels.sketch(own.features[:, own.levels.columns])
    examination = TreeProbe(known, own.labels)
    asked_by: dict[int, list[int]] = {}
    standing: dict[int, float] = {}
    out = []
    for row, who in enumerate(piece.principal_index.tolist()):
        rows = asked_by.setdefault(who, [])
        rows.append(row)
        if len(rows) in DUE:
            sketches = own.levels.sketch(piece.features[rows][:, own.levels.columns])
            labels = piece.outputs[rows, 0].astype(np.int64)
            kept: dict[int, tuple[int, int]] = {}
            for at, number in enumerate(hash_pairs(sketches, labels, own.tag).tolist()):
                cell = number % BUCKETS
                kept[cell] = min(kept.get(cell, (1 << 64, 0)), (number, at))
            chosen = [kept[cell][1] for cell in sorted(kept)]
            standing[who] = examination.exposure(sketches[chosen], labels[chosen])
        out.append(standing.get(who, np.nan))
    return out


def test_it_says_what_lists_say() -> None:
    piece = interleaved(11, 900, 4)
    expected = _obvious(piece)
    seen = observe(engine(profile()), [piece], CUTS)
    np.testing.assert_array_equal(seen.signals[NAME], expected)
    assert len(set(expected)) > 8 and np.nanmax(expected) > 60


@pytest.mark.parametrize("limits", [Limits(), Limits(history_queries=20), Limits(principals=4)])
def test_any_cut_gives_the_same(limits: Limits) -> None:
    piece = interleaved(12, 700, 6)
    whole = observe(engine(profile(), limits), [piece])
    whole.assert_equals(observe(engine(profile(), limits), [piece], CUTS))


def test_it_accuses_nobody() -> None:
    piece = interleaved(13, 700, 2)
    seen, plain = observe(engine(profile()), [piece]), observe(engine(), [piece])
    assert np.nanmax(seen.signals[NAME]) > 60
    assert not seen.flagged.any() and not any(finding[1] == NAME for finding in seen.findings)
    assert np.isnan(plain.signals[NAME]).all()


def test_the_log_alone_brings_it_back() -> None:
    live, recovered = engine(profile()), engine(profile())
    for sections in observe(live, [interleaved(14, 500, 5)], [7, 99, 250]).sections:
        recovered.absorb(sections)
    later = interleaved(15, 500, 5)
    observe(live, [later], [100]).assert_equals(observe(recovered, [later]))


def test_dump_and_load_bring_it_back() -> None:
    live, recovered = engine(profile()), engine(profile())
    observe(live, [interleaved(14, 500, 5)])
    for key in live.keys():
        recovered.load(live.dump([key]))
    later = interleaved(15, 500, 5)
    observe(live, [later], [100]).assert_equals(observe(recovered, [later]))


def test_another_validation_set_begins_anew() -> None:
    live, recovered = engine(profile()), engine(profile(validation(seed=77)))
    before, later = asked(16, 90), asked(17, 300)
    for sections in observe(live, [stream(before, ["ann"] * 90)]).sections:
        recovered.absorb(sections)
    values = observe(recovered, [stream(later, ["ann"] * 300)], [100]).signals[NAME]
    assert np.isnan(values[:69]).all() and np.isfinite(values[69:]).all()
    fresh = engine(profile(validation(seed=77)))
    observe(fresh, [stream(later, ["ann"] * 300)])
    expected, kept = _state(fresh.dump(fresh.keys())), _state(recovered.dump(recovered.keys()))
    for name in ("pair_hash", "pair_sketch", "pair_label"):
        np.testing.assert_array_equal(kept[name], expected[name], err_msg=name)
    assert values[69] == _exposure(validation(seed=77), later, 70)


def test_without_anything_to_know_it_is_silent() -> None:
    rows = asked(18, 100)
    one = Validation.of(rows.features, np.ones(100, np.int64))
    assert np.isnan(observe(engine(profile(one)), [stream(rows, ["ann"] * 100)]).signals[NAME]).all()


def test_rows_of_another_dimension_are_none_of_its() -> None:
    narrow = asked(18, 100)
    own = Validation.of(narrow.features[:, :4], narrow.labels)
    assert np.isnan(observe(engine(profile(own)), [stream(narrow, ["ann"] * 100)]).signals[NAME]).all()


def test_repeats_change_nothing() -> None:
    """The second half of the queries repeats the first: twice as many, but nothing new to learn from."""
    rows = asked(19, 80)
    features, labels = np.tile(rows.features, (2, 1)), np.tile(rows.labels, 2)
    twice = stream(type(rows)(features, labels), ["ann"] * 160)
    live = engine(profile())
    observe(live, [stream(rows, ["ann"] * 80)])
    once = _state(live.dump(live.keys()))
    observe(live, [stream(rows, ["ann"] * 80)])
    again = _state(live.dump(live.keys()))
    np.testing.assert_array_equal(again["pair_hash"], once["pair_hash"])
    assert observe(engine(profile()), [twice]).signals[NAME][-1] == again["slot_exposure"][0]


def test_its_state_is_bounded() -> None:
    live = engine(profile())
    rows = asked(20, 6_000)
    sizes = []
    for at in range(0, 6_000, 1_000):
        observe(
            live, [stream(type(rows)(rows.features[at : at + 1_000], rows.labels[at : at + 1_000]), ["ann"] * 1_000)]
        )
        sizes.append(len(_state(live.dump(live.keys()))["pair_hash"]))
    assert 400 < sizes[0] < sizes[-1] <= BUCKETS
    signal = InformationGain(EngineConfig(profiles=(profile(),)))
    signal.apply(np.array([0]), np.array([0]), Delta.from_record(_state(live.dump(live.keys()))))
    assert signal.nbytes(np.array([0])) < 20_000
    signal.evict(np.array([0]), np.array([0]))
    assert not len(signal.dump(np.array([0]), np.array([0])).events["pair"]["hash"])


def test_evicted_ones_are_forgotten() -> None:
    live = engine(profile())
    observe(live, [interleaved(21, 400, 3)])
    live.clear("credit", "p1")
    rows = asked(22, 25)
    again = observe(live, [stream(rows, ["p1"] * 25)]).signals[NAME]
    np.testing.assert_array_equal(again, observe(engine(profile()), [stream(rows, ["p1"] * 25)]).signals[NAME])


def _state(sections: Sections) -> Arrays:
    own: Arrays = unpack(sections[NAME][1])
    return own
