"""Which columns are what: by name, by ``--map``, or by a proposal."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.contracts.batches import concatenate
from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import QueryBatch
from detector.sources import LogReader, format_of, open_logs
from detector.sources.kinds import ColumnKind
from detector.sources.mapping import ColumnSource, parse_map, quoted
from detector.sources.plan import feature_columns
from tests.contracts.batches import principals_of
from tests.sources.flavours import lines, separated

Row = dict[str, Any]


def table(rows: int = 40, **columns: Any) -> list[Row]:
    """A table of a credit model as its owner calls things; ``columns`` add some, None leaves one out."""
    own = [
        {
            "user_id": f"u{at % 3}",
            "ts": 1_700_000_000 + at,
            "age": 20 + at,
            "income": 1000.5 + at,
            "owner": at % 2 == 0,
            "country": ("DE", "FR")[at % 2],
            "session_id": 7000 + at,
            "note": f"called about {at}",
            "latency_ms": 3.5,
            "score": at / rows,
        }
        for at in range(rows)
    ]
    for name, column in columns.items():
        for at, row in enumerate(own):
            row[name] = column(at) if callable(column) else column
            if column is None:
                del row[name]
    return own


def write(folder: Path, rows: list[Row], suffix: str = ".csv") -> Path:
    """``rows`` as a log."""
    path = folder / f"log{suffix}"
    path.write_text(lines(rows) if suffix == ".jsonl" else separated(rows), "utf-8")
    return path


def read(path: Path, map_: str = "") -> tuple[QueryBatch, list[str]]:
    """The one batch in ``path``, and what was said aloud."""
    lines: list[str] = []
    portions = list(format_of(path).read(path, LogReader(parse_map([map_]), lines.append)))
    assert [bad for portion in portions for bad in portion.bad_rows] == []
    (batch,) = concatenate(portion.batch for portion in portions if portion.batch is not None)
    return batch, lines


def proposed(error: pytest.ExceptionInfo[ConfigurationError]) -> str:
    """What is to be pasted."""
    found = re.search(r"try (--map .*)$", str(error.value))
    assert found, error.value
    return shlex.split(found[1])[1]


both = pytest.mark.parametrize("suffix", [".csv", ".jsonl"])


@both
def test_names_that_do_not_fit_are_told_with_what_to_paste(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, table(), suffix)
    with pytest.raises(ConfigurationError, match="there is no column principal or occurred_at or outputs") as error:
        read(path)
    assert "only user_id, ts, age, income, owner, country, session_id" in str(error.value)
    text = proposed(error)
    assert text == "principal=user_id,occurred_at=ts,outputs=score,features=age|income|owner|country"
    batch, told = read(path, text)
    assert batch.feature_names == ("age", "income", "owner", "country")
    assert (batch.output_kind, batch.outputs.shape) == ("unstated", (40, 1))
    assert principals_of(batch)[:3] == ["u0", "u1", "u2"]
    assert batch.occurred_at[0] == 1_700_000_000
    assert [line.partition(": ")[2].partition(";")[0] for line in told] == ["no model", "no model_version"]
    assert (batch.model, batch.model_version) == ("model", "1")
    assert batch.event_ids[39].endswith(f"log{suffix}:40")


def test_what_is_proposed_is_short_where_names_begin_alike_and_takes_any_name(tmp_path: Path) -> None:
    rows = [
        {
            "Account-Id": "a",
            "createdAt": 1.0 + at,
            **{f"V{one}": 0.5 * at for one in range(9)},
            "in,come|*": at,
            "p_0": 1,
            "p_1": 0,
        }
        for at in range(30)
    ]
    path = write(tmp_path, rows)
    with pytest.raises(ConfigurationError) as error:
        read(path)
    text = proposed(error)
    assert text == r"principal=Account-Id,occurred_at=createdAt,outputs=p_0|p_1,features=V*|in\,come\|\*"
    batch, _ = read(path, text)
    assert batch.feature_names == tuple(sorted((*(f"V{one}" for one in range(9)), "in,come|*")))
    assert batch.output_names is not None
    assert batch.output_names[0].tolist() == ["0", "1"]


@both
def test_a_column_a_feature_needs_no_map_where_other_names_fit(tmp_path: Path, suffix: str) -> None:
    rows = table(
        principal=lambda at: f"u{at % 3}",
        occurred_at=lambda at: at + 1.5,
        outputs=0.5,
        ts=None,
        user_id=None,
        score=None,
    )
    batch, told = read(write(tmp_path, rows, suffix))
    assert batch.feature_names == ("age", "income", "owner", "country")
    assert "took as features the columns age, income, owner, country, and not session_id, note, latency_ms; " in told[0]


@both
def test_without_times_rows_are_a_second_apart_over_all_logs(tmp_path: Path, suffix: str) -> None:
    rows = [{"principal": "a", "features": [1.0, at]} for at in range(3)]
    for name in "abc":
        (tmp_path / name).mkdir()
    lines: list[str] = []
    rows = rows if suffix == ".jsonl" else [row | {"features": str(row["features"])} for row in rows]
    paths = [write(tmp_path / name, rows, suffix) for name in "abc"]
    logs = open_logs(paths, LogReader({}, lines.append))
    batches = [portion.batch for log in logs for portion in log if portion.batch is not None]
    assert [time for batch in batches for time in batch.occurred_at] == list(range(1, 10))
    assert {batch.output_kind for batch in batches} == {"none"}
    assert len({event for batch in batches for event in batch.event_ids}) == 9
    assert [line.partition(": ")[2].partition(";")[0] for line in lines] == [
        "no outputs",
        "no occurred_at",
        "no model",
        "no model_version",
    ]


@both
def test_what_is_said_wins_over_names(tmp_path: Path, suffix: str) -> None:
    rows = table(principal="nobody", model="old", outputs=0.25, occurred_at=5.0)
    map_ = "principal=user_id,model=@credit,model_version=@7,features=age,outputs=,occurred_at="
    batch, told = read(write(tmp_path, rows, suffix), map_)
    assert (batch.principals, batch.model, batch.model_version) == (["u0", "u1", "u2"], "credit", "7")
    assert (batch.feature_names, batch.output_kind, batch.occurred_at[0]) == (("age",), "none", 1.0)
    assert len(told) == 2


@both
def test_outputs_may_be_labels_or_the_kind_that_is_said(tmp_path: Path, suffix: str) -> None:
    map_ = "principal=user_id,occurred_at=ts,features=age|income,outputs=score"
    batch, _ = read(write(tmp_path, table(score=lambda at: ("cat", "dog")[at % 2]), suffix), map_)
    assert batch.output_kind == "label"
    assert batch.output_names is not None
    assert batch.output_names[:2].tolist() == [["cat"], ["dog"]]
    batch, _ = read(write(tmp_path, table(score=lambda at: at % 2), suffix), f"{map_},output_kind=@score")
    assert (batch.output_kind, batch.outputs[:2].tolist()) == ("score", [[0], [1]])


def test_a_row_without_outputs_among_others_was_told_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, table(4, score=lambda at: None if at == 2 else 0.5))
    reading = LogReader(parse_map(["principal=user_id,occurred_at=ts,features=age,outputs=score"]))
    batches = [portion.batch for portion in format_of(path).read(path, reading) if portion.batch is not None]
    assert [(batch.output_kind, len(batch)) for batch in batches] == [("unstated", 2), ("none", 1), ("unstated", 1)]


@pytest.mark.parametrize(
    ("map_", "message"),
    [
        ("user_id", "'user_id' is empty; write ROLE=COLUMN"),
        ("who=user_id", "'who' is not a role; there are event_id, principal"),
        ("principal=a,principal=b", "principal is there twice; join columns with |"),
        ("principal=a|b", "principal is one column, not 'a|b'"),
        ("principal=user_*", "principal is one column"),
        ("features=@1", "features cannot be the same in every row"),
        ("principal=user_id,features=f_*", r"there is no column f_\* for features, only user_id"),
        (
            "principal=usr,features=age",
            "there is no column usr for principal, only user_id.*try --map 'principal=user_id",
        ),
        ("principal=user_id,outputs=country|score", "the column country is a text and cannot be outputs"),
    ],
)
def test_a_map_that_makes_no_sense_is_told(tmp_path: Path, map_: str, message: str) -> None:
    path = write(tmp_path, table())
    with pytest.raises(ConfigurationError, match=message):
        read(path, map_)


def test_a_log_where_nothing_can_be_a_principal_says_what_to_fill_in(tmp_path: Path) -> None:
    path = write(tmp_path, [{"height": 1.5, "width": 2.0 + at} for at in range(9)])
    with pytest.raises(
        ConfigurationError, match=r"'principal=PRINCIPAL,features=height\|width' with the principal filled in$"
    ):
        read(path)


@pytest.mark.parametrize("name", ["a", "a b", "a,b", "a|b", "a*", "@a", "a\\b", "[a]?", "a=b"])
def test_any_name_can_be_quoted(name: str) -> None:
    (source,) = parse_map([f"principal={quoted(name)}"]).values()
    assert source.matches(name)
    assert not source.matches("zz")
    assert source.constant is None


def test_patterns_mean_what_is_left() -> None:
    source = ColumnSource(("f_*", "age"))
    assert [name for name in ("f_1", "age", "f", "xf_1") if source.matches(name)] == ["f_1", "age"]


def test_files_that_have_the_same_columns_are_read_alike(tmp_path: Path) -> None:
    """A column of numbers in the first file is a column of numbers in the next, whatever it holds there."""
    first = write(tmp_path, table(occurred_at=1.0, principal="a", outputs=0.5, user_id=None, ts=None, score=None))
    (tmp_path / "next").mkdir()
    odd = table(4, age="?", occurred_at=2.0, principal="a", outputs=0.5, user_id=None, ts=None, score=None)
    second = write(tmp_path / "next", odd)
    reading = LogReader()
    portions = [portion for path in (first, second) for portion in format_of(path).read(path, reading)]
    bad = [bad for portion in portions for bad in portion.bad_rows]
    assert [(one.row, one.detail) for one in bad] == [(row, "age is '?', which is not a number") for row in range(4)]


def test_infinite_features_of_a_mapped_log_stay_far(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"user": "a", "x1": 1e999, "x2": NaN, "x3": 1}\n' * 2, "utf-8")
    batch, _ = read(path, "principal=user,features=x*")
    assert batch.features[0].tolist() == [np.float32(3.4028234663852886e38), 0, 1]
    assert batch.missing is not None
    assert batch.missing[0].tolist() == [False, True, False]


def test_of_files_with_the_same_columns_each_has_its_own_unit_of_time(tmp_path: Path) -> None:
    row = {
        "event_id": "e",
        "principal": "a",
        "model": "m",
        "model_version": "1",
        "features": [1],
        "outputs": [0.5, 0.5],
    }
    times: list[float] = []
    reading = LogReader()
    for name, time in (
        ("a", 1.7e9),
        ("b", 1_700_000_001_000),
        ("c", "2023-11-14T22:13:22Z"),
        ("d", "2023-11-14 22:13:23"),
    ):
        (tmp_path / name).mkdir()
        path = write(tmp_path / name, [row | {"occurred_at": time}], ".jsonl")
        (portion,) = format_of(path).read(path, reading)
        assert portion.batch is not None, portion.bad_rows
        times += portion.batch.occurred_at.tolist()
    assert times == [1.7e9 + at for at in range(4)]


def test_what_looks_like_an_id_a_time_or_the_truth_is_no_feature() -> None:
    features = ["V1", "body_mass_index", "is_new", "keyword_count", "timeless", "Age"]
    ids = ["__index_level_0__", "Unnamed: 0", "requestId", "ip", "api_key_hash"]
    others = ["updated_at", "latency_ms", "y_true", "p_a", "p_b"]
    looks = {name: ColumnKind("number") for name in (*ids, *others, *features)} | {
        "city": ColumnKind("text", varied=True)
    }
    assert feature_columns(looks, ()) == tuple(features)
