"""What a receiver is sent, and how long it is left alone after a failure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detector.notify.notification import Notification
from detector.notify.subscription import (
    FIRST_RETRY_SECONDS,
    LONGEST_RETRY_SECONDS,
    RefusalFile,
    Selection,
    SentRevisions,
    retry_seconds,
)
from detector.runtime.receivers import ReceiverSettings
from tests.notify.alerts import NOW, group_notification, notification
from tests.notify.test_webhook import letters


def _selects(sent: Notification, **settings: Any) -> bool:
    return Selection.of(ReceiverSettings.model_validate({"ocsf": {}, **settings})).takes(sent)


@pytest.mark.parametrize(
    ("severity", "least"),
    [(severity, least) for severity in ("low", "medium", "high") for least in ("low", "medium", "high")],
)
def test_alerts_below_the_least_severity_are_left_out(severity: str, least: str) -> None:
    order = ["low", "medium", "high"]
    sent = notification(severity=severity)
    assert _selects(sent, least_severity=least) == (order.index(severity) >= order.index(least))


def test_models_select_alerts_and_groups_and_leave_out_dead_letters() -> None:
    for sent in (notification(), group_notification(), letters()):
        assert _selects(sent)
        assert _selects(sent, models=["iris", "digits"]) == (sent.model == "digits")
        assert not _selects(sent, models=["iris"])


def test_pauses_double_to_a_bound_and_vary_by_half() -> None:
    longest = [retry_seconds(failures, 0.0, 0.0) for failures in range(1, 10)]
    assert longest[:4] == [FIRST_RETRY_SECONDS * factor for factor in (1, 2, 4, 8)]
    assert longest[-1] == LONGEST_RETRY_SECONDS
    assert retry_seconds(9, 0.0, 0.5) == LONGEST_RETRY_SECONDS * 0.75
    assert retry_seconds(10_000, 0.0, 0.0) == LONGEST_RETRY_SECONDS


def test_a_pause_is_as_long_as_the_receiver_asks_for() -> None:
    assert retry_seconds(1, 7.0, 0.5) == 7.0
    assert retry_seconds(9, 7.0, 0.0) == LONGEST_RETRY_SECONDS


def test_the_file_of_refusals_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.notify.subscription._MOST_REFUSED_BYTES", 5_000)
    path = tmp_path / "refused.jsonl"
    refusals = RefusalFile(path)
    for number in range(50):
        refusals.keep("hook", "400", notification(f"alert{number}"), NOW)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["refused.jsonl", "refused.jsonl.1"]
    assert all(0 < file.stat().st_size <= 5_000 for file in tmp_path.iterdir())
    assert "alert49" in path.read_text("utf-8")


@pytest.mark.parametrize(
    ("first", "second", "news"),
    [
        (notification(), notification(), False),
        (notification(), notification(revision=2, severity="high"), True),
        (notification(revision=2, severity="high"), notification(), False),
        (notification(), notification(revision=2, released_by="alice"), True),
        (group_notification(size=5), group_notification(size=7, revision=2), False),
        (group_notification(size=7), group_notification(size=8, revision=2), True),
        (group_notification(), group_notification(revision=2, severity="high"), True),
        (group_notification(), group_notification(revision=2, dismissed_by="a"), True),
        (group_notification(), group_notification(revision=2, size=0), True),
    ],
)
def test_a_later_revision_is_news_if_its_state_is_another(
    first: Notification, second: Notification, news: bool
) -> None:
    sent = SentRevisions()
    assert sent.is_news(first)
    sent.remember(first)
    assert sent.is_news(second) == news


def test_the_memory_of_sent_revisions_is_bounded() -> None:
    sent = SentRevisions(most=3)
    for number in range(9):
        sent.remember(notification(f"alert{number}"))
    assert [number for number in range(9) if not sent.is_news(notification(f"alert{number}"))] == [6, 7, 8]
