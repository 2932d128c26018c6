"""``weirguard evaluate``: logs or a suite in, a report out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from detector.cli.main import main
from detector.lab.evaluation import judging, suite
from detector.lab.experiment import AttackPlan
from tests.lab.labelled import traffic, write_traffic


def _weirguard(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def test_labelled_logs_become_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WEIRGUARD_DETECTION__MODE", "compatible")
    seen = write_traffic(tmp_path / "a.parquet", traffic())
    unseen = write_traffic(tmp_path / "b.parquet", traffic(90), attack="short")
    assert _weirguard("evaluate", seen, unseen, "--out", tmp_path / "out") == 0
    captured = capsys.readouterr().err
    assert "1 of 2 attack runs is missed" in captured
    assert "990/990" in captured
    report = (tmp_path / "out" / "report.md").read_text()
    assert report.index("| short |") < report.index("| steps |")
    assert "Judged by prada" in report
    assert "in compatible mode" in report
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()


def test_settings_decide_who_judges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_traffic(tmp_path / "a.parquet", traffic())
    settings = tmp_path / "settings.yaml"
    settings.write_text("detection: {mode: compatible, prada: {delta: 0.01}}")
    assert _weirguard("evaluate", log, "--out", tmp_path / "out", "--settings", settings) == 0
    assert "1 of 1 attack run is missed" in capsys.readouterr().err


def test_a_suite_makes_its_logs_once_and_tells_what_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = AttackPlan("jbda", "logistic regression", "iris", budget=20, accounts=3)
    unfit = AttackPlan("no such attack", "logistic regression", "iris")
    monkeypatch.setitem(suite.SUITES, "quick", lambda: (small, unfit))
    assert _weirguard("evaluate", "--suite", "quick", "--out", tmp_path) == 0
    captured = capsys.readouterr().err
    assert "1 of 2 plans have an attack that cannot handle the victim" in captured
    assert "1 of 1 attack run is missed" in captured
    (log,) = (tmp_path / "logs").glob("*.parquet")
    made = log.stat().st_mtime_ns
    assert _weirguard("evaluate", "--suite", "quick", "--out", tmp_path) == 0
    assert log.stat().st_mtime_ns == made


def test_a_part_of_a_suite_is_reported_as_such_and_a_plan_that_fails_gives_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = AttackPlan("jbda", "logistic regression", "iris", budget=20, accounts=3)
    monkeypatch.setattr(suite, "_made", lambda missing: map(suite.make_log, missing, missing.values()))
    monkeypatch.setitem(suite.SUITES, "quick", lambda: (small,))
    assert _weirguard("evaluate", "--suite", "quick", "--out", tmp_path) == 0
    faulty = replace(small, accounts=-1)
    monkeypatch.setitem(suite.SUITES, "quick", lambda: (small, replace(small, seed=1), faulty))
    assert _weirguard("evaluate", "--suite", "quick", "--so-far", "--out", tmp_path) == 0
    assert len(list((tmp_path / "logs").glob("*.parquet"))) == 1
    assert "2 of 3 plans are not carried out yet" in capsys.readouterr().err
    assert "2 of 3 plans are not carried out yet" in (tmp_path / "report.md").read_text()
    assert _weirguard("evaluate", "--suite", "quick", "--out", tmp_path) == 1
    assert "1 of 3 plans failed" in capsys.readouterr().err
    assert "1 of 3 plans failed" in (tmp_path / "report.html").read_text()


def test_the_adaptive_suite_is_judged_with_profiles_and_prints_what_each_thief_pays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = ("logistic regression", "digits")
    own = AttackPlan("own rows", *target, budget=120, accounts=20)
    blind = AttackPlan("uniform after rows", *target, budget=160, accounts=0)
    monkeypatch.setattr(suite, "ADAPTIVE_TARGETS", (target,))
    monkeypatch.setattr(suite, "_made", lambda missing: map(suite.make_log, missing, missing.values()))
    monkeypatch.setitem(suite.SUITES, "adaptive", lambda: (own, blind, replace(blind, knows="code")))
    assert _weirguard("evaluate", "--suite", "adaptive", "--out", tmp_path) == 0
    captured = capsys.readouterr()
    lines = [line.split("│")[1:-1] for line in captured.out.splitlines() if "digits" in line]
    rows = [line for line in lines if len(line) == len(max(lines, key=len))]
    cells = {(row[1].strip(), row[3].strip()): [cell.strip() for cell in row] for row in rows}
    assert set(cells) == {("own rows", "none"), ("uniform after rows", "none"), ("uniform after rows", "code")}
    assert 0 < int(cells["uniform after rows", "none"][4]) < 30
    assert cells["own rows", "none"][4] == "missed"
    assert "of 20" in captured.out
    assert "1/1" in captured.err
    assert "Cost of staying unseen" in (tmp_path / "report.md").read_text()


def test_what_was_judged_is_not_judged_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = write_traffic(tmp_path / "a.parquet", traffic(90))
    assert _weirguard("evaluate", log, "--out", tmp_path) == 0
    before = (tmp_path / "report.html").read_text()
    monkeypatch.setattr(judging, "judge_labelled", None)
    assert _weirguard("evaluate", log, "--out", tmp_path) == 0
    assert (tmp_path / "report.html").read_text() == before


@pytest.mark.parametrize(
    "wrong", [(), ("a.parquet", "--suite", "quick"), ("--suite", "slow"), ("a.parquet", "--so-far")]
)
def test_neither_logs_nor_a_suite_or_both_is_refused(tmp_path: Path, wrong: tuple[str, ...]) -> None:
    assert _weirguard("evaluate", *wrong, "--out", tmp_path / "out") == 2
    assert not (tmp_path / "out").exists()


def test_what_is_no_labelled_log_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.parquet").write_text("no")
    assert _weirguard("evaluate", tmp_path / "a.parquet", "--out", tmp_path / "out") == 2
    assert "a.parquet" in capsys.readouterr().err
