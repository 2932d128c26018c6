"""Groups: rings that no account of shows alone, and honest crowds that are none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from detector.contracts.batches import cut, take
from detector.contracts.queries import QueryBatch
from detector.core.engine import Engine, EngineConfig
from detector.core.profile import Profile
from detector.core.reference.standards import VOLUMES, Crowd, Floats, Integers
from detector.groups import watch
from detector.groups.clusters import Clusters
from detector.groups.watch import GroupRevision
from detector.policy.config import Policy
from detector.replay.groups import GroupReplay
from detector.replay.report import replay
from tests.core.honest import honest
from tests.groups.rings import calibrated, others, ring, stream, uniform
from tests.sources.logs import write_jsonl


def _watched(log: QueryBatch, size: int = 512) -> tuple[list[GroupRevision], list[str | None], list[bool]]:
    """Returns the revisions of groups, with rows of the whole ``log``, and of each row the group and the verdict."""
    engine, groups = Engine(EngineConfig(profiles=(calibrated(),))), GroupReplay((calibrated(),))
    revisions: list[GroupRevision] = []
    ids: list[str | None] = []
    flagged: list[bool] = []
    for start in range(0, len(log), size):
        piece = cut(log, start, min(start + size, len(log)))
        observation = engine.observe([piece])
        found = groups.observe(observation)
        revisions += [replace(own, row=own.row + start) for _, _, own in found.revisions]
        ids += found.ids.tolist()
        flagged += observation.flagged.tolist()
    return revisions, ids, flagged


_CONTENT = "features", "outputs"


def _members(revisions: Sequence[GroupRevision]) -> set[str]:
    return {name for revision in revisions for name in revision.joined}


def test_a_ring_whose_accounts_say_nothing_alone_is_found() -> None:
    log = stream([*others(60), *ring(40, 120)])
    revisions, ids, flagged = _watched(log)
    members = _members(revisions)
    of_ring = {name for name in members if name.startswith("ring")}
    assert sum(flagged) < 0.5 * 120
    assert len(of_ring) >= 32
    assert len(members - of_ring) <= 2
    assert {revision.id for revision in revisions} >= {name for name in ids if name is not None}
    first = revisions[0].row
    assert all(name is None for name in ids[:first])
    assert ids[first] == revisions[0].id


def test_one_query_an_account_is_enough() -> None:
    log = stream([*others(60), *uniform(30, 1)])
    revisions, _, _ = _watched(log)
    members = _members(revisions)
    assert sum(name.startswith("ring") for name in members) >= 20
    assert sum(name.startswith("honest") for name in members) <= 1


@pytest.mark.parametrize("seed", [1_000, 2_000, 3_000])
def test_honest_accounts_alone_are_no_group(seed: int) -> None:
    assert _watched(stream(others(80, seed)))[0] == []


def test_an_account_of_more_than_256_queries_is_compared_with_those_of_256(monkeypatch: pytest.MonkeyPatch) -> None:
    volumes, rarity = list[int](), Crowd.rarity

    def recorded(crowd: Crowd, at: Integers, distances: Floats) -> Floats:
        volumes.extend(at.tolist())
        return rarity(crowd, at, distances)

    monkeypatch.setattr(Crowd, "rarity", recorded)
    _watched(stream(others(1, rows=259)))
    assert volumes == [*VOLUMES, 256, 256, 256]


def test_an_office_that_scores_one_public_file_is_no_group() -> None:
    shared = honest("office", 7_000, 60)
    office = [replace(shared, principals=[f"office-{at}"]) for at in range(40)]
    assert _watched(stream([*others(40), *office]))[0] == []


def test_newcomers_of_a_launch_are_no_group() -> None:
    assert _watched(stream([*others(30), *others(200, 5_000, 2)]))[0] == []


def test_resold_traffic_of_many_users_is_no_group() -> None:
    """One file of honest queries, dealt to 50 accounts query by query."""
    resold = stream(others(50, 6_000))
    accounts = [replace(take(resold, np.arange(at, len(resold), 50)), principals=[f"user-{at}"]) for at in range(50)]
    accounts = [replace(account, principal_index=np.zeros(len(account), np.int32)) for account in accounts]
    assert _watched(stream([*others(30), *accounts]))[0] == []


def test_jobs_that_repeat_a_file_are_no_group() -> None:
    """Thirty accounts score one file again and again, each from another row on."""
    file = honest("job", 8_000, 60)
    jobs = [replace(take(file, (np.arange(180) + 7 * at) % 60), principals=[f"job-{at}"]) for at in range(30)]
    assert _watched(stream([*others(40), *jobs]))[0] == []


def test_examples_of_the_documentation_are_no_link() -> None:
    """A hundred newcomers try the same examples before their own rows."""
    examples, rng = honest("examples", 8_500, 6), np.random.default_rng(5)
    accounts = []
    for own in others(100, 9_000, 12):
        features, outputs = (np.concatenate((getattr(examples, each), getattr(own, each))) for each in _CONTENT)
        rows = np.concatenate((rng.permutation(6), np.arange(6, len(features))))
        longer = take(own, np.zeros(len(features), np.int64))
        accounts.append(replace(longer, features=features[rows], outputs=outputs[rows]))
    assert _watched(stream([*others(40), *accounts]))[0] == []


def test_any_cut_gives_the_same_groups() -> None:
    log = stream([*others(20), *ring(20, 100)])
    assert _watched(log) == _watched(log, 61)


def test_the_cut_says_nothing_of_how_many_accounts_there_are() -> None:
    accounts = [*others(5), *uniform(20, 3), *others(60, rows=4)]
    log = _one_after_another(accounts)
    first, *_ = _watched(log)[0]
    assert first.row < 5 * 40 + 20 * 3
    assert _watched(log) == _watched(log, 61)


def test_accounts_are_forgotten_at_any_cut_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "ACCOUNTS", 20)
    log = _one_after_another([*uniform(8, 3), *others(40, rows=4), *ring(8, 60), *others(20, 4_000, 4)])
    revisions, ids, flagged = _watched(log)
    assert revisions
    assert (revisions, ids, flagged) == _watched(log, 61) == _watched(log, 7)


def test_versions_that_share_account_names_have_groups_of_their_own(tmp_path: Path) -> None:
    log = stream([*others(20), *ring(20, 100)])
    profiles = (calibrated(), replace(calibrated(), model_version="2"))
    pieces = []
    for start in range(0, len(log), 10):
        piece = cut(log, start, start + 10)
        pieces += [piece, replace(piece, model_version="2", event_ids=[f"2-{name}" for name in piece.event_ids])]
    path = write_jsonl(tmp_path / "log.jsonl", *pieces)
    summary = replay([path], tmp_path / "out", engine_config=EngineConfig(profiles=profiles), policy=Policy())
    verdicts = pq.read_table(tmp_path / "out" / "verdicts.parquet").to_pylist()
    revisions, ids, _ = _watched(log)
    assert revisions
    assert [own["chance"] for own in summary["groups"][:1]] == [_watched(log)[0][-1].chance]
    of_first = [row["group"] for row in verdicts if not row["event_id"].startswith("2-")]
    of_second = [row["group"] for row in verdicts if row["event_id"].startswith("2-")]
    assert of_first == ids
    assert [name is None for name in of_second] == [name is None for name in ids]
    assert set(of_first) & set(of_second) == {None}


def _one_after_another(accounts: Sequence[QueryBatch]) -> QueryBatch:
    lengths = [len(account) for account in accounts]
    return replace(
        accounts[0],
        event_ids=[str(row) for row in range(sum(lengths))],
        occurred_at=1_700_000_000 + np.arange(sum(lengths), dtype=np.float64),
        principals=[account.principals[0] for account in accounts],
        principal_index=np.repeat(np.arange(len(accounts)), lengths).astype(np.int32),
        features=np.concatenate([account.features for account in accounts]),
        outputs=np.concatenate([account.outputs for account in accounts]),
    )


def test_members_are_forgotten_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "ACCOUNTS", 128)
    revisions, ids, _ = _watched(stream([*ring(30, 120), *others(60)]))
    late = _watched(stream([*ring(30, 120), *others(100, 8_000, 4)]))[1]
    assert revisions
    assert ids[-1] is None or ids[-1] in {revision.id for revision in revisions}
    assert any(late[-200:])


def test_a_member_that_was_forgotten_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "ACCOUNTS", 20)
    path = write_jsonl(tmp_path / "log.jsonl", stream([*uniform(30, 4), *others(40, rows=5)]))
    config = EngineConfig(profiles=(calibrated(),))
    (group,) = replay([path], tmp_path / "out", engine_config=config, policy=Policy())["groups"]
    assert len(group["members"]) == len(set(group["members"])) > 10


def test_a_profile_without_a_crowd_has_no_groups() -> None:
    bare: Profile = replace(calibrated(), crowd=None)
    log = stream([*others(10), *ring(10, 60)])
    observation = Engine(EngineConfig(profiles=(bare,))).observe([log])
    found = GroupReplay((bare,)).observe(observation)
    assert found.revisions == []
    assert all(name is None for name in found.ids)


def test_the_crowd_is_kept_in_the_profile() -> None:
    again = Profile.from_bytes(calibrated().to_bytes())
    assert again.hash == calibrated().hash
    assert again.crowd is not None
    assert calibrated().crowd is not None
    np.testing.assert_array_equal(again.crowd.reached, calibrated().crowd.reached)  # type: ignore[union-attr]


def test_a_replay_names_groups_row_by_row(tmp_path: Path) -> None:
    log = stream([*others(40), *ring(30, 120)])
    config = EngineConfig(profiles=(calibrated(),))
    summary = replay(
        [write_jsonl(tmp_path / "log.jsonl", log)], tmp_path / "out", engine_config=config, policy=Policy()
    )
    revisions = [json.loads(line) for line in (tmp_path / "out" / "groups.jsonl").read_text("utf-8").splitlines()]
    verdicts = pq.read_table(tmp_path / "out" / "verdicts.parquet").to_pylist()
    first = revisions[0]
    assert summary["groups"][0]["id"] == first["id"]
    assert summary["groups"][0]["row"] == first["row"]
    assert verdicts[first["row"]]["group"] == first["id"]
    assert all(row["group"] is None for row in verdicts[: first["row"]])
    later = {row["principal"] for row in verdicts[revisions[-1]["row"] :] if row["group"] is not None}
    last = {revision["id"]: revision["members"] for revision in revisions}
    assert later <= {name for members in last.values() for name in members}
    assert last == {own["id"]: own["members"] for own in summary["groups"]}
    sizes = [len(revision["members"]) for revision in revisions if revision["id"] == first["id"]]
    assert all(after >= 1.125 * before for before, after in pairwise(sizes[:-1]))
    assert first["score"] > 1
    assert all(revision["chance"] < 1e-6 for revision in revisions[:1])


def test_a_group_whose_members_were_all_forgotten_has_no_evidence_and_no_members() -> None:
    log = stream([*others(20), *ring(20, 100)])
    engine, groups = Engine(EngineConfig(profiles=(calibrated(),))), GroupReplay((calibrated(),))
    found = groups.observe(engine.observe([log]))
    ((own, _),) = groups._watches.values()
    group = found.revisions[-1][2].id
    assert own.state_of(group).evidence
    slots, names = own._clusters.named[group].slots, own._names
    own._accounts.every[slots] = 0.0
    own._accounts.every[slots, names.index("outlyingness")] = 9.0
    assert own.state_of(group).family == "content"
    own._accounts.every[slots, names.index("foreign_sign_steps")] = 9.0
    assert own.state_of(group).family == "structure"
    own._accounts.member[:] = False
    assert (own.state_of(group).members, own.state_of(group).evidence) == ((), ())


@pytest.mark.parametrize(("sizes", "parts"), [((0, 0), 2), ((3, 0), 1), ((0, 3), 1), ((3, 3), 2)])
def test_a_cluster_that_has_become_like_a_group_is_united_with_it(sizes: tuple[int, int], parts: int) -> None:
    own = Clusters(2, ("m", "1"))
    angles = np.radians([0, 60, 50, 45])
    added = np.column_stack((np.cos(angles), np.sin(angles)))
    first, second = (own.join(slot, "founder", added[slot]) for slot in (0, 1))
    assert own.united(second) is second is not first
    for slot in (2, 3):
        assert own.join(slot, "other", added[slot]) is second
    first.size, second.size = sizes
    kept = own.united(second)
    assert kept is (first if sizes == (3, 0) else second)
    assert {own.of[slot] for slot in kept.accounts} == {kept}
    assert sorted(own.of) == [0, 1, 2, 3]
    assert len(own.named) == parts
    assert own.dump()["directions"].sum(axis=0) == pytest.approx(added.sum(axis=0))
