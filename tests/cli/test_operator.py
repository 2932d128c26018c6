"""The operator's commands on a broker, with a real ledger as the owner of all partitions."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from typer.testing import CliRunner, Result

from detector.cli import allowlist, decisions, principals
from detector.cli.operator import seconds
from detector.cli.shadow import shadow_report
from detector.contracts.codecs import decision_key, decode, encode
from detector.contracts.errors import BrokerError, ConfigurationError
from detector.contracts.findings import Action, Alert, Audit, Cause, Command, Decision, Evidence, Score
from detector.contracts.principals import PrincipalHasher
from detector.contracts.topics import Topics, partition_of
from detector.policy.config import Policy
from detector.policy.ledger import Ledger
from detector.policy.records import decision_audit
from detector.replay.topics import Topic
from detector.runtime.sections import KafkaSettings
from tests.conftest import Broker

PARTITIONS = 3
NOW = time.time()


@pytest.fixture
def topics(broker: Broker, prefix: str, monkeypatch: pytest.MonkeyPatch) -> Topics:
    """Topics of this test, and settings in the environment that name them."""
    names = Topics(prefix)
    wanted = [names.commands, names.decisions, names.audit, names.scores, names.alerts]
    with closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
        admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in wanted])
    for key, value in {"BOOTSTRAP_SERVERS": broker.bootstrap, "PREFIX": prefix, "PARTITIONS": str(PARTITIONS)}.items():
        monkeypatch.setenv(f"WEIRGUARD_KAFKA__{key}", value)
    return names


@pytest.fixture
def publish(broker: Broker) -> Iterator[Any]:
    """Writes records to the partitions that a detector would use."""
    with closing(KafkaProducer(bootstrap_servers=broker.bootstrap)) as producer:

        def write(topic: str, *records: Alert | Audit | Decision | Score) -> None:
            sent = [
                producer.send(
                    topic,
                    key=decision_key(record.model, record.principal),
                    value=encode(record),
                    partition=partition_of(record.principal, PARTITIONS),
                )
                for record in records
            ]
            for one in sent:
                one.get(timeout=20)

        yield write


@pytest.fixture
def owner(broker: Broker, topics: Topics, publish: Any, request: pytest.FixtureRequest) -> Iterator[list[Command]]:
    """Runs an owner of all partitions, by default in enforce mode; gives the list of commands it has received."""
    stop, obeyed = threading.Event(), list[Command]()
    ledger = Ledger(Policy(mode=getattr(request, "param", "enforce")))
    thread = threading.Thread(target=_own, args=(broker, topics, publish, stop, obeyed, ledger))
    thread.start()
    yield obeyed
    stop.set()
    thread.join(20)


def _own(
    broker: Broker, topics: Topics, publish: Any, stop: threading.Event, obeyed: list[Command], ledger: Ledger
) -> None:
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap, fetch_max_wait_ms=50, auto_offset_reset="earliest")
    with closing(consumer):
        consumer.assign([TopicPartition(topics.commands, number) for number in range(PARTITIONS)])
        while not stop.is_set():
            for record in (one for batch in consumer.poll(timeout_ms=50).values() for one in batch):
                command = decode(Command, record.value)
                assert command.scope == "network" or record.partition == partition_of(command.principal, PARTITIONS)
                assert record.key == command.principal.encode()
                effects = ledger.command(command, record.timestamp / 1000)
                obeyed.append(command)
                publish(topics.decisions, *(replace(one, epoch=(1, len(obeyed))) for one in effects.decisions))
                publish(topics.audit, *effects.audits)


def run(app: Any, *arguments: str, **options: Any) -> Result:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False, **options)
    assert result.exit_code in {0, 1}, result.output
    return result


def listing(*arguments: str) -> Any:
    return json.loads(run(decisions.app, "list", "--json", *arguments).stdout)


def stands(*arguments: str) -> list[tuple[str, str]]:
    return [(one["principal"], one["action"]["name"]) for one in listing(*arguments)["decisions"]]


def decision(principal: str, action: str = "refuse", epoch: tuple[int, int] = (1, 1), **fields: Any) -> Decision:
    causes = (Cause("c1", "signal:prada", NOW + 3600),)
    whole: dict[str, Any] = {
        "id": f"{principal}-{epoch}",
        "model": "digits",
        "principal": principal,
        "action": Action("slow", 1.0) if action == "slow" else Action("none" if action == "none" else "refuse"),
        "mode": "enforce",
        "epoch": epoch,
        "issued_at": NOW,
        "expires_at": NOW + 3600,
        "causes": causes,
        "policy_version": "p1",
    }
    return Decision(**{**whole, **fields})


def score(principal: str, value: float, *, flagged: bool = False) -> Score:
    return Score("digits", "1", principal, NOW, 120, value, flagged, {"prada": 0.87, "coverage": 61.25})


def alert(principal: str, number: int = 1) -> Alert:
    evidence = (Evidence("w", 0.81, "1", 0.95),)
    return Alert(
        f"{principal}{number}", NOW, "digits", "1", principal, "prada", number, "high", 1.17, 0.95, 130, evidence, "c"
    )


def test_list_shows_the_newest_epoch_of_each_decision_and_can_be_filtered(topics: Topics, publish: Any) -> None:
    publish(
        topics.decisions,
        decision("thief", "slow", (1, 5)),
        decision("thief", "refuse", (2, 1)),
        decision("thief", "slow", (1, 9)),
        decision("gone", expires_at=NOW - 1),
        decision("free", "slow"),
        decision("free", "none", (1, 2)),
        decision("ada", "slow", model="faces", causes=(Cause("c9", "operator:eve", NOW + 60, "abuse"),)),
    )
    assert stands() == [("thief", "refuse"), ("ada", "slow")]
    assert stands("--model", "faces") == [("ada", "slow")]
    assert stands("--principal", "thief") == [("thief", "refuse")]
    assert stands("--origin", "operator") == stands("--origin", "operator:eve") == [("ada", "slow")]
    assert stands("--origin", "oper") == []
    shown = run(decisions.app, "list")
    text = shown.stdout
    assert shown.stderr == ""
    assert "thief" in text
    assert "operator:eve c9 abuse" in text


def test_the_shadow_report_is_made_from_the_topics(topics: Topics, publish: Any, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(shadow_report)
    observed = decision("thief", "slow", mode="observe", issued_at=NOW - 600)
    publish(topics.audit, decision_audit(observed), decision_audit(decision("ada", issued_at=NOW - 600)))
    publish(topics.alerts, alert("thief"))
    publish(topics.scores, score("thief", 1.2), score("ada", 0.2))
    printed = json.loads(run(app, "--since", "1h", "--json", "--out", str(tmp_path / "page.html")).stdout)
    (one,) = printed["principals"]
    assert (one["principal"], one["causes"], printed["accounts_with_a_score"]) == (
        "thief",
        ["signal:prada"],
        {"digits": 2},
    )
    assert 600 <= one["seconds"]["slow"] <= 3_600
    assert "thief" in (tmp_path / "page.html").read_text()
    assert "1 account would have met an action" in run(app, "--since", "1h").stdout
    assert "0 accounts would have met" in run(app, "--since", "1h", "--model", "faces").stdout


def test_add_and_delete_wait_for_the_owner_and_print_the_result(
    topics: Topics, owner: list[Command], publish: Any
) -> None:
    publish(topics.scores, score("thief", 1.2))
    words = ("digits", "thief", "--reason", "caught by hand", "--issuer", "eve")
    added = run(decisions.app, "add", *words, "--action", "refuse", "--duration", "1h30m")
    assert added.stdout == "digits thief: added: refuse (enforce) for 5400 seconds\n"
    cause = listing()["decisions"][0]["causes"][0]
    assert (cause["id"], cause["origin"], cause["reason"]) == (owner[0].id, "operator:eve", "caught by hand")
    deleted = run(decisions.app, "delete", *words, "--cause", cause["id"])
    assert f"deleted: operator:eve ({cause['id']})" in deleted.stdout
    assert stands() == []
    again = run(decisions.app, "delete", *words)
    assert again.exit_code == 1
    assert "nothing deleted: there is no cause against the principal" in again.stdout


def test_slow_takes_a_rate_and_need_not_be_enforced(topics: Topics, owner: list[Command]) -> None:
    words = ("digits", "thief", "--reason", "r", "--action", "slow", "--queries-per-second", "0.5", "--force")
    run(decisions.app, "add", *words, "--observe")
    assert (owner[0].action, owner[0].mode) == (Action("slow", 0.5), "observe")
    assert owner[0].issuer


@pytest.mark.parametrize("owner", ["observe"], indirect=True)
def test_an_operators_decision_is_enforced_even_if_the_policy_observes(topics: Topics, owner: list[Command]) -> None:
    words = ("add", "digits", "thief", "--reason", "r", "--action", "refuse", "--force")
    assert "refuse (enforce)" in run(decisions.app, *words).stdout
    assert listing()["decisions"][0]["mode"] == "enforce"
    assert "refuse (observe)" in run(decisions.app, *words, "--observe").stdout


def test_list_says_which_decisions_rest_on_no_profile(topics: Topics, publish: Any) -> None:
    publish(topics.decisions, decision("thief", causes=(Cause("c1", "signal:prada", NOW + 60, "uncalibrated"),)))
    shown = run(decisions.app, "list")
    assert "signal:prada c1 uncalibrated" in shown.stdout
    assert shown.stderr.startswith("UNCALIBRATED: digits is judged without a profile")
    assert run(decisions.app, "list", "--json").stderr == ""


def not_known(model: str, principal: str) -> str:
    """The reason for refusing a decision against an unknown principal."""
    with pytest.raises(ConfigurationError) as refused:
        run(decisions.app, "add", model, principal, "--reason", "r", "--action", "refuse")
    return str(refused.value).removesuffix("; to add the decision anyway, give --force")


def test_a_decision_against_an_unknown_principal_needs_force(
    topics: Topics, owner: list[Command], publish: Any
) -> None:
    words = ("--reason", "r", "--action", "refuse")
    assert not_known("digits", "thief") == "the model 'digits' is not known; no names are known yet"
    publish(topics.scores, score("thief", 1.2), score("ada", 0.1))
    publish(topics.alerts, alert("theif"))
    publish(topics.decisions, decision("gone", expires_at=NOW - 1))
    said = "there is no score, alert or decision of 'thiev' on 'digits'; nearest: 'thief', 'theif'"
    assert not_known("digits", "thiev") == said
    assert not_known("digits", "x").endswith("on 'digits'; known: 4, such as 'ada', 'gone', 'theif'")
    assert not_known("digit", "thief") == "the model 'digit' is not known; nearest: 'digits'"
    assert owner == []
    for name in ("thief", "theif", "gone"):
        run(decisions.app, "add", "digits", name, *words)
    run(decisions.app, "add", "new", "x", *words, "--force")
    assert [(command.model, command.principal) for command in owner] == [
        *(("digits", name) for name in ("thief", "theif", "gone")),
        ("new", "x"),
    ]


def test_clear_is_a_command_to_the_owner(topics: Topics, owner: list[Command]) -> None:
    cleared = run(principals.app, "clear", "digits", "thief", "--reason", "false alarm")
    assert cleared.stdout == "digits thief: cleared: causes, latches and detection state\n"
    assert [(command.kind, command.reason) for command in owner] == [("clear", "false alarm")]


def test_an_api_key_is_hashed_as_serving_hashes_it(
    topics: Topics, owner: list[Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIRGUARD_PRINCIPALS__HASH_KEY", "pepper")
    words = ("digits", "-", "--api-key", "--reason", "r")
    run(principals.app, "clear", *words, input="sk-1234\n")
    assert owner[0].principal == PrincipalHasher(b"pepper").api_key("sk-1234")


def test_a_command_without_an_owner_fails_after_the_wait(topics: Topics) -> None:
    with pytest.raises(BrokerError, match=r"no detector has answered within 0\.5 seconds"):
        run(principals.app, "clear", "digits", "thief", "--reason", "r", "--wait", "0.5")


def test_a_wrong_number_of_partitions_is_refused(topics: Topics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIRGUARD_KAFKA__PARTITIONS", "4")
    with pytest.raises(ConfigurationError, match=r"kafka.partitions is 4 and .* has 3"):
        run(principals.app, "clear", "digits", "thief", "--reason", "r")


def test_the_kill_switch_goes_on_and_off_and_is_listed(topics: Topics) -> None:
    assert "OFF" in run(decisions.app, "kill-switch", "on", "--reason", "outage", "--issuer", "eve").stdout
    switch = listing()["kill_switch"]
    assert (switch["principal"], switch["action"]["name"]) == ("*", "none")
    assert (switch["causes"][0]["origin"], switch["causes"][0]["reason"]) == ("operator:eve", "outage")
    assert "kill switch is on" in run(decisions.app, "list").stdout
    assert "on again" in run(decisions.app, "kill-switch", "off", "--reason", "over").stdout
    assert listing()["kill_switch"] is None


def test_top_puts_suspects_and_high_scores_first(topics: Topics, publish: Any) -> None:
    publish(topics.scores, score("ada", 0.4), score("thief", 0.2), score("bob", 0.9), score("thief", 0.7, flagged=True))
    publish(topics.decisions, decision("thief", "slow"))
    rows = json.loads(run(principals.app, "top", "--count", "2", "--json").stdout)
    assert [row["score"]["principal"] for row in rows] == ["thief", "bob"]
    assert [row["decision"] and row["decision"]["action"]["name"] for row in rows] == ["slow", None]
    assert "slow to 1/s (enforce)" in run(principals.app, "top").stdout


MEASURED = {
    "suspicion": 12.5,
    "prada": 0.99,
    "suspicion.novelty": 3.0,
    "suspicion.leaps": 9.25,
    "suspicion.prada": -1.0,
    "suspicion.hardness": 4.0,
}


def test_top_shows_the_three_strongest_signals_and_fits_a_terminal(topics: Topics, publish: Any) -> None:
    name = "account-" + "0123456789abcdef" * 8
    publish(
        topics.scores,
        replace(score("thief", 1.17, flagged=True), signals=MEASURED, calibrated=True),
        replace(score(name, 12.345), calibrated=False, queries=12_345_678),
    )
    publish(topics.decisions, decision("thief", "slow"))
    done = run(principals.app, "top")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.strip() for line in lines[1:3]] == [
        "1.17      120  thief, digits 1: suspect, slow to 1/s (enforce)",
        "leaps 9.25, hardness 4, novelty 3",
    ]
    assert name in "".join(line.strip() for line in lines[3:])
    assert lines[-1].strip() == "prada 0.87, coverage 61.2% exposed"
    assert "uncalibrated" in lines[-2]
    assert done.stderr.startswith("UNCALIBRATED: digits 1 is judged without a profile")
    scripted = run(principals.app, "top", "--json")
    assert scripted.stderr == ""
    assert [[own["name"] for own in row["matters"]] for row in json.loads(scripted.stdout)] == [
        ["leaps", "hardness", "novelty"],
        ["prada", "coverage"],
    ]


def test_show_joins_score_decision_and_alerts(topics: Topics, publish: Any) -> None:
    publish(topics.scores, score("thief", 1.17, flagged=True))
    publish(topics.decisions, decision("thief"))
    publish(topics.alerts, alert("ada"), alert("thief"), alert("thief"), alert("thief", 2))
    known = json.loads(run(principals.app, "show", "digits", "thief", "--json").stdout)
    assert known["score"]["signals"] == {"prada": 0.87, "coverage": 61.25}
    assert [one["episode"] for one in known["alerts"]] == [1, 2]
    assert known == json.loads(run(principals.app, "show", "digits", "thief", "--json").stdout)
    text = run(principals.app, "show", "digits", "thief").stdout
    assert "a suspect, 120 queries" in text
    assert "coverage: 61.2% exposed\n  prada: 0.87" in text
    assert "decision: refuse (enforce)" in text
    assert "w=0.81 (threshold 0.95)" in text


def test_show_counts_every_answered_query(topics: Topics, publish: Any) -> None:
    counts: Any = {"answered": 137, "judged": 100, "repeats": 20, "unjudged": {"no-profile": 3, "dimension": 9}}
    publish(topics.scores, replace(score("thief", 1.17), **counts, dropped={"queue": 5}))
    known = json.loads(run(principals.app, "show", "digits", "thief", "--json").stdout)
    assert {name: known["score"][name] for name in counts} == counts
    text = run(principals.app, "show", "digits", "thief").stdout
    expected = "100 judged + 20 repeated + 12 unjudged (dimension 9, no-profile 3) + 5 dropped (queue 5)"
    assert f"answered: 137 = {expected}\n" in text


def test_show_of_an_unknown_principal_fails(topics: Topics) -> None:
    shown = run(principals.app, "show", "digits", "nobody")
    assert shown.exit_code == 1
    assert "score: none yet" in shown.stdout


def test_records_that_cannot_be_read_are_named_and_skipped(topics: Topics, broker: Broker, publish: Any) -> None:
    publish(topics.scores, score("ada", 0.4))
    with closing(KafkaProducer(bootstrap_servers=broker.bootstrap)) as producer:
        producer.send(topics.scores, value=b"junk", partition=0).get(timeout=20)
    result = run(principals.app, "top", "--json")
    assert [row["score"]["principal"] for row in json.loads(result.stdout)] == ["ada"]
    assert f"skipped a record that cannot be read ({topics.scores}, partition 0, offset" in result.stderr


def tail_of(topics: Topics, monkeypatch: pytest.MonkeyPatch, *arguments: str, during: Any = None) -> Sequence[str]:
    """Returns what ``alerts tail`` prints within two seconds, until it is interrupted."""

    def two_seconds(topic: Topic, seconds: float | None = None) -> Iterator[Any]:
        assert seconds is None
        if during is not None:
            during()
        yield from follow(topic, 2.0)
        raise KeyboardInterrupt

    follow = Topic.follow
    monkeypatch.setattr(Topic, "follow", two_seconds)
    result = run(principals.alerts, "tail", *arguments)
    assert result.exit_code == 0
    return result.stdout.splitlines()


def test_tail_prints_new_alerts(topics: Topics, publish: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(topics.alerts, alert("early"))
    lines = tail_of(topics, monkeypatch, during=lambda: publish(topics.alerts, alert("late")))
    assert [line.split()[3] for line in lines] == ["late"]


def test_tail_prints_a_rise_of_severity_and_no_repeats(
    topics: Topics, publish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = replace(alert("thief"), severity="medium", score=1.1, calibrated=False)
    higher = replace(first, severity="high", score=1.7, query_index=200, revision=2, occurred_at=NOW + 9)
    publish(topics.alerts, first, first, higher, first, higher)
    lines = tail_of(topics, monkeypatch, "--from-beginning")
    assert [" ".join(line.split()[1:11]) for line in lines] == [
        "medium digits thief prada score 1.1 (uncalibrated) at query 131:",
        "high digits thief prada score 1.7 (uncalibrated) at query 201:",
    ]
    known = json.loads(run(principals.app, "show", "digits", "thief", "--json").stdout)
    assert [(one["revision"], one["severity"]) for one in known["alerts"]] == [(2, "high")]


def test_tail_from_the_beginning_prints_all_as_json(
    topics: Topics, publish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(topics.alerts, alert("thief", 1), alert("thief", 2))
    lines = tail_of(topics, monkeypatch, "--from-beginning", "--json")
    assert [json.loads(line)["episode"] for line in lines] == [1, 2]


def test_a_topic_is_read_to_its_real_end_even_if_the_embedded_broker_reports_an_earlier_one(
    topics: Topics, publish: Any, broker: Broker, prefix: str
) -> None:
    publish(topics.scores, *(score("thief", float(number)) for number in range(500)))
    with Topic(KafkaSettings(bootstrap_servers=broker.bootstrap, prefix=prefix), topics.scores) as topic:
        assert len(list(topic.until_now())) == 500


def test_a_missing_topic_is_named(broker: Broker, prefix: str) -> None:
    settings = KafkaSettings(bootstrap_servers=broker.bootstrap, prefix=prefix)
    with pytest.raises(BrokerError, match=f"there is no topic {settings.topics.alerts}"):
        Topic(settings, settings.topics.alerts)


@pytest.mark.parametrize(
    ("text", "value"), [("90s", 90), ("15m", 900), ("1h30m", 5400), ("2d", 172_800), ("0.5h", 1800)]
)
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "90", "1h30", "h", "-5m", "1 h"])
def test_a_duration_without_its_unit_is_refused(text: str) -> None:
    result = CliRunner().invoke(
        decisions.app, ["add", "m", "p", "--reason", "r", "--action", "refuse", f"--duration={text}"]
    )
    assert result.exit_code == 2
    assert "is not a duration" in result.output


def test_tail_ends_with_its_reader_even_without_new_alerts(topics: Topics, publish: Any) -> None:
    publish(topics.alerts, alert("thief"))
    command = [sys.executable, "-m", "detector.cli.main", "alerts", "tail", "--from-beginning"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "thief" in process.stdout.readline()
        process.stdout.close()
        try:
            assert process.wait(20) == 0
        finally:
            process.kill()
        assert process.stderr.read() == ""


def exempt(*arguments: str) -> list[tuple[str, str]]:
    listed = json.loads(run(allowlist.app, "list", "--json", *arguments).stdout)
    return [(one["principal"], one["from"]) for one in listed]


def test_the_allowlist_is_changed_and_listed_by_command(topics: Topics, owner: list[Command], publish: Any) -> None:
    assert run(allowlist.app, "list").stdout == "No principal is exempt.\n"
    given = ("--owner", "sales", "--reason", "load test", "--issuer", "eve")
    assert "allowed for 2 days (sales)" in run(allowlist.app, "add", "ada", "--expires", "2d", *given).stdout
    run(allowlist.app, "add", "bob", "--model", "digits", *given)
    assert [(one.kind, one.model, one.owner) for one in owner] == [
        ("allow", "*", "sales"),
        ("allow", "digits", "sales"),
    ]
    assert exempt() == [("ada", "eve"), ("bob", "eve")]
    assert exempt("--model", "faces") == [("ada", "eve")]
    refused = run(allowlist.app, "add", "carl", "--expires", "91d", *given)
    assert (refused.exit_code, "at most 90 days" in refused.stdout) == (1, True)
    run(allowlist.app, "remove", "ada", "--reason", "test is over", "--issuer", "eve")
    assert exempt() == [("bob", "eve")]
    assert "sales" in run(allowlist.app, "list").stdout


def test_a_network_is_exempt_in_every_partition(topics: Topics, owner: list[Command], publish: Any) -> None:
    given = ("--owner", "sales", "--reason", "office", "--issuer", "eve", "--scope", "network")
    done = run(allowlist.app, "add", "203.0.113.0/24", *given).stdout
    assert f"({PARTITIONS} of {PARTITIONS} partitions)" in done
    assert {one.scope for one in owner} == {"network"}
    assert len(owner) == PARTITIONS
    assert exempt() == [("203.0.113.0/24", "eve")]
    with pytest.raises(ConfigurationError, match="no network"):
        run(allowlist.app, "add", "the office", *given)


def test_a_file_is_imported_without_what_has_expired(
    topics: Topics, owner: list[Command], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = '[[allow]]\nprincipal = "{}"\nowner = "o"\nreason = "r"\nexpires = {}\n'
    file = tmp_path / "allow.toml"
    file.write_text(entry.format("old", "2001-01-01") + entry.format("long", "2999-01-01"), encoding="utf-8")
    done = run(allowlist.app, "import", str(file), "--issuer", "eve")
    assert "expired" in done.stderr
    assert "cut to 90 days" in done.stderr
    assert [(one.principal, one.kind, one.owner) for one in owner] == [("long", "allow", "o")]
    monkeypatch.setenv("WEIRGUARD_POLICY__ALLOWLIST", str(file))
    assert exempt() == [("long", "file"), ("long", "eve")]
    file.write_text("nonsense", encoding="utf-8")
    assert "only observes" in run(allowlist.app, "list").stderr
