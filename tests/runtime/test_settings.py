"""Settings: a typo never passes, an error says which key, which value and where."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
import yaml
from kafka import KafkaConsumer
from pydantic import BaseModel

from detector.contracts.errors import ConfigurationError
from detector.runtime.settings import Settings, leaves, load_settings, name_of, sources


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("WEIRGUARD_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weirguard.yaml"


def _refusal(path: Path | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path)
    return str(caught.value)


def test_without_file_and_environment_the_defaults_hold() -> None:
    settings = load_settings()
    assert settings.policy.mode == "observe"
    assert settings.kafka.topics.queries == "weirguard.queries"
    assert set(sources().values()) == {"default"}


def test_the_environment_wins_over_the_file_key_by_key(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("kafka: {prefix: shop, partitions: 24}\ndetection: {prada: {delta: 0.8}}\n", encoding="utf-8")
    monkeypatch.setenv("WEIRGUARD_KAFKA__PREFIX", "bank")
    monkeypatch.setenv("WEIRGUARD_DETECTION__PRADA__WINDOW", "1024")
    settings = load_settings(file)
    assert (settings.kafka.prefix, settings.kafka.partitions) == ("bank", 24)
    assert (settings.detection.prada.delta, settings.detection.prada.window) == (0.8, 1024)
    where = sources(file)
    assert where["kafka.prefix"] == "WEIRGUARD_KAFKA__PREFIX"
    assert where["kafka.partitions"] == str(file)
    assert where["detection.prada.window"] == "WEIRGUARD_DETECTION__PRADA__WINDOW"
    assert where["policy.mode"] == "default"


def test_the_file_may_be_named_by_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("policy: {mode: enforce}", encoding="utf-8")
    monkeypatch.setenv("WEIRGUARD_CONFIG", str(file))
    assert load_settings().policy.mode == "enforce"


def test_an_unknown_key_is_named_with_its_file_and_the_nearest_one(file: Path) -> None:
    file.write_text("kafka: {bootstrap_server: 'a:1'}", encoding="utf-8")
    message = _refusal(file)
    assert "unknown key kafka.bootstrap_server" in message
    assert str(file) in message
    assert "'bootstrap_servers'" in message


def test_an_unknown_section_is_named(file: Path) -> None:
    file.write_text("kafkaa: {}", encoding="utf-8")
    assert "unknown key kafkaa" in _refusal(file)


@pytest.mark.parametrize("name", ["WEIRGUARD_KAFAK__PREFIX", "WEIRGUARD_KAFKA__PREFX", "WEIRGUARD_DETECTION__PRADA__X"])
def test_an_unknown_variable_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert name in _refusal()


def test_what_kubernetes_sets_for_a_service_of_our_name_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIRGUARD_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("WEIRGUARD_PORT", "tcp://10.0.0.1:9108")
    assert load_settings() == Settings()


def test_a_mapping_in_the_environment_is_json_since_variables_have_no_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIRGUARD_POLICY__MODEL_MODES", '{"Iris": "enforce"}')
    assert load_settings().policy.model_modes == {"Iris": "enforce"}
    monkeypatch.setenv("WEIRGUARD_POLICY__MODEL_MODES__Iris", "enforce")
    assert "set WEIRGUARD_POLICY__MODEL_MODES instead" in _refusal()


def test_a_wrong_value_is_shown_with_its_key_and_place(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("policy: {mode: enfroce}", encoding="utf-8")
    message = _refusal(file)
    assert "policy.mode = 'enfroce'" in message
    assert str(file) in message
    monkeypatch.setenv("WEIRGUARD_POLICY__MODE", "observe")
    monkeypatch.setenv("WEIRGUARD_METRICS__PORT", "70000")
    message = _refusal(file)
    assert "metrics.port = '70000'" in message
    assert "WEIRGUARD_METRICS__PORT" in message


def test_all_wrong_values_are_told_at_once(file: Path) -> None:
    file.write_text("policy: {mode: x}\nmetrics: {port: -1}", encoding="utf-8")
    message = _refusal(file)
    assert "policy.mode" in message
    assert "metrics.port" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kafka: {prefix: a, prefix: b}", "occurs twice"),
        ("- kafka", "expected sections"),
        ("kafka: [", "settings file"),
        ("kafka: {bootstrap_servers: localhost}", "not host:port"),
        ("kafka: {state_record_bytes: 1000}", "four times"),
        ("kafka: {query_record_bytes: 1, state_record_bytes: 4}", "kafka.query_record_bytes"),
        ("worker: {microbatch_bytes: 9000000}", "kafka.state_record_bytes"),
        ("worker: {heartbeat_seconds: 5}", "third"),
        ("worker: {commit_seconds: .inf}", "worker.commit_seconds"),
        ("detection: {prada: {delta: .nan}}", "detection.prada.delta"),
        ("kafka: {security_protocol: SASL_SSL, sasl_mechanism: PLAIN}", "needs sasl_mechanism"),
        ("kafka: {sasl_plain_username: me}", "no effect"),
        ("kafka: {ssl_check_hostname: false}", "no effect"),
        ("kafka: {ssl_password: p}", "no effect"),
        ("kafka: {security_protocol: SSL, ssl_password: p}", "without ssl_certfile"),
        ("kafka: {security_protocol: SSL, ssl_keyfile: /proc/self/status}", "without ssl_certfile"),
        ("kafka: {security_protocol: SSL, ssl_cafile: /proc/self/status}", "holds no certificates"),
        ("kafka: {security_protocol: SSL, ssl_certfile: /proc/self/status}", "there is no certificate"),
        ("kafka: {bootstrap_servers: 'a:0'}", "from 1 to 65535"),
        ("kafka: {bootstrap_servers: 'a:99999'}", "from 1 to 65535"),
        ("kafka: {bootstrap_servers: 'a:1,'}", "server 2"),
        ("kafka: {bootstrap_servers: ''}", "server 1"),
        (f"kafka: {{bootstrap_servers: '{'a' * 64}.b:1'}}", "not a host name"),
        ("metrics: {host: a..b}", "not a host name"),
        ("kafka: {prefix: ''}", "kafka.prefix"),
        ("kafka: {prefix: a.b}", "kafka.prefix"),
        ("kafka: {prefix: 'a b'}", "kafka.prefix"),
        (f"kafka: {{prefix: {'a' * 101}}}", "kafka.prefix"),
        ("kafka: {partitions: 0}", "kafka.partitions"),
        ("kafka: {partitions: 2147483648}", "kafka.partitions"),
        ("kafka: {replication_factor: 0}", "kafka.replication_factor"),
        ("kafka: {replication_factor: 40000}", "kafka.replication_factor"),
        ("kafka: {state_record_bytes: 4294967296}", "kafka.state_record_bytes"),
        ("worker: {stall_seconds: 5}", "session_timeout_seconds"),
        ("worker: {commit_seconds: 40}", "twice commit_seconds"),
        ("worker: {restart_first_seconds: 60}", "restart_most_seconds"),
        ("worker: {session_timeout_seconds: 1.0e+9}", "worker.session_timeout_seconds"),
        ("worker: {heartbeat_seconds: 1.0e-9}", "worker.heartbeat_seconds"),
        ("policy: {decision_seconds: 1.0e+300}", "policy.decision_seconds"),
        ("metrics: {host: ''}", "metrics.host"),
        ("metrics: {port: 65536}", "metrics.port"),
        ("detection: {prada: {check_every: 600}}", "at most window"),
        ("kafka: {ssl_cafile: /dev/null/none}", "kafka.ssl_cafile"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, said: str, file: Path) -> None:
    file.write_text(text, encoding="utf-8")
    assert said in _refusal(file)


def test_a_missing_file_is_an_error(file: Path) -> None:
    assert str(file) in _refusal(file)


def test_settings_cannot_be_changed() -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.kafka.prefix = "other"  # type: ignore[misc]


SASL = "kafka: {security_protocol: SASL_PLAINTEXT, sasl_mechanism: PLAIN, sasl_plain_username: me, "


def test_secrets_come_from_files_and_are_never_shown(file: Path, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hunter2\n")
    file.write_text(
        SASL + f"sasl_plain_password_file: {tmp_path / 'password'}}}\nprincipals: {{hash_key: topsecret}}",
        encoding="utf-8",
    )
    settings = load_settings(file)
    assert settings.kafka.client_arguments()["sasl_plain_password"] == "hunter2"
    shown = yaml.safe_dump(settings.redacted()) + repr(settings)
    assert "topsecret" not in shown
    assert "hunter2" not in shown


def test_a_secret_is_not_shown_in_an_error_either(file: Path) -> None:
    file.write_text("kafka: {sasl_plain_password: [hunter2], state_record_bytes: 1}", encoding="utf-8")
    assert "hunter2" not in _refusal(file)
    file.write_text("kafka: {sasl_plain_password: hunter2}", encoding="utf-8")
    assert "hunter2" not in _refusal(file)


def test_two_places_for_one_secret_are_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("a")
    file.write_text(f"principals: {{hash_key: b, hash_key_file: {tmp_path / 'key'}}}", encoding="utf-8")
    assert "both set" in _refusal(file)
    (tmp_path / "key").write_text("")
    file.write_text(f"principals: {{hash_key_file: {tmp_path / 'key'}}}", encoding="utf-8")
    assert "empty" in _refusal(file)


def test_the_hash_key_reaches_the_hasher(file: Path) -> None:
    file.write_text("principals: {hash_key: k1}", encoding="utf-8")
    assert load_settings(file).principals.hasher().key == b"k1"
    file.write_text(f"principals: {{hash_key: {'k' * 65}}}", encoding="utf-8")
    assert "64 bytes" in _refusal(file)


def _an_authority() -> bytes:
    """One of those that this machine trusts."""
    return ssl.create_default_context().get_ca_certs(binary_form=True)[0]


def test_client_arguments_are_all_known_to_kafka_python(file: Path, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(ssl.DER_cert_to_PEM_cert(_an_authority()))
    text = f"sasl_plain_password: p, ssl_cafile: {tmp_path / 'ca.pem'}}}"
    file.write_text(SASL.replace("SASL_PLAINTEXT", "SASL_SSL") + text, encoding="utf-8")
    arguments = load_settings(file).kafka.client_arguments()
    assert arguments.keys() <= KafkaConsumer.DEFAULT_CONFIG.keys()
    assert arguments["ssl_cafile"] == str(tmp_path / "ca.pem")
    assert arguments["sasl_mechanism"] == "PLAIN"


def _silent(model: type[BaseModel]) -> list[str]:
    silent = [f"{model.__name__}.{name}" for name, field in model.model_fields.items() if not field.description]
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            silent += _silent(field.annotation)
    return silent


def test_every_setting_says_what_it_is() -> None:
    assert _silent(Settings) == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("WEIRGUARD_KAFKA_PREFIX", "WEIRGUARD_KAFKA__PREFIX"),
        ("WEIRGUARD_KAFAK_PREFIX", "WEIRGUARD_KAFKA__PREFIX"),
        ("WEIRGUARD_DETECTION_PRADA_DELTA", "WEIRGUARD_DETECTION__PRADA__DELTA"),
        ("WEIRGUARD_POLICY_ALLOWLST", "WEIRGUARD_POLICY__ALLOWLIST"),
        ("WEIRGUARD_CONFG", "WEIRGUARD_CONFIG"),
        ("weirguard_metrics_port", "WEIRGUARD_METRICS__PORT"),
        ("WEIRGUARD_KAFKA__PREFX", "prefix"),
        ("WEIRGUARD__KAFKA__PREFIX", "kafka"),
        ("WEIRGUARD_DETECTION__PRADA__DETLA", "delta"),
    ],
)
@pytest.mark.parametrize("value", ["1", ""])
def test_a_variable_that_sets_nothing_is_named_with_the_nearest(
    name: str, meant: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    message = _refusal()
    assert name in message
    assert meant in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WEIRGUARD_SERVICE_PORT_METRICS", "9108"),
        ("WEIRGUARD_PORT_9108_TCP", "tcp://10.0.0.1:9108"),
        ("WEIRGUARD_PORT_9108_TCP_ADDR", "10.0.0.1"),
        ("WEIRGUARD_KAFKA_SERVICE_HOST", "10.0.0.1"),
        ("WEIRGUARD_METRICS_PORT", "tcp://10.0.0.1:9108"),
        ("WEIRGUARD_METRICS_PORT_9108_TCP_PROTO", "tcp"),
        ("WEIRGUARD_IMAGE_TAG", "3"),
    ],
)
def test_what_others_name_like_that_is_left_alone(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert load_settings() == Settings()


@pytest.mark.parametrize("key", [*leaves(Settings)], ids=".".join)
def test_an_empty_variable_counts_as_not_set(key: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name_of(key), "")
    assert load_settings() == Settings()
    assert sources()[".".join(key)] == "default"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("KAFKA__PARTITIONS", "1 000", "kafka.partitions = '1 000'"),
        ("KAFKA__PARTITIONS", " ", "kafka.partitions = ' '"),
        ("KAFKA__PARTITIONS", "12.5", "kafka.partitions = '12.5'"),
        ("KAFKA__EMBEDDED", "maybe", "kafka.embedded = 'maybe'"),
        ("POLICY__MODE", " observe", "policy.mode = ' observe'"),
        ("DETECTION__PROFILES", "a.profile", "expected one JSON value"),
        ("DETECTION__DIMENSIONS", "{iris: 4}", "expected one JSON value"),
        ("DETECTION__DIMENSIONS", '{"iris": 0}', "detection.dimensions.iris = 0"),
        ("DETECTION__DIMENSIONS__IRIS", "4", "set WEIRGUARD_DETECTION__DIMENSIONS instead, entries as one JSON value"),
        ("KAFKA__PREFIX__X", "4", "set WEIRGUARD_KAFKA__PREFIX instead, which holds one value"),
        ("POLICY", "observe", "expected one JSON value"),
        ("DETECTION", "[" * 100_000, "expected one JSON value"),
    ],
)
def test_a_wrong_value_in_a_variable_is_told(name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"WEIRGUARD_{name}", value)
    message = _refusal()
    assert said in message
    assert f"WEIRGUARD_{name}" in message


def test_spaces_around_a_number_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIRGUARD_KAFKA__PARTITIONS", " 24 ")
    monkeypatch.setenv("WEIRGUARD_DETECTION__DIMENSIONS", ' {"Iris": 4} ')
    settings = load_settings()
    assert (settings.kafka.partitions, settings.detection.dimensions) == (24, {"Iris": 4})


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "with byte order mark"])
def test_files_are_utf8_with_or_without_a_byte_order_mark(mark: bytes, file: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(mark + "schlüssel\r\n".encode())
    text = f"detection: {{dimensions: {{'müller': 4}}}}\nprincipals: {{hash_key_file: {tmp_path / 'key'}}}"
    file.write_bytes(mark + text.encode())
    settings = load_settings(file)
    assert settings.detection.dimensions == {"müller": 4}
    assert settings.principals.hasher().key == "schlüssel".encode()


@pytest.mark.parametrize("content", ["kafka: {prefix: ü}".encode("latin-1"), "kafka: {}".encode("utf-16")])
def test_a_file_in_another_encoding_is_an_error(content: bytes, file: Path) -> None:
    file.write_bytes(content)
    assert f"{file} is not UTF-8 text" in _refusal(file)


def test_a_folder_for_a_file_is_an_error(tmp_path: Path) -> None:
    assert str(tmp_path) in _refusal(tmp_path)


def test_an_error_of_a_whole_section_names_it_and_where_it_was_set(file: Path) -> None:
    file.write_text("kafka: 7", encoding="utf-8")
    assert _refusal(file).startswith("kafka: Input should be")
    assert str(file) in _refusal(file)
