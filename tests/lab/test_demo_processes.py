"""A child process of the demo that does not do its work says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from detector.contracts.errors import WeirguardError
from detector.lab.demo.stage import Child


def test_a_child_that_ends_is_reported_with_its_last_words(tmp_path: Path) -> None:
    with (
        Child(["no-such-command"], {}, tmp_path) as child,
        pytest.raises(WeirguardError, match=r"ended with exit status 2.*\n.*there is no command 'no-such-command'"),
    ):
        child.wait_until("http://127.0.0.1:9/", 60)


def test_a_child_sees_the_demo_s_settings_and_none_of_the_caller_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIRGUARD_NO_SUCH__KEY", "1")
    settings = {"WEIRGUARD_KAFKA__NO_SUCH": "1"}
    with (
        Child(["run"], settings, tmp_path) as child,
        pytest.raises(WeirguardError, match="WEIRGUARD_KAFKA__NO_SUCH"),
    ):
        child.wait_until("http://127.0.0.1:9/", 60)


def test_a_child_that_is_never_ready_is_given_up_and_ended(tmp_path: Path) -> None:
    settings = {"WEIRGUARD_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:9", "WEIRGUARD_METRICS__PORT": "0"}
    with (
        Child(["run"], settings, tmp_path) as child,
        pytest.raises(WeirguardError, match="was not ready within 1 seconds"),
    ):
        child.wait_until("http://127.0.0.1:9/", 1)
    with pytest.raises(WeirguardError, match="ended with exit status"):
        child.check()
