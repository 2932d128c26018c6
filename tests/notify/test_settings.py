"""The section notify: what is refused, what secrets may come from, and that nothing shows them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from detector.contracts.errors import ConfigurationError
from detector.notify.service import new_receivers
from detector.runtime.settings import load_settings
from tests.notify.stands import self_signed

ROOT = Path(__file__).parents[2]
MARK = "hunter2-Tr0ub4dor"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.yaml"


def _write(file: Path, **receivers: Any) -> None:
    file.write_text(yaml.safe_dump({"notify": {"receivers": receivers}}), "utf-8")


@pytest.mark.parametrize(
    ("receiver", "where"),
    [
        ({}, "notify.receivers.one: set exactly one of alertmanager, ocsf, syslog, webhook"),
        ({"ocsf": {}, "syslog": {"host": "a"}}, "notify.receivers.one: set exactly one of"),
        ({"webhok": {"url": MARK}}, "unknown key notify.receivers.one.webhok .*'webhook'"),
        ({"webhook": {"urll": MARK}}, "unknown key notify.receivers.one.webhook.urll .*'url'"),
        ({"webhook": MARK}, "notify.receivers.one.webhook: "),
        (MARK, "notify.receivers.one: "),
        ({"webhook": {"url": [MARK]}}, "notify.receivers.one.webhook.url: "),
        ({"webhook": {}}, "notify.receivers.one.webhook: set url or url_file"),
        ({"webhook": {"url": MARK, "url_file": "/etc/hostname"}}, "notify.receivers.one.webhook: set url or url_file"),
        ({"webhook": {"url": MARK, "token": MARK}}, "token has no effect without a template"),
        ({"webhook": {"url": MARK, "body": "ocsf", "template": "/etc/hostname"}}, "template and body are both set"),
        ({"alertmanager": {}}, "notify.receivers.one.alertmanager: set url or url_file"),
        ({"syslog": {"host": "a", "port": 99_999}}, "notify.receivers.one.syslog.port = 99999: "),
        ({"syslog": {"host": "a", "ssl_cafile": "/etc/hostname"}}, "no effect with transport tcp"),
        ({"syslog": {"host": "a", "transport": "tls", "ssl_keyfile": "/etc/hostname"}}, "without ssl_certfile"),
        ({"ocsf": {}, "least_severity": "huge"}, "notify.receivers.one.least_severity = 'huge': "),
    ],
)
def test_what_is_wrong_is_named_and_no_secret_shown(receiver: Any, where: str, file: Path) -> None:
    _write(file, one=receiver)
    with pytest.raises(ConfigurationError, match=where) as caught:
        load_settings(file)
    assert MARK not in str(caught.value)


@pytest.mark.parametrize("name", ["Two", "a b", "", "x" * 51, "-a"])
def test_a_name_that_cannot_be_a_groups_or_a_labels_is_refused(name: str, file: Path) -> None:
    _write(file, **{name: {"ocsf": {}}})
    with pytest.raises(ConfigurationError, match="receivers"):
        load_settings(file)


def test_receivers_that_are_a_text_are_not_shown(file: Path) -> None:
    file.write_text(yaml.safe_dump({"notify": {"receivers": MARK}}), "utf-8")
    with pytest.raises(ConfigurationError, match="receivers: ") as caught:
        load_settings(file)
    assert MARK not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("WEIRGUARD_NOTIFY__RECEIVERS__HOOK__WEBHOOK__URL", f"https://a/{MARK}"),
        ("WEIRGUARD_NOTIFY__RECEIVERS", json.dumps({"hook": {"webhook": {"url": f"https://a/{MARK}"}}})),
    ],
)
def test_a_variable_adds_the_secret_to_what_the_file_says(
    variable: str, value: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(file, hook={"models": ["iris"], "webhook": {"body": "ocsf"}})
    monkeypatch.setenv(variable, value)
    settings = load_settings(file)
    hook = settings.notify.receivers["hook"]
    assert hook.models == ("iris",)
    assert hook.webhook
    assert hook.webhook.body == "ocsf"
    assert hook.webhook.url
    assert hook.webhook.url.get_secret_value() == f"https://a/{MARK}"
    assert MARK not in repr(settings) + json.dumps(settings.redacted())


def test_a_variable_that_is_no_setting_of_a_receiver_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIRGUARD_NOTIFY__RECEIVERS__HOOK__WEBHOOK__URLL", MARK)
    with pytest.raises(ConfigurationError, match="unknown key 'urll'; did you mean 'url'") as caught:
        load_settings()
    assert MARK not in str(caught.value)


def test_a_file_of_a_secret_that_is_empty_is_named(file: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n", "utf-8")
    _write(file, hook={"webhook": {"url_file": str(tmp_path / "empty")}})
    with pytest.raises(ConfigurationError, match=r"notify\.receivers\.hook\.webhook\.url_file: .* is empty"):
        new_receivers(load_settings(file))


def test_the_example_in_deploy_is_settings_that_load(file: Path, tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "notify" / "notify.yaml").read_text("utf-8")
    for name in re.findall(r"/etc/weirguard/(\S+\.j2)", text):
        text = text.replace(f"/etc/weirguard/{name}", str(ROOT / "deploy" / "notify" / name))
    (tmp_path / "secret").write_text("https://hooks.example.org/x\n", "utf-8")
    text = re.sub(r"/run/secrets/\S+", str(tmp_path / "secret"), text)
    text = text.replace("/etc/weirguard/siem-ca.pem", str(self_signed(tmp_path)))
    file.write_text(text, "utf-8")
    assert new_receivers(load_settings(file)).keys() == yaml.safe_load(text)["notify"]["receivers"].keys()
