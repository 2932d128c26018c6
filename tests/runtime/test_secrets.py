"""Wherever a secret may stand, and whatever is wrong there or beside it, no error and no output shows it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import structlog
import yaml
from pydantic import BaseModel, SecretStr, ValidationError

from detector.contracts.errors import ConfigurationError
from detector.contracts.principals import PrincipalHasher
from detector.runtime.logging import configure_logging
from detector.runtime.sections import KafkaSettings, LoggingSettings, secret
from detector.runtime.settings import Key, Settings, is_private, leaf_of, leaves, load_settings, name_of
from detector.serving import Connection

MARK = "hunter2-Tr0ub4dor"

SECRETS = [
    key
    for key in leaves(Settings)
    if (leaf := leaf_of(Settings, key)) and SecretStr in get_args(leaf[0].model_fields[leaf[1]].annotation)
]
SECRET_FILES = [(*key[:-1], f"{key[-1]}_file") for key in SECRETS]
PRIVATE = [key for key in leaves(Settings) if (leaf := leaf_of(Settings, key)) and is_private(*leaf)]

RIGHT: dict[str, Any] = {
    "kafka": {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_plain_username": "me"}
}


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("WEIRGUARD_"):
            monkeypatch.delenv(name)


def _refused(path: Path | None = None) -> str:
    """The error, with all that a traceback would show of what is behind it."""
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path)
    assert "\n" not in str(caught.value)
    return "".join(traceback.format_exception(caught.value))


def _nested(key: Key, value: object) -> dict[str, Any]:
    for part in reversed(key):
        value = {part: value}
    return value  # type: ignore[return-value]


def test_the_secrets_are_found() -> None:
    assert ("kafka", "sasl_plain_password") in SECRETS
    assert ("principals", "hash_key") in SECRETS
    assert {*SECRETS, *SECRET_FILES} <= {*PRIVATE}


@pytest.mark.parametrize("key", PRIVATE, ids=".".join)
@pytest.mark.parametrize("wrong", [[MARK], {MARK: 1}, {"a": MARK}, MARK, [[MARK]]], ids=repr)
def test_a_wrong_value_of_a_private_key_is_not_shown(key: Key, wrong: object, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump({**_nested(key, wrong), "metrics": {"port": -1}}), encoding="utf-8")
    message = _refused(file)
    assert MARK not in message
    assert "metrics.port" in message


@pytest.mark.parametrize("key", SECRETS, ids=".".join)
@pytest.mark.parametrize(
    "line",
    [
        '{name}: "{mark}',
        "{name}: '{mark}",
        "{name}: [{mark}",
        "{name}: *{mark}",
        "{name}: !{mark}",
        "{name}: !!int {mark}",
        "{name}: !!bool {mark}",
        "{name}: !!timestamp {mark}",
        "{name}: !!binary '{mark}'",
        '{name}: "\\q{mark}"',
        "{name}: {mark}: {mark}",
        "{name}: {{{mark}, {mark}}}",
        "{name}: @{mark}",
        "{name}: %{mark}",
        "{name}: `{mark}",
        "{name}: {mark}\t: x",
        "{name}: &{mark}\n  b: &{mark} *{mark}",
        "{name}:{mark}: 1",
        "{name}:{mark}",
        "{name} {mark}",
        "{name}={mark}: 1",
        "- {mark}",
        "{name}: {mark}\x07",
        "{name}: {mark}\n  {name}: {mark}",
    ],
)
def test_a_broken_line_is_placed_and_not_shown(key: Key, line: str, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    broken = line.format(name=key[-1], mark=MARK)
    for text in (f"{key[0]}:\n  {broken}\n  z: 1\n", f"{key[0]}:\n  {broken}\n", f"{broken}\n"):
        file.write_text(text, encoding="utf-8")
        assert MARK not in _refused(file), text


@pytest.mark.parametrize("key", SECRETS, ids=".".join)
@pytest.mark.parametrize(
    "variable",
    [
        ("{section}", "{mark}"),
        ("{section}", '"{mark}"'),
        ("{section}", '["{mark}"]'),
        ("{section}", '{{"{name}": "{mark}"'),
        ("{section}", '{{"{name}": ["{mark}"]}}'),
        ("{section}", '{{"{name}": "{mark}", "{name}x": 1}}'),
        ("{section}", '{{"{name} {mark}": 1}}'),
        ("{section}__{name}__x", "{mark}"),
        ("{section}__{name}x", "{mark}"),
        ("{section}_{name}", "{mark}"),
        ("{section}__{name}_file", "{mark}"),
    ],
    ids=str,
)
def test_a_wrong_variable_is_named_and_not_shown(
    key: Key, variable: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, value = (part.format(section=key[0], name=key[-1], mark=MARK) for part in variable)
    monkeypatch.setenv(f"WEIRGUARD_{name}".upper(), value)
    message = _refused()
    assert MARK not in message
    assert f"WEIRGUARD_{name}".upper() in message


@pytest.mark.parametrize("key", SECRETS, ids=".".join)
def test_a_secret_beside_an_error_is_not_shown(key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump({key[0]: {key[-1]: MARK, "unknown": MARK}}), encoding="utf-8")
    assert MARK not in _refused(file)
    file.write_text(yaml.safe_dump({"elsewhere": {key[-1]: MARK}}), encoding="utf-8")
    assert MARK not in _refused(file)
    file.unlink()
    monkeypatch.setenv(name_of(key), MARK)
    monkeypatch.setenv("WEIRGUARD_METRICS__PORT", "x")
    assert MARK not in _refused()


@pytest.mark.parametrize("key", SECRETS, ids=".".join)
@pytest.mark.parametrize("content", [b"\xff" + MARK.encode(), MARK.encode() + b"\xff", b""], ids=repr)
def test_a_wrong_file_of_a_secret_is_named_and_not_shown(key: Key, content: bytes, tmp_path: Path) -> None:
    held = tmp_path / "secret"
    held.write_bytes(content)
    model, name = leaf_of(Settings, key) or (None, "")
    assert model is not None
    named: dict[str, Any] = {f"{name}_file": held}
    section: Any = model.model_construct(**named)
    with pytest.raises(ConfigurationError) as caught:
        secret(section, key[0], name)
    assert MARK not in "".join(traceback.format_exception(caught.value))
    assert f"{name}_file" in str(caught.value)
    assert str(held) in str(caught.value)


@pytest.mark.parametrize("servers", ["user:{0}@kafka:9092", "sasl://user:{0}@kafka:9092", "kafka:9092,u:{0}@b:1"])
def test_a_password_before_a_server_is_refused_and_not_shown(servers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIRGUARD_KAFKA__BOOTSTRAP_SERVERS", servers.format(MARK))
    message = _refused()
    assert MARK not in message
    assert "not host:port" in message


@pytest.fixture
def whole(tmp_path: Path) -> Settings:
    """Settings in which every secret is the mark."""
    return Settings(
        kafka={**RIGHT["kafka"], "sasl_plain_password": MARK},
        principals={"hash_key": MARK},
    )


def test_what_holds_a_secret_does_not_show_it(whole: Settings) -> None:
    connection = Connection("a:1", options=whole.kafka.client_arguments())
    shown = [
        whole,
        whole.kafka,
        whole.principals,
        whole.principals.hasher(),
        PrincipalHasher(MARK.encode()),
        connection,
    ]
    assert MARK not in "".join(f"{one!r} {one}" for one in shown) + json.dumps(whole.redacted())


def test_errors_of_the_models_themselves_show_no_input(whole: Settings) -> None:
    section = {"sasl_plain_password": [MARK], "x": MARK}
    wrong: list[tuple[type[BaseModel], dict[str, Any]]] = [
        (Settings, {"kafka": section}),
        (Settings, {"principals": MARK}),
        (KafkaSettings, section),
    ]
    for model, values in wrong:
        with pytest.raises(ValidationError) as caught:
            model(**values)
        assert MARK not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("form", ["json", "console"])
def test_the_log_withholds_what_is_named_like_a_secret_however_deep(
    form: Any, whole: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(LoggingSettings(format=form))
    arguments = whole.kafka.client_arguments()
    log = structlog.get_logger()
    log.error("x", arguments=arguments, several=[arguments], pairs=((arguments,),), sasl_password=MARK, settings=whole)
    log.error("y", hash_key=MARK, ssl_password=MARK, client_secret=MARK, token=MARK, Authorization=MARK)
    assert MARK not in capsys.readouterr().err


def _main(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WEIRGUARD_")}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, env=clean | environment, check=False
    )


@pytest.fixture(
    params=[("detector.cli.main", "run"), ("detector.stream.worker",), ("detector.cli.main", "alerts", "tail")]
)
def process(request: pytest.FixtureRequest) -> list[str]:
    return ["-m", *request.param]


def test_a_process_that_refuses_its_settings_shows_no_secret(process: list[str], tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(f'kafka:\n  sasl_plain_password: "{MARK}\n  prefix: x\n', encoding="utf-8")
    done = _main(*process, WEIRGUARD_CONFIG=str(file), WEIRGUARD_PRINCIPALS__HASH_KEY=MARK)
    assert done.returncode == 2
    assert MARK not in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "s.yaml" in done.stderr


def test_config_show_and_check_mask(whole: Settings) -> None:
    variables = {
        "WEIRGUARD_KAFKA": json.dumps({**RIGHT["kafka"], "sasl_plain_password": MARK}),
        "WEIRGUARD_PRINCIPALS__HASH_KEY": MARK,
    }
    for command in (["show"], ["show", "--json"], ["check"]):
        done = _main("-m", "detector.cli.main", "config", *command, **variables)
        assert done.returncode == 0, done.stderr
        assert MARK not in done.stdout + done.stderr


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level
