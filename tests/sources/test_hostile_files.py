"""Files that are cut short, of another kind than their name says, or made to take all memory."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import BadRow
from detector.sources import LogReader, files_of, format_of, separated
from tests.sources.flavours import lines as as_lines
from tests.sources.flavours import rows

HEAD = b"principal,occurred_at,a,b\n"
GOOD = b"u,1,2,3\n"


def _read(path: Path) -> tuple[list[int], list[BadRow]]:
    portions = list(format_of(path).read(path, LogReader()))
    good = [row for portion in portions for row in portion.rows.tolist()]
    return good, [bad for portion in portions for bad in portion.bad_rows]


def _csv(folder: Path, *parts: bytes) -> tuple[list[int], list[BadRow]]:
    (folder / "log.csv").write_bytes(HEAD + b"".join(parts))
    return _read(folder / "log.csv")


def test_a_row_of_another_width_costs_itself_alone(tmp_path: Path) -> None:
    good, bad = _csv(tmp_path, GOOD, b"u,1,2\n", b"\n", GOOD, b"u,1,2,3,4\n", GOOD)
    assert good == [0, 2, 4]
    assert [(one.row, one.reason) for one in bad] == [(1, "structure"), (3, "structure")]
    assert bad[0].detail == "the row has 3 cells, and the first line names 4 columns"


@pytest.mark.parametrize(
    ("line", "is_good"),
    [
        (b'u,1,"2",3\n', True),
        (b'u,1,"2\n', False),
        (b'"u\nv",1,2,3\n', True),
        (b'u",1,2,3\n', True),
        (b'"u ""x""",1,2,3\n', True),
        (b"\xff\xfe,1,2,3\n", True),
        (b"u,1,\xff,3\n", False),
        (b"u,\xff,2,3\n", False),
        (b"u,yesterday,2,3\n", False),
        (b",1,2,3\n", False),
        (b"\x00\x01\x02" * 50 + b"\n", False),
        (b"u,1,NA,3\n", True),
    ],
)
def test_an_odd_row_never_costs_others(tmp_path: Path, line: bytes, is_good: bool) -> None:
    many = b"".join(b"u,1,%d,%d\n" % (at, -at) for at in range(2000))
    good, bad = _csv(tmp_path, many, line, many)
    assert len(good) == 4000 + is_good
    assert [one.row for one in bad] == ([] if is_good else [2000])


def test_quotes_that_are_never_closed_cost_their_own_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(separated, "_BLOCK", 1000)
    monkeypatch.setattr(separated, "_LARGEST", 2000)
    good, bad = _csv(tmp_path, GOOD * 100, b'"u,1,2,3\n', GOOD * 1000, b'u,"1,2,3\n', GOOD * 1000)
    assert len(good) == 2100
    assert [one.row for one in bad] == [100, 1101]


@pytest.mark.parametrize("block", [1, 7, 40, 1000])
def test_the_cut_into_blocks_changes_nothing(tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = (GOOD, b'"u\n\nv",1,2,3\n', b"u,1\n", b'"""",5,"6",7', b"\r\n\r\n", GOOD * 20)
    whole = _csv(tmp_path, *parts)
    monkeypatch.setattr(separated, "_BLOCK", block)
    assert _csv(tmp_path, *parts) == whole
    assert (len(whole[0]), [one.row for one in whole[1]]) == (23, [2])


def test_a_huge_cell_is_refused_in_little_memory(tmp_path: Path) -> None:
    with (tmp_path / "log.csv").open("wb") as file:
        file.write(HEAD + GOOD + b'u,1,"')
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b'",3\n' + GOOD)
    program = (
        "import sys; from pathlib import Path; from detector.sources import LogReader, format_of\n"
        "import resource\n"
        "def read(name):\n"
        "    path = Path(sys.argv[1]) / name\n"
        "    return [bad.reason for portion in format_of(path).read(path, LogReader()) for bad in portion.bad_rows]\n"
        "read('small.csv'); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(*read('log.csv'), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    (tmp_path / "small.csv").write_bytes(HEAD + GOOD)
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    reason, grown = done.stdout.split()
    assert reason == "too-large"
    assert int(grown) < 80_000


def test_ten_thousand_columns_are_read(tmp_path: Path) -> None:
    names = ",".join(f"f{at}" for at in range(10_000))
    row = "u,1," + ",".join(["0.5"] * 10_000)
    (tmp_path / "log.csv").write_text(f"principal,occurred_at,{names}\n" + f"{row}\n" * 3, "utf-8")
    (portion,) = format_of(tmp_path / "log.csv").read(tmp_path / "log.csv", LogReader())
    assert portion.batch is not None
    assert portion.batch.features.shape == (3, 10_000)


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
def test_what_was_cut_short_is_named(tmp_path: Path, compress: Callable[[bytes], bytes], name: str) -> None:
    text = HEAD + GOOD * 9 if name == "log.csv" else as_lines(rows()).encode()
    (tmp_path / name).write_bytes(compress(text)[:-9])
    with pytest.raises(ConfigurationError, match=f"{name}: cannot read it: Truncated compressed stream"):
        _read(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", b"PAR1" + b"x" * 99, "the file is Parquet; name it .parquet"),
        ("log.jsonl", b"PK\x03\x04" + b"x" * 99, "a zip archive; unpack it"),
        ("log.csv", b"principal,a\n\0\0\0", "the file is not text"),
        ("log.csv", "principal,a\nu,1\n".encode("utf-16"), "UTF-16; save it as UTF-8"),
        ("log.json", b'[\n{"principal": "u"}\n]', "one JSON array; write an object a line"),
        ("log.parquet", HEAD + GOOD, "cannot read it as Parquet"),
        ("log.csv", b"x" * 9_000_000, "the first line, which names the columns, has no end"),
        ("log.parquet.gz", b"", r"cannot read \.gz; write the log"),
        ("log.csv", b"0.1,0.2\n0.3,0.4\n", "there is no column principal"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        _read(tmp_path / name)


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.tsv.gz"])
@pytest.mark.parametrize("content", [b"", b"\n\n", HEAD])
def test_a_file_of_nothing_has_no_rows(tmp_path: Path, name: str, content: bytes) -> None:
    if name == "log.jsonl" and content == HEAD:
        return
    (tmp_path / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith("gz") else content)
    assert _read(tmp_path / name) == ([], [])


def test_folders_and_patterns_name_their_files_in_order(tmp_path: Path) -> None:
    for name in ("a/part-10.csv", "a/part-9.csv.gz", "a/_SUCCESS", "a/.part-9.csv.crc", "a/_temporary/x.csv", "b.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert files_of([tmp_path / "a"]) == [tmp_path / "a/part-9.csv.gz", tmp_path / "a/part-10.csv"]
    assert files_of([tmp_path / "*.csv"]) == [tmp_path / "b.csv"]
    assert files_of([tmp_path / "**" / "part-1*"]) == [tmp_path / "a/part-10.csv"]
    with pytest.raises(ConfigurationError, match="no file has such a name"):
        files_of([tmp_path / "*.tsv"])
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigurationError, match=r"the folder has no file that ends in one of \.jsonl"):
        files_of([tmp_path / "none"])
