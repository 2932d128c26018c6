from __future__ import annotations

import tracemalloc
from itertools import islice

import pytest

from detector.contracts.codecs import PACKED_CONTENT_TYPE, REASONS, decode_queries
from detector.contracts.errors import InvalidRecord
from tests.contracts.malformed import KINDS, Malformed, malformed

RECORDS = list(islice(malformed(seed=1), len(KINDS)))


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
    assert {bad.reason for bad in RECORDS} == set(REASONS) - {"action"}


def test_the_same_seed_gives_the_same_records() -> None:
    assert list(islice(malformed(3), 100)) == list(islice(malformed(3), 100)) != list(islice(malformed(4), 100))


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
