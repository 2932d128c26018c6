"""Logs as people have them through ``calibrate``, ``replay`` and ``explain``: the same verdicts whatever way it was
logged, where the information is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detector.cli.main import main
from detector.core.profile import Profile
from tests.sources.logged_forms import customers, table_thieves, write_log

ACCOUNTS, THIEVES = 8, {"thief at random", "thief in steps"}


def _weirguard(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def _flagged(folder: Path, features: str, outputs: str, *options: object) -> tuple[Any, Path]:
    """When each account was flagged."""
    write_log(folder / "honest.jsonl", customers(ACCOUNTS, 1, 60), features, outputs)
    write_log(folder / "judged.jsonl", [*customers(2, 2, 60), *table_thieves(3, 60)], features, outputs)
    profile = folder / "m.profile"
    assert _weirguard("calibrate", folder / "honest.jsonl", "--out", profile, *options) == 0
    assert _weirguard("replay", folder / "judged.jsonl", "--profile", profile, "--out", folder / "out") == 0
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert not summary["refused"]
    return {own["principal"]: own["first_flagged"] for own in summary["principals"]}, profile


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("plain")
    found, profile = _flagged(folder, "numbers, texts one-hot", "all probabilities")
    assert {name for name, at in found.items() if at is not None} == THIEVES
    assert Profile.from_bytes(profile.read_bytes()).stored_form is None
    return found


@pytest.mark.parametrize(
    ("features", "outputs", "said"),
    [
        ("by name", "one probability", "one probability per row, taken as that of the second of two classes"),
        ("a list with texts", "an object of classes", "probabilities, of 2 classes by name"),
        ("by name, numbers as texts", "the best class and its probability", "probabilities, of 2 classes by name"),
    ],
)
def test_verdicts_are_those_on_all_numbers_and_probabilities(
    features: str, outputs: str, said: str, plain: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, profile = _flagged(tmp_path, features, outputs)
    assert found == plain
    assert said in capsys.readouterr().out.replace("\n", " ")
    log = tmp_path / "judged.jsonl"
    assert _weirguard("explain", "thief in steps", "--log", log, "--profile", profile) == 0
    captured = capsys.readouterr().out
    assert f"Suspect since query {plain['thief in steps'] + 1} of 60" in captured
    assert f"no honest query has, of 60 queries: {'1' if features == 'a list with texts' else 'age'} in 46" in captured


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ("a class by name", "one class per row, of 2 classes by name"),
        ("nothing", "none: accounts are judged by their inputs only"),
    ],
)
def test_without_probabilities_accounts_are_judged_by_what_they_ask(
    outputs: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _ = _flagged(tmp_path, "by name", outputs)
    assert {name for name, at in found.items() if at is not None} == THIEVES
    assert said in capsys.readouterr().out.replace("\n", " ")


def test_the_owner_has_the_last_word_on_what_outputs_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, profile = _flagged(tmp_path, "by name", "one probability", "--outputs", "score")
    made = Profile.from_bytes(profile.read_bytes())
    assert (made.form.outputs, made.reference.output_kind) == ("score", "score")
    assert "to say otherwise" not in capsys.readouterr().out
    settings = tmp_path / "settings.yaml"
    settings.write_text("detection: {outputs: {m: none}}\n")
    log, out = tmp_path / "honest.jsonl", tmp_path / "b.profile"
    assert _weirguard("calibrate", log, "--out", out, "--settings", settings) == 0
    assert Profile.from_bytes(out.read_bytes()).form.outputs == "none"
    assert _weirguard("replay", log, "--outputs", "label", "--out", tmp_path / "again") == 0
