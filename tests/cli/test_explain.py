"""``weirguard explain``: a thief and an honest account, from logs and from the topics of a service."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import typer
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic
from typer.testing import CliRunner, Result

from detector.cli.explain import PAGE, explain
from detector.contracts.batches import cut, take
from detector.contracts.codecs import PACKED_CONTENT_TYPE, decision_key, encode, encode_packed
from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import Alert, Audit
from detector.contracts.queries import QueryBatch
from detector.contracts.topics import Topics, partition_of
from detector.core.calibration.calibrate import calibrate
from detector.core.configuration import EngineConfig
from detector.core.exposure import Validation
from detector.core.profile import Profile
from detector.policy.config import Policy
from detector.replay.principal import PrincipalReplay, replay_principal
from detector.replay.report import replay
from detector.stream.source_records import ORIGIN
from tests.conftest import Broker
from tests.contracts.wire import encode_json_query
from tests.core.honest import account, crowd, honest, of_version, thief
from tests.sources.logs import write_jsonl

NASTY = '<script>alert("x")</script> & co'
PARTITIONS = 3
SVG = "{http://www.w3.org/2000/svg}svg"


@pytest.fixture(scope="module")
def profile() -> Profile:
    accounts = crowd()
    made = calibrate(accounts, 0.01).profile
    rows = np.concatenate([account.features for account in accounts])
    labels = np.concatenate([account.outputs for account in accounts]).argmax(axis=1)
    return replace(made, validation=Validation.of(rows, labels))


@pytest.fixture(scope="module")
def profile_file(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "credit.profile"
    path.write_bytes(profile.to_bytes())
    return path


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two honest accounts, a thief, and a thief with a name that is markup."""
    stealing = thief(rows=200)
    pieces = [honest("ana", 1), stealing, honest("bo", 2), replace(stealing, principals=[NASTY])]
    return write_jsonl(tmp_path_factory.mktemp("log") / "log.jsonl", *pieces)


def run(*arguments: str | Path) -> Result:
    app = typer.Typer()
    app.command()(explain)
    return CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)


def words(*arguments: str | Path) -> str:
    """What it prints, in one line."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def first_flagged(log: Path, out: Path, config: EngineConfig, principal: str) -> int | None:
    """By ``weirguard replay``, from 0."""
    summary = replay([log], out, engine_config=config, policy=Policy())
    found: int | None = {own["principal"]: own["first_flagged"] for own in summary["principals"]}[principal]
    return found


def parsed(page: Path) -> ET.Element:
    return ET.fromstring(page.read_text("utf-8").partition("\n")[2])  # noqa: S314, our own


def test_a_thief_is_explained_by_what_replay_flags(
    log: Path, profile: Profile, profile_file: Path, tmp_path: Path
) -> None:
    row = first_flagged(log, tmp_path, EngineConfig(profiles=(profile,)), "mallory")
    assert row is not None
    text = words("mallory", "--log", log, "--profile", profile_file)
    assert f"Suspect since query {row + 1} of 200: " in text
    assert "beyond any honest account" in text
    assert re.search(r"leaves D = [\d.]+ standard deviations of honest accounts; the threshold is [\d.]+\.", text)
    assert "decision: slow to 1/s (observe) for signal:suspicion" in text
    assert "unexplained deviation" in text


def test_a_script_reads_the_same_from_json_and_nothing_else_from_standard_output(
    log: Path, profile: Profile, profile_file: Path, tmp_path: Path
) -> None:
    row = first_flagged(log, tmp_path, EngineConfig(profiles=(profile,)), "mallory")
    assert row is not None
    given = ("mallory", "--log", log, "--profile", profile_file)
    text = words(*given)
    done = run(*given, "--out", tmp_path / "why.html", "--json")
    printed = json.loads(done.stdout)
    assert (printed["principal"], printed["queries"], printed["suspect"], printed["calibrated"]) == (
        "mallory",
        200,
        True,
        True,
    )
    assert (printed["queries_count_from"], printed["first_flagged_query"], printed["then"]["query"]) == (
        1,
        row + 1,
        row + 1,
    )
    assert printed["verdict"] in text
    assert printed["then"]["unexplained"] > printed["then"]["threshold"]
    assert printed["record"][0]["query"] == row + 1
    assert printed["record"][0]["time"] in text
    assert datetime.fromisoformat(printed["since"]) < datetime.fromisoformat(printed["until"])
    bare = json.loads(run("mallory", "--log", log, "--json").stdout)
    assert (bare["calibrated"], bare["then"], bare["basis"][0][:13]) == (False, None, "UNCALIBRATED:")


def test_an_honest_account_gets_its_largest_deviation(log: Path, profile_file: Path) -> None:
    text = words("ana", "--log", log, "--profile", profile_file)
    assert re.search(
        r"Not a suspect after 50 queries: the largest unexplained deviation was [\d.]+ standard deviations", text
    )
    assert "nothing" in text


def test_without_a_profile_only_prada_is_used_and_a_sentence_says_so(log: Path, tmp_path: Path) -> None:
    row = first_flagged(log, tmp_path, EngineConfig(), "mallory")
    assert row is not None
    text = words("mallory", "--log", log, "--out", tmp_path)
    assert re.search(
        rf"Suspect since query {row + 1} of 200: .*\(PRADA\); W fell to 0\.\d+; the threshold is 0.9", text
    )
    assert "UNCALIBRATED: honest accounts may be flagged" in text
    assert "There is no profile for credit 1: only PRADA was used." in text
    titles = [heading.text for heading in parsed(tmp_path / PAGE).iter("{http://www.w3.org/1999/xhtml}h2")]
    assert titles == ["PRADA", "Alerts, decisions and commands"]
    natural = account("bo", np.random.default_rng(1).random((150, 24)), 1)
    assert "Not a suspect after 150 queries: the lowest W was 0.9" in words(
        "bo", "--log", write_jsonl(tmp_path / "b.jsonl", natural)
    )


def test_too_few_queries_for_any_test_are_no_suspicion(log: Path) -> None:
    assert "Not a suspect after 50 queries: there are too few queries for any test" in words("ana", "--log", log)


def test_the_page_is_whole_with_every_plot_and_the_marks(log: Path, profile_file: Path, tmp_path: Path) -> None:
    page = tmp_path / "new" / "mallory.html"
    run("mallory", "--log", log, "--profile", profile_file, "--out", page)
    plots = {svg.get("aria-label"): svg for svg in parsed(page).iter(SVG)}
    marked = {"D over query number", "sign_steps over query number", "PRADA's W over query number"}
    marked.add("a tree trained on the answers, cells reached, over query number")
    assert marked | {"Histogram of distances and the fitted normal"} <= plots.keys()
    suspicion = [(part.get("class"), part.text) for part in plots["D over query number"]]
    assert any(kind == "verdict" and text and "suspect, alert, slow" in text for kind, text in suspicion)
    assert any(kind == "accused" and text and "refuse" in text for kind, text in suspicion)
    for label in marked:
        assert any(part.get("class") == "verdict" for part in plots[label]), label


def test_the_page_needs_nothing_from_outside_and_escapes_names(log: Path, profile_file: Path, tmp_path: Path) -> None:
    run(NASTY, "--log", log, "--profile", profile_file, "--out", tmp_path)
    html = (tmp_path / PAGE).read_text("utf-8")
    heading = next(parsed(tmp_path / PAGE).iter("{http://www.w3.org/1999/xhtml}h1"))
    assert heading.text is not None
    assert heading.text.startswith(f"{NASTY} is a suspect since query")
    assert "<script" not in html
    assert re.findall(r"""(?:src|href|url)\s*[=(]""", html) == []
    assert set(re.findall(r"https?://[^\"]+", html)) == {"http://www.w3.org/1999/xhtml", "http://www.w3.org/2000/svg"}


def test_an_unknown_principal_is_answered_with_near_names(log: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no query of 'malory'; did you mean 'mallory'\?"):
        run("malory", "--log", log)
    with pytest.raises(ConfigurationError, match="4 other principals sent queries, such as"):
        run("zzzzzzzzzz", "--log", log)


def test_several_models_must_be_told_apart(tmp_path: Path) -> None:
    other = replace(honest("ana", 2), model="loans")
    path = write_jsonl(tmp_path / "log.jsonl", honest("ana", 1), other)
    with pytest.raises(ConfigurationError, match=r"queried several models: credit, loans; choose with --model"):
        run("ana", "--log", path)
    with pytest.raises(ConfigurationError, match=r"no query of 'ana' to 'faces'"):
        run("ana", "--log", path, "--model", "faces")
    assert "to loans, version 1" in words("ana", "--log", path, "--model", "loans")


def test_a_profile_of_another_version_is_refused_when_it_was_asked_for(profile_file: Path, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "log.jsonl", of_version(honest("ana", 1), "9"))
    with pytest.raises(ConfigurationError, match="there is no profile for credit 9"):
        run("ana", "--log", path, "--profile", profile_file)


def test_logs_may_be_named_one_after_another_and_merged_by_time(log: Path, tmp_path: Path) -> None:
    queries = thief(rows=200)
    even, odd = (write_jsonl(tmp_path / f"{at}.jsonl", take(queries, np.arange(at, 200, 2))) for at in (0, 1))
    whole = words("mallory", "--log", log)
    since = re.search(r"Suspect since query \d+ of 200", whole)
    assert since is not None
    assert since[0] in words("mallory", "--log", odd, even, "--merge")
    assert "Suspect since query" in words("mallory", "--log", odd, "--log", even)
    assert run("mallory", log).exit_code == 2


@pytest.fixture
def topics(broker: Broker, prefix: str, monkeypatch: pytest.MonkeyPatch) -> Topics:
    """Topics of this test's own, and an environment that leads the command to them."""
    names = Topics(prefix)
    wanted = [names.queries, names.rekeyed, names.audit, names.scores, names.alerts]
    with closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
        admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in wanted])
    embedded = json.dumps(broker.embedded)
    variables = {"BOOTSTRAP_SERVERS": broker.bootstrap, "PREFIX": prefix, "EMBEDDED": embedded}
    for key, value in variables.items():
        monkeypatch.setenv(f"WEIRGUARD_KAFKA__{key}", value)
    return names


@pytest.fixture
def producer(broker: Broker) -> Iterator[KafkaProducer]:
    with closing(KafkaProducer(bootstrap_servers=broker.bootstrap)) as one:
        yield one


def publish_queries(producer: KafkaProducer, topics: Topics, queries: QueryBatch) -> None:
    """Twenty queries a record, whose time is that of their last; the last twenty one by one as JSON."""
    home = partition_of(queries.principals[0], PARTITIONS)
    packed = [("content-type", PACKED_CONTENT_TYPE.encode())]
    for start in range(0, len(queries) - 20, 20):
        piece = cut(queries, start, start + 20)
        when = int(1000 * piece.occurred_at[-1])
        producer.send(topics.queries, encode_packed(piece), partition=home, headers=packed, timestamp_ms=when)
    for row in range(len(queries) - 20, len(queries)):
        when = int(1000 * queries.occurred_at[row])
        producer.send(topics.queries, encode_json_query(queries, row), partition=home, timestamp_ms=when)
    producer.flush()


def publish_records(producer: KafkaProducer, topics: Topics, *records: Alert | Audit) -> None:
    for record in records:
        topic = topics.alerts if isinstance(record, Alert) else topics.audit
        producer.send(topic, encode(record), key=decision_key(record.model, record.principal))
    producer.flush()


def service_course(queries: QueryBatch) -> PrincipalReplay:
    """What a service with these queries would put on record: its time is that of their records."""
    last = (np.arange(len(queries) - 20) // 20 * 20 + 19).tolist() + list(range(len(queries) - 20, len(queries)))
    return replay_principal(
        [(queries, queries.occurred_at[last])], EngineConfig(), Policy(mode="enforce", enforce_uncalibrated=True)
    )


def test_a_service_gives_the_queries_and_the_records(topics: Topics, producer: KafkaProducer, tmp_path: Path) -> None:
    queries = thief(rows=200)
    course = service_course(queries)
    assert course.verdict is not None
    publish_queries(producer, topics, queries)
    publish_queries(producer, topics, honest("ana", 1, rows=60))
    publish_records(producer, topics, *(record for _, record in course.records))
    text = words("mallory", "--out", tmp_path)
    assert f"Suspect since query {course.verdict + 1} of 200" in text
    assert "decision: slow to 1/s (enforce) for signal:prada" in text
    assert f"read from the topic {topics.queries}" in text
    svg = next(own for own in parsed(tmp_path / PAGE).iter(SVG) if "W over" in (own.get("aria-label") or ""))
    assert any((part.text or "").startswith(f"{course.verdict + 1}: suspect, alert, slow") for part in svg)
    with pytest.raises(ConfigurationError, match=r"no query of 'anna'"):
        run("anna")


def test_rekeyed_queries_count_once_and_what_was_cleared_does_not(topics: Topics, producer: KafkaProducer) -> None:
    queries = account("ana", np.random.default_rng(3).random((60, 6)), 3)
    publish_queries(producer, topics, cut(queries, 0, 40))
    stray = cut(queries, 40, 60)
    headers = [("content-type", PACKED_CONTENT_TYPE.encode()), (ORIGIN, b"1:7")]
    where: dict[str, Any] = {"partition": partition_of("ana", PARTITIONS), "headers": headers}
    for _ in range(2):
        when = int(1000 * stray.occurred_at[-1])
        producer.send(topics.rekeyed, encode_packed(stray), timestamp_ms=when, **where)
    producer.flush()
    assert "Not a suspect after 60 queries" in words("ana")
    cleared_at = float(queries.occurred_at[19])
    detail: dict[str, str | float] = {"command": "c", "kind": "clear", "reason": "r"}
    publish_records(producer, topics, Audit("a", cleared_at, "command", "credit", "ana", "eve", "cleared", detail))
    text = words("ana")
    assert "Not a suspect after 40 queries" in text
    assert "The account was cleared at" in text
