"""OCSF: the fields that make a Detection Finding, and MITRE ATLAS."""

from __future__ import annotations

import json

import pytest

from detector.notify.receivers import new_receiver
from detector.notify.receivers.base import Surroundings
from detector.notify.receivers.ocsf import finding
from detector.runtime.receivers import ReceiverSettings
from tests.notify.alerts import NOW, group_notification, notification
from tests.notify.test_webhook import letters


def test_an_alert_is_a_detection_finding_with_the_technique_of_atlas() -> None:
    found = finding(notification("one", severity="high"))
    assert (found["category_uid"], found["class_uid"], found["type_uid"]) == (2, 2004, 200_401)
    assert (found["activity_id"], found["severity_id"], found["status_id"]) == (1, 4, 1)
    assert found["time"] == round(1000 * NOW)
    assert found["finding_info"]["attacks"] == [
        {
            "technique": {"uid": "AML.T0024", "name": "Exfiltration via AI Inference API"},
            "sub_technique": {"uid": "AML.T0024.002", "name": "Extract AI Model"},
            "tactic": {"uid": "AML.TA0010", "name": "Exfiltration"},
        }
    ]
    assert found["resources"] == [{"uid": "digits", "name": "digits", "type": "AI model", "version": "1"}]
    assert found["evidences"][0]["actor"]["user"] == {"name": "account-17", "uid": "account-17"}
    assert found["unmapped"]["schema"] == "weirguard.alert/1"
    assert json.loads(json.dumps(found)) == found


def test_a_later_revision_updates_the_same_finding() -> None:
    first, second = finding(notification("one")), finding(notification("one", revision=2, severity="high"))
    assert (second["activity_id"], second["type_uid"]) == (2, 200_402)
    assert first["finding_info"]["uid"] == second["finding_info"]["uid"]
    assert first["metadata"]["uid"] != second["metadata"]["uid"]


def test_a_technique_of_which_only_the_id_is_known() -> None:
    [attack] = finding(notification(technique="AML.T0040"))["finding_info"]["attacks"]
    assert attack == {"technique": {"uid": "AML.T0040"}}


def test_the_members_of_a_group_are_its_evidence_and_a_dismissal_closes_the_finding() -> None:
    found = finding(group_notification("g1"))
    assert [one["actor"]["user"]["name"] for one in found["evidences"]] == ["account-0", "account-1", "account-2"]
    closed = finding(group_notification("g1", revision=2, dismissed_by="alice"))
    assert (closed["activity_id"], closed["type_uid"], closed["status_id"]) == (3, 200_403, 4)
    assert closed["is_alert"] is False
    assert closed["finding_info"]["uid"] == found["finding_info"]["uid"]


def test_dead_letters_are_a_finding_without_model_and_technique() -> None:
    found = finding(letters())
    assert found["class_uid"] == 2004
    assert "attacks" not in found["finding_info"]
    assert found.keys().isdisjoint({"resources", "evidences", "observables"})


def test_lines_go_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    lines = new_receiver(ReceiverSettings.model_validate({"ocsf": None}), Surroundings("one", lambda: NOW, "h"))
    lines.send(notification("one"))
    lines.send(notification("two"))
    assert [json.loads(line)["finding_info"]["uid"] for line in capsys.readouterr().out.splitlines()] == ["one", "two"]
