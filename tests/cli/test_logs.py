"""What commands make of the logs that people have: ``--map``, folders, rows that are refused."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detector.cli.files import check_refused
from detector.cli.main import main
from detector.contracts.batches import cut
from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import QueryBatch
from detector.core.engine import EngineConfig
from detector.core.profile import Profile
from detector.policy.config import Policy
from detector.replay.report import replay
from tests.core.honest import crowd
from tests.core.profiles import profile
from tests.sources.flavours import separated
from tests.sources.logs import write_jsonl

MAP = "principal=user,occurred_at=ts,features=f_*,outputs=p,model=@credit"


def _table(folder: Path, odd: int = 0, accounts: int = 10) -> Path:
    """A table of honest accounts, as a folder of two parts; ``odd`` rows of the second part have text in a feature."""
    rows = [
        {"user": f"u{account}", "ts": 1.7e9 + 60 * at}
        | {f"f_{at}": float(value) for at, value in enumerate(features)}
        | {"p": float(outputs[0])}
        for account, own in enumerate(crowd(accounts, rows=60))
        for at, (features, outputs) in enumerate(zip(own.features, own.outputs, strict=True))
    ]
    (folder / "logs").mkdir()
    for row in rows[300 : 300 + odd]:
        row["f_1"] = "n/a"
    for part in range(2):
        text = separated(rows[part::2] if not odd else rows[300 * part : 300 * part + 300])
        (folder / "logs" / f"part-{part}.csv").write_text(text, "utf-8")
    return folder / "logs"


def _run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0)


def test_a_table_of_ones_own_goes_through_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs, out = _table(tmp_path), tmp_path / "out"
    assert _run("replay", logs, "--out", out) == 2
    assert "try --map 'principal=user,occurred_at=ts,outputs=p,features=f_*'" in capsys.readouterr().err
    assert _run("calibrate", "--honest", logs, "--map", MAP, "--out", tmp_path / "own.profile") == 0
    captured = capsys.readouterr()
    assert "credit 1" in captured.out
    assert captured.err.count("part-0.csv: no model_version; all rows are of '1'") == 1
    assert "part-1.csv: no" not in captured.err
    mapped = ["--map", "principal=user,occurred_at=ts", "--map", "features=f_*,outputs=p,model=@credit"]
    assert _run("replay", logs, "--merge", *mapped, "--profile", tmp_path / "own.profile", "--out", out) == 0
    assert json.loads((out / "summary.json").read_text("utf-8"))["queries"] == 600
    arguments = ["explain", "u1", "--log", logs / "part-*.csv", *mapped, "--profile", tmp_path / "own.profile"]
    assert _run(*arguments) == 0
    assert "60 queries to credit" in capsys.readouterr().out


def test_the_settings_may_say_which_columns_are_what(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs, settings = _table(tmp_path), tmp_path / "settings.yaml"
    settings.write_text("sources:\n  map: {principal: user, occurred_at: ts, features: f_*, model: '@own'}\n", "utf-8")
    arguments = ["replay", logs, "--out", tmp_path / "out", "--settings", settings, "--map", "outputs=p,model=@credit"]
    assert _run(*arguments) == 0
    principals = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))["principals"]
    assert {one["model"] for one in principals} == {"credit"}
    settings.write_text("sources:\n  map: {who: user}\n", "utf-8")
    capsys.readouterr()
    assert _run("config", "check", "--settings", settings) == 2
    assert "sources.map: 'who' is not a role" in capsys.readouterr().err


@pytest.mark.parametrize(("odd", "status"), [(30, 0), (40, 3)])
def test_many_refused_rows_are_an_exit_status_and_the_outputs_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], odd: int, status: int
) -> None:
    logs = _table(tmp_path, odd)
    assert _run("replay", logs, "--map", MAP, "--out", tmp_path / "out") == status
    summary = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    assert (summary["queries"], summary["reasons"]) == (600 - odd, {"structure": odd})
    refused = [json.loads(line) for line in (tmp_path / "out" / "refused.jsonl").read_text("utf-8").splitlines()]
    assert refused[0]["row"] == 1
    assert refused[0]["file"].endswith("part-1.csv")
    assert refused[0]["detail"] == "f_1 is 'n/a', which is not a number"
    assert _run("calibrate", "--honest", logs, "--map", MAP, "--out", tmp_path / "own.profile") == status
    assert Profile.from_bytes((tmp_path / "own.profile").read_bytes()).model == "credit"
    captured = capsys.readouterr().err
    told = f"{odd} of 600 rows were refused: {odd} for the reason structure; name other columns with --map"
    assert captured.count(told) == (2 if status else 0)


@pytest.mark.parametrize("command", [["replay"], ["calibrate", "--honest"]])
def test_of_nothing_no_command_is_content(tmp_path: Path, command: list[str]) -> None:
    for name in ("none.csv", "none.jsonl"):
        (tmp_path / name).touch()
    arguments = [*command, tmp_path / "none.csv", tmp_path / "none.jsonl", "--out", tmp_path / "out"]
    assert _run(*arguments) == (1 if command[0] == "replay" else 2)


def test_the_reasons_that_are_told_are_the_commonest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception, match="3"):
        check_refused(100, Counter(time=2, syntax=1, schema=30, outputs=9))
    told = "42 of 100 rows were refused: 30 for the reason schema, 9 for the reason outputs, 2 for the reason time"
    assert f"{told}; name the columns of outputs" in capsys.readouterr().err
    check_refused(100, Counter(time=5))


def _log(folder: Path, *pieces: QueryBatch) -> tuple[Path, Profile]:
    own = profile(pieces[0].features, threshold=50.0)
    named = [replace(piece, model=own.model, model_version=own.model_version) for piece in pieces]
    return write_jsonl(folder / "log.jsonl", *named), own


def test_a_row_of_another_width_is_refused_where_a_profile_is_asked_for(tmp_path: Path) -> None:
    good, other = crowd(2, rows=100)
    odd = replace(other, features=np.zeros((100, 9), np.float32))
    log, own = _log(tmp_path, good, cut(odd, 0, 2), other)
    options = {"engine_config": EngineConfig(profiles=(own,)), "policy": Policy(), "must_fit": (own,)}
    summary = replay([log], tmp_path / "out", **options)  # type: ignore[arg-type]
    assert (summary["queries"], summary["reasons"]) == (200, {"dimension": 2})
    log, _ = _log(tmp_path, good, odd)
    (tmp_path / "log.jsonl").write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[100:]))
    with pytest.raises(ConfigurationError, match="queries have 9 features, and in its profile 6"):
        replay([log], tmp_path / "out", **options)  # type: ignore[arg-type]
