"""``weirguard scan``: from an unlabelled log to a report, a record and a profile."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from detector.cli.main import main
from detector.contracts.batches import concatenate, take
from detector.contracts.queries import QueryBatch
from detector.core.calibration.crossfit import COLUMNS
from detector.core.calibration.scan import ScannedAccount
from detector.core.profile import Profile
from detector.explain.scan_report import DESCRIPTIONS, look_at, reasons, sentence
from detector.lab.query_log import Mark, QueryLog, write_query_log
from detector.replay.scan import Sieve
from detector.runtime.text import rfc3339
from tests.core.honest import crowd, honest, of_version, thief
from tests.groups.rings import ring
from tests.lab.labelled import run_of
from tests.sources.logs import write_jsonl

CROWD = crowd(14)
NAME = "eve <script>"


def log_of(*accounts: QueryBatch) -> QueryBatch:
    """All of them by time, as a log has them."""
    [whole] = concatenate(accounts)
    return take(whole, np.argsort(whole.occurred_at, kind="stable"))


def weirguard(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("scan") / "log.jsonl", log_of(*CROWD, thief(NAME)))


@pytest.fixture(scope="module")
def out(log: Path) -> Path:
    folder = log.with_name("report")
    assert weirguard("scan", log, "--out", folder) == 0
    return folder


@pytest.fixture
def told(out: Path) -> Any:
    return json.loads((out / "scan.json").read_text("utf-8"))


def test_the_record_ranks_accounts_and_says_why(told: Any) -> None:
    first, *others = told["accounts"]
    assert (first["principal"], first["model"], first["model_version"], first["stands_out"]) == (
        NAME,
        "credit",
        "1",
        True,
    )
    assert first["score"] > 1 and first["reasons"] and first["look_at"] and first["left_out_of_profile"]
    assert any("sign_steps" in reason for reason in first["reasons"])
    assert (first["queries"], first["queries_looked_at"]) == (120, 120)
    assert 1 < first["crossed_at_query"] <= first["farthest_at_query"] <= 120
    assert first["crossed_at"] == rfc3339(1_700_000_000 + first["crossed_at_query"] - 1)
    assert first["first_at"] == "2023-11-14T22:13:20.000Z"
    assert [own["score"] for own in others] == sorted((own["score"] for own in others), reverse=True)
    assert not any(own["stands_out"] for own in others) and len(others) == 14 and told["rings"] == []
    assert all(own["crossed_at_query"] is None and own["crossed_at"] is None for own in others)


def test_the_head_says_of_what_it_is_and_how_sure(told: Any) -> None:
    assert (told["rows_count_from"], told["budget"], told["confidence"], told["queries"]) == (1, 0.01, 0.95, 820)
    [model] = told["models"]
    assert model["form"] == {
        "features": 6,
        "feature_names": None,
        "outputs": "probabilities",
        "outputs_width": 3,
    }
    assert (model["accounts"], model["accounts_left_out"], model["accounts_enough"]) == (15, 1, True)
    assert model["threshold_low"] <= model["threshold_high"]
    assert model["bound"] == pytest.approx(1 - 0.05 ** (1 / 14))


def test_the_page_is_one_file_that_loads_nothing_and_shows_no_code_of_others(out: Path) -> None:
    page = (out / "scan.html").read_text("utf-8")
    ET.fromstring(page.partition("\n")[2])  # noqa: S314 - our own
    assert "<script" not in page and "eve &lt;script&gt;" in page
    assert not re.search(r"(src|href)\s*=|url\(|@import", page)
    assert page.count("<svg") == 3 and "1 of 15 accounts stands out" in page
    assert all(own.principals[0] in page for own in CROWD)


def test_the_profile_leaves_the_suspect_out_and_explains_them(
    out: Path, log: Path, told: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = out / told["models"][0]["profile"]
    made = Profile.from_bytes(path.read_bytes()).provenance
    assert (made["accounts"], made["accounts_left_out"]) == (14, 1)
    assert weirguard("explain", NAME, "--log", log, "--profile", path) == 0
    captured = capsys.readouterr().out
    assert "Suspect since query" in captured and "sign_steps" in captured


def test_a_ring_is_named_in_the_text_the_record_and_the_page_and_left_out_of_the_profile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_jsonl(tmp_path / "log.jsonl", log_of(*CROWD, *ring(12, 120)))
    assert weirguard("scan", log, "--out", tmp_path / "out") == 0
    captured = capsys.readouterr().out
    sentence = f"12 accounts look like one thief: {', '.join(f'ring-{at:03}' for at in range(12))}"
    assert f"ring        {sentence}" in captured and ", 12 look like one thief." in captured.splitlines()[0]
    printed = json.loads((tmp_path / "out/scan.json").read_text("utf-8"))
    [found] = printed["rings"]
    assert found["members"] == [f"ring-{at:03}" for at in range(12)]
    assert (found["queries"], found["model"], found["model_version"]) == (120, "credit", "1")
    assert found["score"] > 1 and found["reasons"] and 1 <= found["crossed_at_query"] <= 120
    assert sentence in (tmp_path / "out/scan.html").read_text("utf-8")
    made = Profile.from_bytes((tmp_path / "out" / printed["models"][0]["profile"]).read_bytes()).provenance
    assert (made["accounts"], made["accounts_left_out"]) == (14, 12)


def test_json_is_printed_alone(log: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert weirguard("scan", log, "--out", out, "--json") == 0  # into a folder that is there
    captured = capsys.readouterr()
    assert json.loads(captured.out) == json.loads((out / "scan.json").read_text("utf-8"))
    assert "\x1b" not in captured.out


def test_each_model_version_is_scanned_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = [of_version(own, "a b/2") for own in (*crowd(9, seed=300), thief("mallory"))]
    other = [replace(own, model="small", model_version="9") for own in crowd(2)]
    log = write_jsonl(tmp_path / "log.jsonl", *CROWD[:9], *two, *other)
    assert weirguard("scan", log, "--out", tmp_path / "out") == 0
    captured = capsys.readouterr().out
    printed = json.loads((tmp_path / "out/scan.json").read_text("utf-8"))
    assert [own["profile"] for own in printed["models"]] == ["credit-1.profile", "credit-a-b-2.profile"]
    assert printed["accounts"][0]["principal"] == "mallory" and printed["accounts"][0]["model_version"] == "a b/2"
    assert printed["notes"] == ["small 9 has 2 accounts, and it takes 3."] and "skipped     small 9 has 2" in captured
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "scan.json", "scan.html", "credit-1.profile", "credit-a-b-2.profile",
    }  # fmt: skip


def test_rows_that_are_no_queries_or_of_another_form_are_counted(tmp_path: Path) -> None:
    log = write_jsonl(
        tmp_path / "log.jsonl", *CROWD[:8], replace(honest("ana", 1), outputs=np.ones((50, 1), np.float32))
    )
    with log.open("a", encoding="utf-8") as file:
        file.write("{}\n")
    assert weirguard("scan", log, "--out", tmp_path / "out") == 0
    printed = json.loads((tmp_path / "out/scan.json").read_text("utf-8"))
    assert printed["models"][0]["queries_of_another_form"] == 50 and printed["refused"] == 1
    assert any("50 queries of another form" in line for line in printed["notes"])


def test_a_labelled_log_of_the_lab_is_scanned_whole(tmp_path: Path) -> None:
    queries = log_of(*CROWD, thief())
    who = [queries.principals[at] for at in queries.principal_index]
    marks = [Mark("extraction", "jbda") if name == "mallory" else Mark("honest", "steady") for name in who]
    write_query_log(tmp_path / "lab.parquet", QueryLog(queries, marks, run_of()))
    assert weirguard("scan", tmp_path / "lab.parquet", "--out", tmp_path / "out") == 0
    printed = json.loads((tmp_path / "out/scan.json").read_text("utf-8"))
    assert [own["principal"] for own in printed["accounts"] if own["stands_out"]] == ["mallory"]


def test_of_few_accounts_it_is_said_that_the_order_is_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_jsonl(tmp_path / "log.jsonl", *CROWD[:4], thief())
    assert weirguard("scan", log, "--out", tmp_path / "out") == 0
    captured = capsys.readouterr().out
    assert "5 accounts, too few to tell which stand out" in captured and "the scan only ranks them" in captured
    assert captured.index("1. mallory") < captured.index("2. user-")


@pytest.mark.parametrize(
    ("accounts", "status", "why"),
    [((), 1, "the logs hold no query"), (CROWD[:2], 2, "nothing was scanned: credit 1 has 2 accounts, and it takes 3")],
)
def test_where_nothing_is_scanned_the_status_says_so(
    accounts: tuple[QueryBatch, ...], status: int, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_jsonl(tmp_path / "log.jsonl", *accounts)
    assert weirguard("scan", log, "--out", tmp_path / "out") == status
    assert why in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_table_with_names_texts_and_one_probability_is_scanned_and_judged_by_its_profile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The way of a user: the command proposes a mapping, takes it, and its profile takes the same table."""
    table = tmp_path / "scores.csv"
    table.write_text("user_id,when,age,income,country,score\n" + "\n".join(_table_rows()) + "\n", "utf-8")
    assert weirguard("scan", table, "--out", tmp_path / "out") == 2
    proposed = re.search(r"--map '([^']+)'", capsys.readouterr().err)
    assert proposed is not None
    mapped = ("--map", proposed[1])
    assert weirguard("scan", table, *mapped, "--out", tmp_path / "out") == 3, "a tenth of the rows has no account"
    printed = json.loads((tmp_path / "out" / "scan.json").read_text("utf-8"))
    assert [own["principal"] for own in printed["accounts"] if own["stands_out"]] == ["eve"]
    form = printed["models"][0]["form"]
    assert (form["outputs"], form["outputs_width"]) == ("probability", 2)
    assert form["feature_names"] == ["age", "country=DE", "country=FR", "country=PL", "income"]
    profile = tmp_path / "out" / printed["models"][0]["profile"]
    assert weirguard("replay", table, *mapped, "--profile", profile, "--out", tmp_path / "judged") == 3
    summary = json.loads((tmp_path / "judged" / "summary.json").read_text("utf-8"))
    assert [own["principal"] for own in summary["principals"] if own["first_flagged"] is not None] == ["eve"]


def _table_rows() -> list[str]:
    rng, rows = np.random.default_rng(3), list[str]()
    for number in range(14):
        for _ in range(60):
            age, income = rng.normal(40, 9), rng.lognormal(10, 0.4)
            shown = "" if rng.random() < 0.1 else f"{age:.0f}"
            score = 1 / (1 + np.exp((age - 40) / 9 - (income - 22_000) / 9_000))
            country = rng.choice(["DE", "FR", "PL"], p=[0.6, 0.3, 0.1])
            rows.append(f"shop-{number},{len(rows)},{shown},{income:.0f},{country},{score:.3f}")
    for _ in range(80):
        age, income = rng.uniform(0, 120), rng.uniform(0, 500_000)
        rows.append(f"eve,{len(rows)},{age:.0f},{income:.0f},{rng.choice(['DE', 'FR', 'PL'])},{rng.random():.3f}")
    return rows + [f",{len(rows)},40,20000,DE,0.5"] * (len(rows) // 9)


def test_every_measure_has_words() -> None:
    assert DESCRIPTIONS.keys() == set(COLUMNS)


def test_sentences_describe_an_account() -> None:
    parts = (("novelty", 9.0, 1.0, 8.0), ("sign_steps", 4.0, 2.0, 2.0), ("crossings", 0.3, 0.1, 0.2))
    own = ScannedAccount(500, 2.0, 10.2, 5.1, 40, 30, parts, "ana", ("bo",), "eve", left_out=True, stands_out=True)
    assert sentence(own) == "2.0 times the line, crossed at query 31 of 500, once bo does not excuse it"
    assert sentence(replace(own, left_out=False)).endswith("; it stays in the profile")
    assert sentence(replace(own, crossed=None, score=0.4)) == "0.40 times the line after 500 queries"
    assert reasons(own) == [
        "queries far from those of all other accounts: novelty 9.0, while ana reaches 1.0",
        f"{DESCRIPTIONS['sign_steps']}: sign_steps 4.0, while ana reaches 2.0",
    ]
    assert len(look_at(own)) == 2


def test_a_sieve_keeps_the_first_queries_of_each_account_in_bounded_memory() -> None:
    log = log_of(*crowd(5, rows=40), honest("once", 7, rows=3))
    whole, small = Sieve(), Sieve(room=40_000)
    for start in range(0, len(log), 17):
        piece = take(log, np.arange(start, min(start + 17, len(log))))
        whole.put(piece)
        small.put(piece)
    assert sum(map(len, whole.pieces)) == len(log) == sum(small.seen.values()) and not list(whole.cut())
    kept = Counter(piece.principals[at] for piece in small.pieces for at in piece.principal_index.tolist())
    assert 1 < small.most < 20 and set(kept.values()) == {small.most, min(small.most, 3)}
    assert dict(small.cut()) == {key: 40 for key in small.seen if key[2] != "once"}
    rows = np.concatenate(
        [piece.features[piece.principal_index == piece.principals.index("user-00")] for piece in small.pieces]
    )
    np.testing.assert_array_equal(rows, crowd(1, rows=40)[0].features[: small.most])
