"""The record that ends its worker is found whatever the cuts, and no other record is blamed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.stream.exit_codes import Exit, blames_records
from detector.stream.partition_manager import Batching
from detector.stream.poison import (
    NOTE_VARIABLE,
    QUARANTINE_VARIABLE,
    InFlightNote,
    OffsetRange,
    PoisonFinder,
    Quarantine,
)
from detector.stream.source_records import SourceRecord

RANGES = [OffsetRange("queries", 3, 10, 20), OffsetRange("commands", 0, 5, 5)]


def _records(offsets: Sequence[int], source: str = "queries", nbytes: int = 10) -> list[SourceRecord]:
    return [SourceRecord(source, offset, 1.0, None, b"x" * nbytes) for offset in offsets]


# -- the note ------------------------------------------------------------------------------------------------------


def test_a_note_is_read_until_it_is_withdrawn() -> None:
    box = InFlightNote.create()
    notes = InFlightNote.from_environment(box.environment)
    assert (notes.enabled, box.read()) == (True, [])
    notes.begin(RANGES)
    assert box.read() == RANGES
    notes.end()
    assert box.read() == []
    notes.begin(RANGES[:1])
    box.end()
    assert box.read() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_note_outlives_a_worker_however_it_dies(number: signal.Signals) -> None:
    box = InFlightNote.create()
    script = (
        "import os; from detector.stream.poison import OffsetRange, InFlightNote;"
        "in_flight = InFlightNote.from_environment(os.environ);"
        "in_flight.begin([OffsetRange('queries', 3, 10, 20), OffsetRange('commands', 0, 5, 5)]);"
        f"os.kill(os.getpid(), {int(number)})"
    )
    died = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | box.environment, pass_fds=box.descriptors, check=False
    )
    assert died.returncode == -number
    assert box.read() == RANGES


@pytest.mark.parametrize("environment", [{}, {NOTE_VARIABLE: "x"}, {NOTE_VARIABLE: "987"}])
def test_without_shared_memory_a_worker_goes_on_without_notes(environment: dict[str, str]) -> None:
    notes = InFlightNote.from_environment(environment)
    notes.begin(RANGES)
    notes.end()
    assert not notes.enabled


def test_a_note_of_more_than_there_is_room_for_is_shortened() -> None:
    box = InFlightNote.create()
    notes = InFlightNote.from_environment(box.environment)
    notes.begin(OffsetRange("queries", at, 2**40 + at, 2**40 + at) for at in range(5_000))
    assert len(box.read()) == 1_000


def test_a_supervisor_without_memory_to_share_supervises_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError("not here")

    monkeypatch.setattr(os, "memfd_create", refuse)
    box = InFlightNote.create()
    box.end()
    assert (box.descriptors, box.environment, box.read()) == ((), {}, [])


# -- the conclusions -----------------------------------------------------------------------------------------------


def _caution(finder: PoisonFinder) -> Quarantine:
    return Quarantine.from_environment(finder.environment)


def test_twice_at_the_same_offsets_makes_suspects_and_once_more_alone_makes_poison() -> None:
    finder = PoisonFinder()
    assert finder.worker_ended([OffsetRange("queries", 3, 10, 20)]) == []
    assert not _caution(finder)
    assert finder.worker_ended([OffsetRange("queries", 3, 15, 30), OffsetRange("queries", 4, 0, 9)]) == []
    caution = _caution(finder)
    assert list(caution.suspects.values()) == [OffsetRange("queries", 3, 15, 20)]
    assert finder.worker_ended([OffsetRange("queries", 3, 17, 17)]) == [("queries", 3, 17)]
    assert _caution(finder).is_poison("queries", 3, 17)
    assert finder.worker_ended([OffsetRange("queries", 3, 19, 19)]) == [("queries", 3, 19)]


@pytest.mark.parametrize(
    "second",
    [OffsetRange("queries", 3, 21, 30), OffsetRange("queries", 2, 10, 20), OffsetRange("commands", 3, 10, 20)],
    ids=["later", "another partition", "another source"],
)
def test_ends_at_other_offsets_make_no_suspects(second: OffsetRange) -> None:
    finder = PoisonFinder()
    finder.worker_ended([OffsetRange("queries", 3, 10, 20)])
    finder.worker_ended([second])
    finder.worker_ended([])
    assert not _caution(finder)


def test_one_record_that_was_alone_by_chance_is_no_poison_before_it_is_a_suspect() -> None:
    finder = PoisonFinder()
    alone = OffsetRange("queries", 0, 7, 7)
    assert [finder.worker_ended([alone]) for _ in range(3)] == [[], [], [("queries", 0, 7)]]


def test_a_suspect_is_not_blamed_for_what_ended_among_others() -> None:
    finder = PoisonFinder()
    for _ in range(4):
        assert finder.worker_ended([OffsetRange("queries", 0, 7, 7), OffsetRange("queries", 1, 3, 3)]) == []


@given(
    poison=st.sets(st.integers(0, 59), max_size=4),
    cuts=st.lists(st.integers(1, 20), min_size=1, max_size=8),
    crashes=st.lists(st.integers(0, 40), max_size=6),
)
@settings(max_examples=200, deadline=None)
def test_workers_get_to_the_end_and_exactly_the_poison_is_put_aside(
    poison: set[int], cuts: list[int], crashes: list[int]
) -> None:
    """Workers that cut the stream as they like, and that crash at random between micro-batches as well."""
    finder, applied, buried, ends = PoisonFinder(), -1, set(), 0
    while applied < 59:
        care = Batching(210 * cuts[ends % len(cuts)], _caution(finder))
        range_ = None
        for batch in care.cut(0, _records(range(applied + 1, 60))):
            offsets = {record.offset for record in batch}
            if care.quarantine.is_poison("queries", 0, batch[0].offset):
                buried |= offsets
            elif offsets & poison:
                range_ = OffsetRange("queries", 0, batch[0].offset, batch[-1].offset)
                break
            applied = batch[-1].offset
            if applied in crashes:
                crashes.remove(applied)
                finder.worker_ended([])
                break
        if range_ is not None:
            ends += 1
            finder.worker_ended([range_])
    assert buried == poison
    assert ends <= 3 * len(poison)


def test_what_is_remembered_is_bounded() -> None:
    finder = PoisonFinder()
    for at in range(1_500):
        for _ in range(3):
            finder.worker_ended([OffsetRange("queries", at, 10**12, 10**12)])
    assert len(_caution(finder).poison) == len(_caution(finder).suspects) == 1_000
    assert len(finder.environment[QUARANTINE_VARIABLE]) < 131_072


@pytest.mark.parametrize("told", ["", "[]", "{", '{"suspects": [[1]]}', '{"poison": 3}'])
def test_a_worker_that_is_told_nonsense_is_not_cautious(told: str) -> None:
    assert not Quarantine.from_environment({QUARANTINE_VARIABLE: told})


def test_only_ends_that_a_record_can_cause_count() -> None:
    assert {code for code in Exit if blames_records(code)} == {Exit.PROCESSING, Exit.PROGRESS_STALLED}
    blamed = {number for number in signal.Signals if blames_records(-number)}
    assert blamed >= {signal.SIGKILL, signal.SIGSEGV}
    assert not blamed & {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


# -- taking apart --------------------------------------------------------------------------------------------------


def _cut(care: Batching, records: list[SourceRecord]) -> list[list[int]]:
    return [[record.offset for record in batch] for batch in care.cut(3, records)]


def test_suspects_and_commands_are_micro_batches_of_their_own() -> None:
    caution = Quarantine({("queries", 3): OffsetRange("queries", 3, 2, 3)}, frozenset({("queries", 3, 6)}))
    assert _cut(Batching(10_000, caution), _records(range(8))) == [[0, 1], [2], [3], [4, 5], [6], [7]]
    assert _cut(Batching(10_000), _records(range(3), "commands")) == [[0], [1], [2]]
    assert _cut(Batching(10_000), _records(range(3))) == [[0, 1, 2]]
    assert _cut(Batching(500), _records(range(5))) == [[0, 1], [2, 3], [4]]
    assert _cut(Batching(1), _records(range(2))) == [[0], [1]]
