"""Names, reasons and messages full of escapes, through every command that prints them."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from detector.cli import decisions, main, principals, screen
from detector.cli.explain import show
from detector.contracts.findings import Cause, Evidence
from detector.core.configuration import EngineConfig
from detector.explain.explanation import explanation_of
from detector.explain.page import page
from detector.lab.evaluation.picture import picture
from detector.lab.evaluation.report import html
from detector.lab.evaluation.results import HonestResult
from detector.policy.config import Policy
from detector.replay.principal import replay_principal
from detector.replay.topics import CurrentDecisions, Key
from detector.runtime.text import rfc3339
from tests.cli.test_operator import alert, decision, score
from tests.core.honest import thief
from tests.lab.labelled import evaluation, result
from tests.sources.logs import write_jsonl

HOSTILE = "a\x1b[2J\x1b]0;t\x07\u202eb\u2066\u200b\nall is well\r\x9b[red]x[/red][/]<b>&"


def is_harmless(text: str, lines: int | None = None) -> None:
    """Nothing that a terminal obeys, the name shown, its markup as it was written, and no line of its own."""
    found = {one for one in text if unicodedata.category(one) in {"Cc", "Cf", "Cs", "Zl", "Zp"}}
    assert found <= {"\n"}
    assert "\\x1b[2J" in text
    assert not any(line.lstrip(" │").startswith("all is well") for line in text.splitlines())
    assert lines is None or len(text.splitlines()) == lines


@pytest.fixture
def standing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker full of hostile text: what the codecs would refuse may still come from another version."""
    monkeypatch.setenv("WEIRGUARD_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    causes = (Cause(HOSTILE, f"operator:{HOSTILE}", 2e9, HOSTILE), Cause("c2", "signal:prada", 1e300, HOSTILE))
    one = replace(decision("p"), model=HOSTILE, principal=HOSTILE, causes=causes, expires_at=1e300)
    key: Key = (HOSTILE, HOSTILE)
    scored = replace(score("p", 1.2, flagged=True), model=HOSTILE, principal=HOSTILE, signals={HOSTILE: 1.0})
    for module in (decisions, principals):
        monkeypatch.setattr(module, "read_decisions", lambda *_: CurrentDecisions({key: one}, one))
    monkeypatch.setattr(principals, "read_scores", lambda *_: {key: scored})
    monkeypatch.setattr(principals, "read_alerts", lambda *_: [hostile_alert()])
    monkeypatch.setattr(principals, "Topic", Nothing)
    monkeypatch.setattr(principals, "readable_alerts", lambda _: iter([hostile_alert()]))


class Nothing:
    def __init__(self, *_: object) -> None: ...
    def __enter__(self) -> Nothing:
        return self

    def __exit__(self, *_: object) -> None: ...
    def seek_to_end(self) -> None: ...
    def follow(self) -> list[Any]:
        return []


def hostile_alert() -> Any:
    evidence = (Evidence(HOSTILE, 0.8, HOSTILE, 0.9),)
    return replace(
        alert("p"), model=HOSTILE, principal=HOSTILE, signal=HOSTILE, evidence=evidence, suppressed_by=HOSTILE
    )


@pytest.mark.parametrize(
    ("app", "arguments"),
    [
        (decisions.app, ["list"]),
        (decisions.app, ["list", "--json"]),
        (principals.app, ["top"]),
        (principals.app, ["top", "--json"]),
        (principals.app, ["show", HOSTILE, HOSTILE]),
        (principals.app, ["show", HOSTILE, HOSTILE, "--json"]),
        (principals.alerts, ["tail"]),
        (principals.alerts, ["tail", "--json"]),
    ],
)
@pytest.mark.usefixtures("standing")
def test_what_is_printed_of_others_text_is_harmless(app: Any, arguments: list[str]) -> None:
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    text = done.stdout
    if "--json" in arguments:
        assert text.isascii()
        assert "\\u001b[2J" in text
        text = text.replace("\\u001b", "\\x1b")
    is_harmless(text, lines=1 if arguments == ["tail"] else None)
    assert "[red]x[/red][/]" in text


def test_an_explanation_is_harmless_on_the_terminal_and_on_its_page(capsys: pytest.CaptureFixture[str]) -> None:
    queries = replace(thief(rows=60), principals=[HOSTILE], model=HOSTILE, model_version=HOSTILE)
    engine = EngineConfig()
    replayed = replay_principal([(queries, queries.occurred_at)], engine, Policy())
    account = explanation_of(replayed, engine, HOSTILE)
    show(account, screen.console())
    is_harmless(capsys.readouterr().out)
    shown = page(account)
    is_harmless(shown)
    assert "<b>&" not in shown


def test_the_report_of_an_evaluation_is_harmless() -> None:
    results = [result(HOSTILE, victim=HOSTILE, wrapper=HOSTILE)]
    shown = html(evaluation(*results, honest=(HonestResult.of(HOSTILE, 1, 1),), gaps=(HOSTILE,)), picture(results))
    is_harmless(shown)
    assert "<b>&" not in shown


def test_an_explanation_and_a_replay_of_a_log_with_such_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names that the codecs take: those without controls, but with what reverses and hides."""
    name = "a\u202eb\u2066[/]<b>"
    folder = tmp_path / "\x1b[2J\u202e[/red]"
    folder.mkdir(parents=True)
    log = write_jsonl(folder / "log.jsonl", replace(thief(rows=60), principals=[name]))
    for arguments in (
        ["explain", name, "--log", str(log), "--out", str(folder / "why")],
        ["replay", str(log), "--out", str(folder / "out")],
    ):
        with pytest.raises(SystemExit) as stopped:
            main.main(arguments)
        assert stopped.value.code == 0
        captured = capsys.readouterr()
        is_harmless(captured.err)
    for written in [*folder.rglob("*.json*"), *folder.rglob("*.html")]:
        if written != log:
            assert not set(written.read_text(encoding="utf-8")) & {"\u202e", "\u2066"}, written


def test_an_error_is_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["replay", f"{HOSTILE}.jsonl", "--out", "x"])
    is_harmless(capsys.readouterr().err, lines=1)


@pytest.mark.parametrize("at", [1e300, -1e300, 1e12, float("nan"), float("inf")])
def test_a_time_that_is_none_is_still_told(at: float) -> None:
    assert "1970" in rfc3339(at)
