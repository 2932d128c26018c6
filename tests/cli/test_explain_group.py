"""``weirguard explain --group``: a ring in a log, in words, as JSON and as a page."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import typer
from typer.testing import CliRunner, Result

from detector.cli.explain import PAGE, explain
from detector.core.configuration import EngineConfig
from detector.policy.config import Policy
from detector.replay.group_course import courses_in_alerts
from detector.replay.report import replay
from tests.groups.rings import calibrated, others, ring, stream
from tests.lab.records import group
from tests.sources.logs import write_jsonl


def run(*arguments: str | Path) -> Result:
    app = typer.Typer()
    app.command()(explain)
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with a ring, the profile, and what a replay reports."""
    folder = tmp_path_factory.mktemp("group")
    log = write_jsonl(folder / "log.jsonl", stream([*others(20), *ring(12, 120)]))
    (folder / "credit.profile").write_bytes(calibrated().to_bytes())
    replay([log], folder / "out", engine_config=EngineConfig(profiles=(calibrated(),)), policy=Policy())
    return folder


def test_the_members_are_those_of_the_replay_with_when_they_joined_and_what_they_show(folder: Path) -> None:
    [own] = json.loads((folder / "out/summary.json").read_text("utf-8"))["groups"]
    given = ("--log", folder / "log.jsonl", "--profile", folder / "credit.profile", "--out", folder)
    result = run("--group", own["id"][:6], *given, "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert (printed["group"], printed["size"]) == (own["id"], len(own["members"]))
    assert [member["principal"] for member in printed["members"]] == own["members"]
    joined = [member["joined"] for member in printed["members"]]
    assert joined == sorted(joined)
    assert all(member["queries"] > 0 for member in printed["members"])
    assert any(member["evidence"] for member in printed["members"])
    union = printed["as_one_account"]
    assert union["queries"] == sum(member["queries"] for member in printed["members"])
    assert union["first_flagged_query"] is not None
    page = (folder / PAGE).read_text("utf-8")
    ET.fromstring(page.partition("\n")[2])  # noqa: S314 - our own
    assert "accounts that share one theft" in page and page.count("<svg") >= 2
    assert all(name in page for name in own["members"])
    text = " ".join(run("--group", own["id"], *given[:4]).stdout.split())
    assert f"Group {own['id']}" in text and "as those of one account" in text


def test_an_unknown_group_is_refused_with_those_that_there_are(folder: Path) -> None:
    result = run("--group", "nobody", "--log", folder / "log.jsonl", "--profile", folder / "credit.profile")
    assert "0 groups begin with 'nobody'; there are: " in str(result.exception)


@pytest.mark.parametrize("arguments", [(), ("ana", "--group", "c0ffee")])
def test_an_account_or_a_group_is_named(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


def test_members_joined_when_an_alert_first_named_them() -> None:
    first, second = group("ring-1", "ring-2"), group("ring-2", "ring-3", revision=2)
    [course] = courses_in_alerts([second, first])
    assert list(course.joined) == ["ring-1", "ring-2", "ring-3"]
    assert course.size == 2
