"""Growing sets and nearest own queries are those of plain lists, to the bit, however the stream is cut."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.queries import QueryBatch
from detector.core.configuration import EngineMode
from detector.core.engine import Engine, EngineConfig, Limits
from detector.core.loops.compiled import SWITCH
from detector.core.neighbours.distances import exact
from detector.core.neighbours.history import Views
from detector.core.signals import SIGNALS
from detector.core.signals.base import Delta, Proposal
from detector.core.state.arrays import Array
from detector.core.state.rows import StepRows
from tests.core.profiles import profile
from tests.core.streams import KINDS, Features, batch, linear_outputs, observe, rows_between

CLASSES = 5
Queries = dict[tuple[str, int], "Query"]


@dataclass(frozen=True)
class Query:
    """One row as the engine took it, and what it found."""

    label: int
    features: Features
    said: np.float32
    found: tuple[float, bool, float, bytes, bytes]


class Spy:
    """A signal that writes down what the views found for each row."""

    name: ClassVar[str] = "spy"
    version: ClassVar[int] = 1
    figures: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: EngineConfig) -> None:
        self.seen: Queries = {}
        self.name_of: dict[int, str] = {}

    def observe(self, rows: StepRows, views: Views) -> Proposal:
        own, principals = views.nearest_own, rows.pieces[0].principals
        for row in range(len(rows)):
            source = rows.pieces[int(rows.piece[row])]
            principals = source.principals[source.principal_index[rows.piece_row[row]]]
            step = own.step[row].tobytes() if len(own.step) else b""
            found = (own.grown[row], own.joined[row], own.distance[row], step, own.answer[row].tobytes())
            label = int(rows.pool_label[rows.pool[row]])
            query = Query(label, rows.features[row].copy(), rows.answer[row], found)
            self.seen[principals, int(rows.index[row])] = query
        nothing = np.full(len(rows), np.nan)
        return Proposal(nothing, nothing, np.zeros(len(rows), np.bool_), np.nan, {}, Delta())

    def apply(self, slots: Array, pools: Array, delta: Delta) -> None: ...

    def dump(self, slots: Array, pools: Array) -> Delta:
        return Delta()

    def evict(self, slots: Array, pools: Array) -> None: ...

    def nbytes(self, slots: Array | None = None, pools: Array | None = None) -> int:
        return 0


@dataclass
class Plain:
    """The growing sets of one principal as lists: of each class the (block, vector, note) and the distances."""

    block_rows: int
    judged: bool
    sets: dict[int, list[tuple[int, Features, np.float32]]] = field(default_factory=lambda: defaultdict(list))
    joined: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    threshold: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    kept: int = 0

    def ask(self, query: Query) -> tuple[float, bool, float, bytes, bytes]:
        block = self.kept // self.block_rows
        for label, held in self.sets.items():
            self.sets[label] = [row for row in held if row[0] >= block - 1]
        of_class = self._nearest(query, self.sets[query.label])
        of_any = self._nearest(query, [row for held in self.sets.values() for row in held])
        grown = of_class[0]
        joins = grown == np.inf or grown > self.threshold[query.label]
        if joins:
            self._join(block, query, grown)
        if not self.judged:
            return grown, joins, np.inf, b"", np.float32(np.nan).tobytes()
        return grown, joins, *of_any

    def _join(self, block: int, query: Query, distance: float) -> None:
        self.kept += 1
        label, distances = query.label, self.joined[query.label]
        self.sets[label].append((block, query.features, query.said))
        if distance == np.inf:
            distances += [] if distances else [0.0]
            return
        distances.append(distance)
        spread = np.mean(distances) - np.std(distances)
        self.threshold[label] = max(self.threshold[label], float(spread))

    @staticmethod
    def _nearest(query: Query, held: list[tuple[int, Features, np.float32]]) -> tuple[float, bytes, bytes]:
        """Of several at one distance the first by the bytes of its note and its vector."""
        found = [(_distance(query.features, vector), note.tobytes(), vector.tobytes()) for _, vector, note in held]
        if not found:
            return np.inf, query.features.tobytes(), np.float32(np.nan).tobytes()
        distance, note, vector = min(found)
        step = query.features - np.frombuffer(vector, np.float32)
        return distance, step.tobytes(), note


def _distance(query: Features, vector: Features) -> float:
    return float(np.sqrt(((query[None].astype(np.float64) - vector[None]) ** 2).sum(1))[0])


def _near_threshold(plain: Plain, query: Query, grown: float) -> bool:
    """Whether the oracle's own rounding may decide whether the query joins."""
    return 0 < grown < np.inf and abs(grown - plain.threshold[query.label]) <= 1e-9 * grown


def _engine(mode: EngineMode, rows: int, dimension: int, *, judged: bool) -> tuple[Engine, Spy]:
    spies: list[Spy] = []

    def spy(config: EngineConfig) -> Spy:
        spies.append(Spy(config))
        return spies[-1]

    reference = KINDS["clustered"](np.random.default_rng(4), 200, dimension)
    profiles = (profile(reference, CLASSES),) if judged else ()
    config = EngineConfig(mode=mode, limits=Limits(history_queries=rows), profiles=profiles)
    return Engine(config, {"prada": SIGNALS["prada"], "spy": spy}), spies[0]


def _pieces(seed: int, dimension: int, count: int, scale: float) -> list[QueryBatch]:
    """Some principals with many queries and some with few: near duplicates, repeats, ties on a grid."""
    generator = np.random.default_rng(seed)
    pieces = []
    for kind in (*KINDS, "grid"):
        if kind == "grid":
            features = generator.integers(0, 2, (count, dimension)).astype(np.float32)
        else:
            features = KINDS[kind](generator, count, dimension)
        features = (features * np.float32(scale)).astype(np.float32)
        who = [f"p{number}" for number in generator.zipf(1.7, count) % 7]
        pieces.append(batch(features, who, outputs=linear_outputs(features / scale, CLASSES), kind="probabilities"))
    return pieces


def _check(spy: Spy, block_rows: int, *, judged: bool) -> None:
    plain: dict[str, Plain] = defaultdict(lambda: Plain(block_rows, judged))
    left_out = set()
    for (principal, number), query in sorted(spy.seen.items(), key=lambda item: item[0][1]):
        if principal in left_out:
            continue
        own = plain[principal]
        doubtful = _near_threshold(own, query, query.found[0])
        assert own.ask(query) == query.found or doubtful, (principal, number)
        if doubtful:
            left_out.add(principal)
    assert len(left_out) < len(plain)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    dimension=st.sampled_from([3, 40, 150]),
    rows=st.sampled_from([2, 20, 2048]),
    scale=st.sampled_from([1.0, 1e-3, 1e6]),
    judged=st.booleans(),
    cuts=st.integers(0, 6),
)
def test_all_is_as_in_plain_lists(seed: int, dimension: int, rows: int, scale: float, judged: bool, cuts: int) -> None:
    engine, spy = _engine("default", rows, dimension, judged=judged)
    pieces = _pieces(seed, dimension, 60, scale)
    total = sum(map(len, pieces))
    places = np.random.default_rng(seed).choice(np.arange(1, total), cuts, replace=False)
    observe(engine, pieces, sorted(places.tolist()))
    _check(spy, rows // 2, judged=judged)


@pytest.mark.parametrize("judged", [False, True])
def test_any_cut_finds_the_same(judged: bool) -> None:
    pieces = _pieces(3, 40, 80, 1.0)
    whole, spy = _engine("default", 30, 40, judged=judged)
    observe(whole, pieces, [])
    for cuts in ([1, 2, 3, 200], list(range(1, 400, 7))):
        other, seen = _engine("default", 30, 40, judged=judged)
        observe(other, pieces, cuts)
        assert _found(seen) == _found(spy)


def test_what_came_from_the_log_is_found_as_if_it_had_been_asked_here() -> None:
    """Also where the log was written without a profile, and holds values that no profile would let in."""
    pieces = _pieces(3, 40, 80, 1.0)
    pieces[0].features[5] = 5e18
    logging, _ = _engine("default", 2048, 40, judged=False)
    ones, others = _engine("default", 2048, 40, judged=True), _engine("default", 2048, 40, judged=True)
    for start in range(0, 300, 50):
        sections = logging.observe(rows_between(pieces, start, start + 50)).sections
        for number, (engine, _) in enumerate((ones, others)):
            engine.absorb(sections)
            if number and start == 150:
                others[0].load(others[0].dump(others[0].keys()))
    for engine, _ in (ones, others):
        engine.observe(rows_between(pieces, 300, 380))
    assert _found(ones[1]) == _found(others[1])
    distances = [query.found[2] for query in ones[1].seen.values()]
    assert np.isfinite(distances).mean() > 0.9


@pytest.mark.parametrize("dimension", [1, 3, 7, 8, 9, 63, 64, 127, 128, 129, 136, 300, 784, 1000, 3000])
def test_distances_are_those_of_numpy_to_the_bit(dimension: int) -> None:
    generator = np.random.default_rng(dimension)
    rows, others = (generator.normal(0, 10.0**5, (40, dimension)).astype(np.float32) for _ in range(2))
    others[::2] = rows[::2] * np.float32(1 + 1e-6)
    differences = rows.astype(np.float64) - others
    assert [exact(rows, at, others, at) for at in range(40)] == np.sqrt((differences**2).sum(1)).tolist()


def test_huge_features_are_told_apart() -> None:
    """Their squares are infinite in single precision."""
    features = np.float32(3e38) * np.array([[1, 0], [-1, 0.5], [0.9, 0.1], [0.91, 0.1]], np.float32)
    engine, spy = _engine("default", 2048, 2, judged=False)
    observe(engine, [batch(features, ["ann"] * 4)], [])
    assert _found(spy)["ann", 3][0] == _distance(features[3], features[2])


def test_dropped_vectors_make_room_for_later_ones() -> None:
    engine, _ = _engine("default", 20, 40, judged=True)
    generator, sizes = np.random.default_rng(0), []
    for _ in range(30):
        features = generator.random((200, 40), np.float32)
        outputs = linear_outputs(features, CLASSES)
        who = [f"p{number % 4}" for number in range(200)]
        observe(engine, [batch(features, who, outputs=outputs, kind="probabilities")], [])
        sizes.append(engine.nbytes())
    assert max(sizes[10:]) < 1.5 * sizes[4]


def _found(spy: Spy) -> dict[tuple[str, int], tuple[float, bool, float, bytes, bytes]]:
    return {key: query.found for key, query in spy.seen.items()}


def _digest() -> int:
    total = 0
    for judged in (False, True):
        engine, spy = _engine("default", 16, 35, judged=judged)
        observe(engine, _pieces(1, 35, 12, 1.0), [30])
        total = (total * 31 + hash(tuple(sorted(_found(spy).items())))) % (1 << 61)
    return total


def test_the_plain_source_finds_the_same() -> None:
    source = "from tests.core.test_neighbours import _digest; print(_digest())"
    environment = {**os.environ, SWITCH: "off", "PYTHONHASHSEED": "0"}
    said = [
        subprocess.run(
            [sys.executable, "-c", source], env=environment | extra, check=True, capture_output=True, text=True
        ).stdout
        for extra in ({}, {SWITCH: "on"})
    ]
    assert said[0] == said[1] != ""
