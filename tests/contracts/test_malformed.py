from __future__ import annotations

import tracemalloc
from itertools import islice
from random import Random

import numpy as np
import pytest

from detector.contracts.codecs import PACKED_CONTENT_TYPE, REASONS, encode_packed
from detector.contracts.codecs.json_queries import decode_json_run
from detector.contracts.codecs.limits import FORM_REPAIRS, REPAIRS, is_time
from detector.contracts.codecs.packed_queries import decode_packed_run
from detector.contracts.errors import InvalidRecord
from detector.contracts.principals import is_name
from detector.contracts.queries import DecodedRun
from tests.contracts.malformed import KINDS, ODD, Malformed, good_record, malformed, nonsense
from tests.contracts.wire import decode_queries

RECORDS = list(islice(malformed(seed=1), len(KINDS)))
NEVER_OF_A_QUERY = {"action", "attribute", "counts", "value"}


def _refusal(bad: Malformed) -> str:
    """The one reason for which ``bad`` is refused, whole or row by row."""
    try:
        decoded = decode_queries(bad.value, bad.content_type, timestamp=1.0)
    except InvalidRecord as error:
        return error.reason
    assert decoded.batch is None
    (reason,) = {row.reason for row in decoded.bad_rows}
    return reason


def test_a_refusal_does_not_quote_a_huge_value() -> None:
    bad = next(bad for bad in RECORDS if bad.kind == "unknown output kind")
    with pytest.raises(InvalidRecord) as refusal:
        decode_queries(bad.value, bad.content_type, timestamp=1.0)
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("bad", RECORDS, ids=lambda bad: bad.kind)
def test_each_kind_is_refused_for_its_reason(bad: Malformed) -> None:
    assert _refusal(bad) == bad.reason


def test_other_seeds_are_refused_alike() -> None:
    for bad in islice(malformed(seed=2), 10 * len(KINDS)):
        assert _refusal(bad) == bad.reason, bad


def test_there_are_enough_kinds_and_every_reason_of_a_query_occurs() -> None:
    assert len(KINDS) >= 20
    assert {bad.reason for bad in RECORDS} == set(REASONS) - NEVER_OF_A_QUERY - {"time"}
    assert {word for _, words, _ in ODD.values() for word in words} == set(REPAIRS) - FORM_REPAIRS.keys()


def test_the_same_seed_gives_the_same_records() -> None:
    assert list(islice(malformed(3), 100)) == list(islice(malformed(3), 100)) != list(islice(malformed(4), 100))
    assert list(islice(nonsense(3), 100)) == list(islice(nonsense(3), 100)) != list(islice(nonsense(4), 100))


@pytest.mark.parametrize("bad", [bad for bad in RECORDS if "claim" in bad.kind or "dimension" in bad.kind])
def test_a_claim_allocates_nothing(bad: Malformed) -> None:
    _refusal(bad)
    tracemalloc.start()
    _refusal(bad)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_only_packed_records_lack_a_key() -> None:
    assert all((bad.key is None) == (bad.content_type is not None) for bad in RECORDS)
    assert {bad.content_type for bad in RECORDS} == {None, PACKED_CONTENT_TYPE, "application/avro"}


def _decode(content_type: str | None, values: list[bytes], timestamp: float | None = 5.0) -> DecodedRun:
    times = [timestamp] * len(values)
    return decode_packed_run(values, times) if content_type else decode_json_run(values, times)


def _holds(run: DecodedRun, records: int) -> None:
    """Every row of ``run`` is good or bad, and not both; what is good keeps every rule."""
    whole = [place for place, fault in run.bad if fault.row < 0]
    seen = [(place, fault.row) for place, fault in run.bad if fault.row >= 0]
    for batch, places, rows in run.parts:
        assert len(batch) == len(places) == len(rows) > 0
        assert np.isfinite(batch.features).all() and np.isfinite(batch.outputs).all()
        assert batch.missing is None or not batch.features[batch.missing].any()
        assert all(map(is_name, (batch.model, batch.model_version, *batch.principals)))
        assert all(map(is_time, batch.occurred_at.tolist()))
        seen += zip(places.tolist(), rows.tolist(), strict=True)
        if batch.features.nbytes < 500_000:
            again = decode_queries(encode_packed(batch), PACKED_CONTENT_TYPE, timestamp=1.0)
            assert not again.bad_rows and not again.repaired
    assert len(seen) == len(set(seen)) and len(whole) == len(set(whole))
    places_of_rows = {place for place, _ in seen}
    for place in places_of_rows:
        own = sorted(row for at, row in seen if at == place)
        assert own == list(range(len(own)))
    counted = {place for place, _ in run.counts}
    assert not set(whole) & (places_of_rows | counted)
    assert set(whole) | places_of_rows | counted <= set(range(records))
    assert all(fault.reason in REASONS and fault.queries >= 0 for _, fault in run.bad)
    assert all(fault.model == "" or is_name(fault.model) for _, fault in run.bad)
    assert all(fault.principal == "" or is_name(fault.principal) for _, fault in run.bad)
    assert all(len(fault.detail.encode()) < 600 for _, fault in run.bad)
    assert set(run.repaired) <= set(REPAIRS)


@pytest.mark.parametrize("kind", ODD)
def test_what_is_odd_is_replaced_and_counted_and_no_row_is_lost(kind: str) -> None:
    content_type, repaired, make = ODD[kind]
    value = make(Random(3), "account-7")
    run = _decode(content_type, [value])
    assert not run.bad
    assert run.repaired == repaired
    assert sum(len(batch) for batch, _, _ in run.parts) == (2 if content_type else 1)
    _holds(run, 1)


@pytest.mark.parametrize("kind", [kind for kind in ODD if "time" in kind and "count" not in kind])
def test_without_a_record_time_an_odd_time_costs_the_row(kind: str) -> None:
    content_type, _, make = ODD[kind]
    run = _decode(content_type, [make(Random(3), "account-7")], timestamp=None)
    assert not run.parts and not run.repaired
    assert {(fault.reason, fault.model, fault.principal) for _, fault in run.bad} == {("time", "digits", "account-7")}


@pytest.mark.parametrize("packed", [False, True])
def test_odd_and_refused_records_cost_their_neighbours_nothing(packed: bool) -> None:
    content_type = PACKED_CONTENT_TYPE if packed else None
    values = [make(Random(4), "ana") for kind, _, make in ODD.values() if kind == content_type]
    refused = [bad.value for bad in RECORDS if bad.content_type == content_type]
    run = _decode(content_type, [value for pair in zip(values, refused, strict=False) for value in pair])
    _holds(run, 2 * min(len(values), len(refused)))
    good = [place for _, places, _ in run.parts for place in places.tolist()]
    assert set(good) == set(range(0, 2 * min(len(values), len(refused)), 2))


@pytest.mark.parametrize(
    ("kind", "whose"),
    [
        (kind, ("digits", "account-7"))
        for kind in (
            "features an empty object",
            "outputs of texts",
            "packed texts of another length",
            "no features",
            "NaN among outputs",
            "zero dimension",
            "not base64",
            "negative probability",
            "fractional label",
            "unknown output kind",
            "packed features too short",
            "packed lying dimension",
            "packed index outside",
            "packed NaN outputs",
            "packed features a list",
            "packed unknown version",
        )
    ]
    + [("empty model", ("", "account-7")), ("packed everyone as model", ("", "account-7"))]
    + [("no principal", ("digits", "")), ("packed truncated", ("", "")), ("empty", ("", ""))],
)
def test_what_is_refused_says_whose_it_is(kind: str, whose: tuple[str, str]) -> None:
    content_type, _, make = KINDS[kind]
    run = _decode(content_type, [make(Random(3), "account-7")])
    assert {(fault.model, fault.principal) for _, fault in run.bad} == {whose}
    assert sum(fault.queries for _, fault in run.bad) == (2 if content_type and whose != ("", "") else 1)


@pytest.mark.parametrize("seed", range(8))
def test_nonsense_never_raises_and_every_row_is_accounted_for(seed: int) -> None:
    for content_type, value in islice(nonsense(seed), 400):
        if content_type in {None, PACKED_CONTENT_TYPE}:
            _holds(_decode(content_type, [value]), 1)


@pytest.mark.parametrize("packed", [False, True])
def test_nonsense_among_good_records_leaves_them_as_they_are(packed: bool) -> None:
    content_type = PACKED_CONTENT_TYPE if packed else None
    good = [good_record(Random(at), f"good-{at}", packed=packed) for at in range(60)]
    bad = [value for kind, value in islice(nonsense(11), 400) if kind == content_type][:60]
    values = [value for pair in zip(good, bad, strict=False) for value in pair]
    run = _decode(content_type, values)
    _holds(run, len(values))
    found = {
        int(place): batch.principals[at]
        for batch, places, _ in run.parts
        for place, at in zip(places, batch.principal_index, strict=True)
        if place % 2 == 0
    }
    assert found == {2 * at: f"good-{at}" for at in range(len(values) // 2)}
