"""``weirguard calibrate``, and what ``replay``, ``evaluate`` and ``config`` make of its profiles."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import detector
from detector.cli.calibrate import describe
from detector.cli.main import main
from detector.contracts.batches import concatenate, take
from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import QueryBatch
from detector.core.owner_model import Features, Linear, to_json
from detector.core.profile import Profile
from detector.lab.query_log import Mark, QueryLog, write_query_log
from detector.replay.calibrate import CalibrationOptions, digest_of, make_profile, read_files
from tests.core.honest import CLASSES, DIMENSION, crowd, honest, of_version, thief
from tests.groups.rings import others, ring
from tests.lab.labelled import run_of
from tests.sources.logs import rows_of, write_jsonl, write_parquet

CROWD = crowd(10)
JUDGED = [*crowd(4, seed=900), thief("eve", 8)]


def log_of(*accounts: QueryBatch) -> QueryBatch:
    """All of them by time, as a log has them."""
    [whole] = concatenate(accounts)
    return take(whole, np.argsort(whole.occurred_at, kind="stable"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrate")
    write_jsonl(folder / "honest.jsonl", log_of(*CROWD))
    write_jsonl(folder / "judged.jsonl", log_of(*JUDGED))
    return folder


@pytest.fixture(scope="module")
def profile(folder: Path) -> Path:
    path = folder / "credit.profile"
    assert _weirguard("calibrate", "--honest", folder / "honest.jsonl", "--out", path) == 0
    return path


def _weirguard(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def _made(path: Path) -> Any:
    return Profile.from_bytes(path.read_bytes()).provenance


def test_the_profile_says_how_it_was_made_and_names_nobody(folder: Path, profile: Path) -> None:
    made = _made(profile)
    assert made["code_version"] == detector.__version__
    assert (made["budget"], made["accounts"], made["queries"]) == (0.01, 10, 500)
    assert (made["flagged"], made["rate"], made["rate_low"], made["accounts_left_out"]) == (0, 0.0, 0.0, 0)
    assert made["rate_high"] == pytest.approx(1 - 0.025**0.1)
    assert (made["rate_bound"], made["confidence"]) == (pytest.approx(1 - 0.05**0.1), 0.95)
    assert (made["queries_median"], made["accounts_too_short"]) == (50, 0)
    assert made["threshold_low"] <= made["threshold_high"]
    assert made["data"] == [digest_of(folder / "honest.jsonl")]
    assert (made["feature_scale"], made["embedding_axes"]) == ("as logged", DIMENSION)
    assert not any(own.principals[0].encode() in profile.read_bytes() for own in CROWD)


def test_the_same_logs_make_the_same_bytes_however_they_are_cut(tmp_path: Path, folder: Path, profile: Path) -> None:
    again = tmp_path / "again.profile"
    assert _weirguard("calibrate", folder / "honest.jsonl", "--out", again) == 0
    assert again.read_bytes() == profile.read_bytes()
    log = log_of(*CROWD)
    odd = write_parquet(tmp_path / "odd.parquet", rows_of(take(log, np.arange(1, len(log), 2))))
    even = write_jsonl(tmp_path / "even.jsonl", take(log, np.arange(0, len(log), 2)))
    assert _weirguard("calibrate", "--honest", odd, even, "--out", again) == 0
    halves, whole = (Profile.from_bytes(path.read_bytes()) for path in (again, profile))
    assert replace(halves, provenance={}).hash == replace(whole, provenance={}).hash
    assert halves.hash != whole.hash


def test_of_labelled_logs_only_honest_rows_are_taken(
    tmp_path: Path, profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = log_of(*CROWD, thief())
    who = [queries.principals[at] for at in queries.principal_index]
    marks = [Mark("extraction", "jbda") if name == "mallory" else Mark("honest", "steady") for name in who]
    write_query_log(tmp_path / "lab.parquet", QueryLog(queries, marks, run_of()))
    out = tmp_path / "lab.profile"
    assert _weirguard("calibrate", "--honest", tmp_path / "lab.parquet", "--out", out) == 0
    assert "left out: 120 rows labelled as a thief's" in capsys.readouterr().out
    lab, clean = (Profile.from_bytes(path.read_bytes()) for path in (out, profile))
    assert replace(lab, provenance={}).hash == replace(clean, provenance={}).hash


def test_a_column_called_label_is_the_owners_business(tmp_path: Path) -> None:
    rows = [row | {"label": "cat"} for row in rows_of(log_of(*CROWD[:3]))]
    traffic = read_files([write_parquet(tmp_path / "log.parquet", rows)], lambda _: None)
    assert (traffic.dishonest, sum(map(len, traffic.pieces))) == (0, 150)


def test_a_thief_among_the_honest_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_jsonl(tmp_path / "log.jsonl", log_of(*CROWD, thief()))
    assert _weirguard("calibrate", "--honest", log, "--out", tmp_path / "left") == 0
    captured = capsys.readouterr().out
    assert "stands out  mallory: " in captured and "sign_steps" in captured
    assert (
        "if kept, it excuses any account as extreme in" in captured
        and "with --leave-out mallory, accounts like it" in captured
    )
    assert (_made(tmp_path / "left")["accounts"], _made(tmp_path / "left")["flagged"]) == (11, 1)
    assert b"mallory" not in (tmp_path / "left").read_bytes()
    assert _weirguard("calibrate", "--honest", log, "--leave-out", "mallory", "--out", tmp_path / "without") == 0
    captured = capsys.readouterr().out
    assert "left out    mallory, as asked" in captured and "stands out" not in captured
    assert (_made(tmp_path / "without")["accounts"], _made(tmp_path / "without")["accounts_left_out"]) == (10, 1)


def test_accounts_that_share_one_theft_are_named_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = ring(12, 120)
    log = write_jsonl(tmp_path / "log.jsonl", log_of(*others(30), *members))
    assert _weirguard("calibrate", "--honest", log, "--out", tmp_path / "profile") == 0
    captured = capsys.readouterr().out
    assert "ring        12 accounts look like one thief: ring-000, " in captured
    leave_out = [argument for own in members for argument in ("--leave-out", own.principals[0])]
    assert f"            {' '.join(leave_out)}\n" in captured
    assert _weirguard("calibrate", "--honest", log, *leave_out, "--out", tmp_path / "profile", "--json") == 0
    assert json.loads(capsys.readouterr().out)["rings"] == []


def test_the_outcome_says_how_sure_the_rate_is_and_for_which_accounts(tmp_path: Path) -> None:
    log = write_jsonl(tmp_path / "log.jsonl", log_of(*CROWD[:4], honest("once", 3, rows=1)))
    traffic = read_files([log], lambda _: None)
    said = "\n".join(describe(make_profile(traffic, CalibrationOptions(0.01)), traffic, 0.01))
    assert "at most 52.7% of accounts like these, with 95% confidence: 0 of 4 were flagged" in said
    assert "each judged by the others, of 50 queries at the median" in said
    assert "4 accounts are few" in said and "Variety of accounts matters more" in said
    assert "the true rate may be up to 52.7%. It takes 299 accounts of which none is flagged" in said
    assert "accounts with fewer than 10 different queries: 1." in said and "accounts with about 50 queries" in said
    assert "if made without any one account" in said


def test_a_script_reads_the_outcome_from_json(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "profile"
    assert _weirguard("calibrate", "--honest", folder / "honest.jsonl", "--out", out, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    profile = Profile.from_bytes(out.read_bytes())
    assert (printed["out"], printed["profile"], printed["model"]) == (str(out), profile.hash, "credit")
    assert printed["threshold"] == profile.standards.threshold
    assert {name: printed[name] for name in profile.provenance} == profile.provenance
    assert all(own["largest"] > own["allowed"] for own in printed["outliers"])
    assert any("few" in note for note in printed["notes"])


def test_names_and_order_change_no_profile_and_the_budget_does(tmp_path: Path) -> None:
    profiles = []
    for order, budget in ((range(10), 0.01), ((7, 2, 9, 4, 0, 8, 1, 6, 3, 5), 0.01), (range(10), 0.2)):
        named = [replace(CROWD[at], principals=[f"{place}"]) for place, at in enumerate(order)]
        traffic = read_files([write_jsonl(tmp_path / "log.jsonl", log_of(*named))], lambda _: None)
        profiles.append(make_profile(traffic, CalibrationOptions(budget)).profile)
    one, two, lax = (profile.standards for profile in profiles)
    assert one.threshold == two.threshold and (one.exemplars == two.exemplars).all()
    assert lax.threshold < one.threshold


def test_bad_rows_are_counted(tmp_path: Path) -> None:
    log = write_jsonl(tmp_path / "log.jsonl", log_of(*CROWD[:3]))
    log.write_bytes(log.read_bytes() + b"{}\nnonsense\n")
    assert read_files([log], lambda _: None).refused == 2


def test_the_owners_model_and_validation_rows_join_the_profile(tmp_path: Path, folder: Path) -> None:
    weights = np.random.default_rng(0).standard_normal((CLASSES, DIMENSION))
    model = tmp_path / "model.json"
    model.write_text(to_json(Linear(Features.unnamed(DIMENSION), weights, np.zeros(CLASSES), "softmax")))
    rows = write_jsonl(tmp_path / "rows.jsonl", honest("rows", 3, rows=2_100))
    out = tmp_path / "profile"
    given = ("--model", model, "--validation", rows)
    assert _weirguard("calibrate", "--honest", folder / "honest.jsonl", *given, "--out", out) == 0
    read = Profile.from_bytes(out.read_bytes())
    assert isinstance(read.owner_model, Linear) and read.margins is not None and read.validation is not None
    assert read.validation.features.shape == (2_000, DIMENSION)
    assert read.provenance["data"][1:] == [digest_of(rows), digest_of(model)]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--out", "p"), "name honest logs with --honest, or a time with --since"),
        (("--honest", "{log}", "--since", "1h", "--out", "p"), "name honest logs with --honest, or a time"),
        (("--honest", "{log}", "--out", "p", "--budget", "0"), "budget"),
        (("--honest", "{log}", "--out", "p", "--leave-out", "zoe"), "there is no account zoe in the honest logs"),
        (("--honest", "{log}", "--out", "p", "--model-version", "2"), "no honest queries to calibrate on"),
        (("--honest", "{log}", "--out", "p", "--model", "{log}"), "--model: {log}: not a model file"),
        (("--honest", "{log}", "--out", "p", "--validation", "{other}"), "has rows of [7] features"),
        (("--honest", "{log}", "{other}", "--out", "p"), "the logs are of credit 1, digits 3"),
        (("--honest", "{log}", "{other}", "--out", "p", "--model-name", "digits"), "2 honest accounts are too few"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], why: str
) -> None:
    ana = replace(honest("ana", 2), model="digits", model_version="3", features=np.zeros((50, 7), np.float32))
    other = write_jsonl(tmp_path / "other.jsonl", ana, replace(ana, principals=["bo"]))
    names = {"log": write_jsonl(tmp_path / "log.jsonl", log_of(*CROWD[:3])), "other": other}
    assert _weirguard("calibrate", *(argument.format(**names) for argument in arguments)) == 2
    assert why.format(**names) in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_replay_judges_by_the_profile(tmp_path: Path, folder: Path, profile: Path) -> None:
    assert _weirguard("replay", folder / "judged.jsonl", "--profile", profile, "--out", tmp_path) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    flagged = [entry["principal"] for entry in summary["principals"] if entry["first_flagged"] is not None]
    assert flagged == ["eve"]
    alert, higher = [json.loads(line) for line in (tmp_path / "alerts.jsonl").read_text().splitlines()]
    assert (alert["signal"], alert["profile"]) == ("suspicion", Profile.from_bytes(profile.read_bytes()).hash)
    assert (alert["calibrated"], alert["id"], summary["alerts"]) == (True, higher["id"], 1)
    assert [(one["revision"], one["severity"]) for one in (alert, higher)] == [(1, "medium"), (2, "high")]
    assert summary["calibrated"] is True
    assert summary["models"] == [
        {"model": "credit", "model_version": "1", "calibrated": True, "profile": alert["profile"]}
    ]


@pytest.mark.parametrize("command", ["replay", "evaluate"])
def test_a_profile_of_another_version_is_refused(
    command: str, tmp_path: Path, profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = of_version(log_of(*JUDGED), "2")
    marks = [Mark("honest", "steady")] * (len(queries) - 1) + [Mark("extraction", "jbda")]
    write_query_log(tmp_path / "log.parquet", QueryLog(queries, marks, run_of()))
    given = ("--profile", profile, "--out", tmp_path / "out")
    assert _weirguard(command, tmp_path / "log.parquet", *given) == 2
    assert "there is no profile for credit 2, only for version 1; write one for it" in capsys.readouterr().err


def test_evaluate_judges_by_the_profile(tmp_path: Path, profile: Path) -> None:
    queries = log_of(*JUDGED)
    who = [queries.principals[at] for at in queries.principal_index]
    marks = [Mark("extraction", "steps") if name == "eve" else Mark("honest", "steady") for name in who]
    write_query_log(tmp_path / "log.parquet", QueryLog(queries, marks, run_of(sent=120, useful=120)))
    assert _weirguard("evaluate", tmp_path / "log.parquet", "--profile", profile, "--out", tmp_path / "out") == 0
    assert "steps is caught at query" in (tmp_path / "out" / "report.md").read_text()


def test_settings_may_name_profiles_and_config_tells_of_them(
    tmp_path: Path, profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "weirguard.yaml"
    settings.write_text(json.dumps({"detection": {"profiles": [str(profile)]}}))
    assert _weirguard("config", "check", "--settings", settings) == 0
    own = Profile.from_bytes(profile.read_bytes()).hash
    assert f"profile {own} of credit 1: accounts 10, queries 500, budget 0.01" in capsys.readouterr().out
    assert _weirguard("config", "show", "--settings", settings) == 0
    assert f'detection.profiles: ["{profile}"]  # {settings}' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "detection.profiles.0"),
        (b"damaged", "not a profile"),
        ("twice", "are both profiles of credit 1; keep one"),
    ],
)
def test_profiles_that_cannot_be_used_are_errors_at_the_start(
    tmp_path: Path, profile: Path, capsys: pytest.CaptureFixture[str], content: bytes | str | None, why: str
) -> None:
    path = tmp_path / "other.profile"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else profile.read_bytes())
    settings = tmp_path / "weirguard.yaml"
    settings.write_text(json.dumps({"detection": {"profiles": [str(profile), str(path)]}}))
    if content is None:
        settings.write_text(json.dumps({"detection": {"profiles": [str(path)]}}))
    assert _weirguard("config", "check", "--settings", settings) == 2
    assert why in capsys.readouterr().err


def test_the_settings_profiles_bind_replay_to_nothing(tmp_path: Path, profile: Path) -> None:
    settings = tmp_path / "weirguard.yaml"
    settings.write_text(json.dumps({"detection": {"profiles": [str(profile)]}}))
    log = write_jsonl(tmp_path / "log.jsonl", of_version(log_of(*JUDGED), "2"))
    assert _weirguard("replay", log, "--settings", settings, "--out", tmp_path / "out") == 0
    with pytest.raises(ConfigurationError, match="no such file"):
        read_files([tmp_path / "absent.jsonl"], lambda _: None)
