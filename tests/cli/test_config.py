"""``weirguard config``."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from detector.cli.service import app
from detector.contracts.errors import ConfigurationError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weirguard.yaml"
    path.write_text("kafka: {prefix: shop}\nprincipals: {hash_key: hunter2}\n")
    return path


def _config(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_valid_settings_are_confirmed(file: Path) -> None:
    assert "The settings are valid." in _config("check", "--settings", str(file))


def test_wrong_settings_are_an_error(file: Path) -> None:
    file.write_text("kafka: {prefx: shop}", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"kafka\.prefx"):
        _config("check", "--settings", str(file))


def test_show_says_where_a_value_comes_from_and_hides_secrets(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIRGUARD_METRICS__PORT", "9999")
    lines = _config("show", "--settings", str(file)).splitlines()
    assert f'kafka.prefix: "shop"  # {file}' in lines
    assert "metrics.port: 9999  # WEIRGUARD_METRICS__PORT" in lines
    assert 'policy.mode: "observe"' in lines
    assert "hunter2" not in "".join(lines)


def test_show_is_scriptable(file: Path) -> None:
    shown = json.loads(_config("show", "--settings", str(file), "--json"))
    assert shown["settings"]["kafka"]["prefix"] == "shop"
    assert shown["sources"]["kafka.prefix"] == str(file)


def test_the_schema_takes_a_right_file_and_refuses_a_wrong_one(file: Path) -> None:
    schema = json.loads(_config("schema"))
    jsonschema.validate(yaml.safe_load(file.read_text(encoding="utf-8")), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"kafka": {"prefx": "shop"}}, schema)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("policy: {allowlist: NAMED}", "allowlist"),
        ("policy: {signal_modes: {prda: enforce}}", "'prada'"),
        ("detection: {profiles: [NAMED]}", "profile"),
        ("kafka: {security_protocol: SSL, ssl_cafile: NAMED}", "ssl_cafile"),
        ("kafka: {security_protocol: SSL, ssl_certfile: NAMED}", "ssl_certfile"),
        ("principals: {hash_key: a, hash_key_file: NAMED}", "both set"),
        ("worker: {stall_seconds: 1}", "stall_seconds"),
    ],
)
def test_check_finds_what_run_would_refuse_and_leaves_nothing_behind(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "named").write_text("no such thing", encoding="utf-8")
    file = tmp_path / "weirguard.yaml"
    file.write_text(text.replace("NAMED", str(tmp_path / "named")), encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigurationError, match=said):
        _config("check", "--settings", str(file))
    assert sorted(tmp_path.iterdir()) == before
