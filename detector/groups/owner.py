"""The owner of the groups of some model versions: judged queries in, alerts on groups and commands about members out.

Pure: its state is a function of the records so far, in their order. What it records of a change are the records
themselves, so that recovery watches them again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import log
from typing import Any

from detector.contracts.errors import ConfigurationError, InvalidRecord, NewerStateLog
from detector.contracts.findings import (
    GROUP_ORIGIN,
    MEMBERS_SHOWN,
    Audit,
    Command,
    Family,
    GroupAlert,
    severity_of,
)
from detector.core.profile import Profile
from detector.core.state.arrays import Section, pack, unpack
from detector.groups.joint import JointExposure, JointLimit
from detector.groups.judged_record import JudgedRecord, decode_judged
from detector.groups.watch import ACCOUNTS, CHANCE, GroupWatch
from detector.policy.entry import IDLE_SECONDS, MOST_LEARNED
from detector.policy.records import command_audit, content_id

SECTION = "groups"
_VERSION = 1
_LEAST_CHANCE = 1e-300
_GROWN = 1.125
_STALE_SECONDS = 60.0
_REPEATED_SECONDS = IDLE_SECONDS / 2

ModelVersion = tuple[str, str]


@dataclass(slots=True)
class GroupEffects:
    """What follows from judged queries or a command. ``section``: the change of state, None for none. ``watched``:
    rows that were new, by model version. ``linked``: those of them that were compared with other accounts."""

    alerts: list[GroupAlert] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    audits: list[Audit] = field(default_factory=list)
    section: Section | None = None
    watched: dict[ModelVersion, int] = field(default_factory=dict)
    linked: dict[ModelVersion, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Published:
    """A group as it was published last: its ``revision``, 0 for none, its ``size`` then, at ``time``. ``changed``:
    whether it has grown since. ``dismissed_by``: the operator who released it. ``family`` of its evidence; once it is
    more than content it stays so. ``checked_at``: when the family was last checked."""

    revision: int = 0
    size: int = 0
    time: float = 0.0
    changed: bool = False
    dismissed_by: str | None = None
    family: Family | None = None
    checked_at: float = 0.0


@dataclass(slots=True)
class _Watched:
    """One model version. ``applied``: by source and partition, the offset and row of the last row applied.
    ``published``: its groups, by id. ``joined``: by member, when they were last reported to their owner. ``joint``:
    what its most-learned accounts know."""

    profile: Profile
    watch: GroupWatch
    applied: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    published: dict[str, _Published] = field(default_factory=dict)
    joined: dict[str, float] = field(default_factory=dict)
    joint: JointExposure = field(default_factory=JointExposure)


class GroupOwner:
    """Watches the groups of the model versions of ``profiles`` that have a crowd, with ``nbytes`` bytes of recent
    queries for each. ``configuration``: the hash of the detection settings. ``limit``: what accounts may learn
    together."""

    def __init__(
        self, profiles: Sequence[Profile], configuration: str, nbytes: int, limit: JointLimit | None = None
    ) -> None:
        self._profiles = {
            (profile.model, profile.model_version): profile for profile in profiles if profile.crowd is not None
        }
        self._configuration = configuration
        self._nbytes = nbytes
        self._limit = limit or JointLimit()
        self._watched: dict[ModelVersion, _Watched] = {}

    # -- live ----------------------------------------------------------------------------------------------------------

    def observe(self, records: Sequence[tuple[bytes, JudgedRecord]]) -> GroupEffects:
        """Watches ``records``, each with its bytes, in order. Rows that were applied already, and rows that another
        profile judged, change nothing. Raises InvalidRecord for a record that does not fit its profile."""
        effects, values = GroupEffects(), list[bytes]()
        for value, record in records:
            if self._observe(record, effects):
                values.append(value)
        if values:
            effects.section = _VERSION, pack({"judged": values})
        return effects

    def check(self, record: JudgedRecord) -> None:
        """Raises InvalidRecord unless ``record`` has the shape of the profile that it names."""
        profile = self._profile_of(record)
        if profile is None:
            return
        queries, reference = record.queries, profile.reference
        has = queries.features.shape[1], queries.points.shape[1], queries.deviations.shape[1]
        needs = reference.dimension, reference.points.shape[1] + 1, GroupWatch.MEASURES
        if has != needs:
            raise InvalidRecord("dimension", f"features, points and deviations have {has} columns and need {needs}")
        cells = queries.cells
        if cells.size and not 0 <= int(cells.min()) <= int(cells.max()) < len(reference.points):
            raise InvalidRecord("value", f"cells must be from 0 to below {len(reference.points)}")

    def command(self, command: Command, now: float) -> GroupEffects:
        """Applies an operator's dismissal at policy time ``now``. One that does not apply is audited with the
        reason."""
        effects = GroupEffects()
        try:
            summary = self._dismiss(command, now, effects)
        except ConfigurationError as refusal:
            effects.audits.append(command_audit(command, now, str(refusal), refused=True))
            return effects
        effects.audits.append(command_audit(command, now, summary, refused=False))
        dismissal = [command.model, command.model_version, command.principal, command.issuer, now]
        effects.section = _VERSION, pack({"dismissed": dismissal})
        return effects

    # -- state ---------------------------------------------------------------------------------------------------------

    def absorb(self, section: Section) -> None:
        """Applies a change that ``observe`` or ``command`` returned, or a dump. Raises NewerStateLog, StateLogError."""
        version, data = section
        if version > _VERSION:
            raise NewerStateLog(
                f"section {SECTION!r} has format {version}, this version reads up to {_VERSION}; run the version that "
                "wrote it or a later one"
            )
        body = unpack(data)
        for value in body.get("judged", ()):
            self._observe(decode_judged(value), GroupEffects())
        if "dismissed" in body:
            model, model_version, group, issuer, now = body["dismissed"]
            self._release((model, model_version), group, issuer, now, GroupEffects())
        if "watched" in body:
            self._load(body["watched"])

    def dump(self) -> Iterator[Section]:
        """Yields the whole state, a section for each model version."""
        for (model, version), watched in self._watched.items():
            body = {
                "model": model,
                "model_version": version,
                "profile": watched.profile.hash,
                "applied": [[*place, *last] for place, last in watched.applied.items()],
                "published": [
                    [group, one.revision, one.size, one.time, one.changed, one.dismissed_by, one.family, one.checked_at]
                    for group, one in watched.published.items()
                ],
                "joined": watched.joined,
                "joint": watched.joint.dump(),
                "watch": watched.watch.dump(),
            }
            yield _VERSION, pack({"watched": body})

    def _load(self, body: dict[str, Any]) -> None:
        """Loads one model version; the state of another profile is left out, as nothing of it compares."""
        key = body["model"], body["model_version"]
        profile = self._profiles.get(key)
        if profile is None or profile.hash != body["profile"]:
            return
        watched = self._watched[key] = self._new(profile)
        watched.watch.load(body["watch"])
        watched.applied = {(source, partition): (offset, row) for source, partition, offset, row in body["applied"]}
        watched.published = {group: _Published(*rest) for group, *rest in body["published"]}
        watched.joined = dict(body["joined"])
        watched.joint = JointExposure(*body.get("joint", ()))

    @property
    def nbytes(self) -> int:
        return sum(watched.watch.nbytes for watched in self._watched.values())

    def sizes(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Returns, by model and state ("verdict" or "dismissed"), how many groups there are, and how many members."""
        sizes: dict[tuple[str, str], tuple[int, int]] = {}
        for (model, _), watched in self._watched.items():
            for group, one in watched.published.items():
                state = "verdict" if one.dismissed_by is None else "dismissed"
                groups, members = sizes.get((model, state), (0, 0))
                sizes[model, state] = groups + 1, members + watched.watch.size_of(group)
        return sizes

    def joint(self) -> dict[tuple[str, ...], float]:
        """Returns, by model and kind ("reached" or "ordinary"), what the most-learned accounts know together; of
        several versions of a model, those that know most."""
        found: dict[tuple[str, ...], float] = {}
        for (model, _), watched in sorted(self._watched.items(), key=lambda item: item[1].joint.reached):
            found |= {(model, "reached"): watched.joint.reached, (model, "ordinary"): watched.joint.ordinary}
        return found

    # -- inside --------------------------------------------------------------------------------------------------------

    def _profile_of(self, record: JudgedRecord) -> Profile | None:
        profile = self._profiles.get((record.model, record.model_version))
        return profile if profile is not None and profile.hash == record.profile else None

    def _new(self, profile: Profile) -> _Watched:
        return _Watched(profile, GroupWatch(profile, self._nbytes))

    def _observe(self, record: JudgedRecord, effects: GroupEffects) -> bool:
        """Returns whether ``record`` changed anything."""
        profile, key = self._profile_of(record), (record.model, record.model_version)
        if profile is None:
            return False
        if key not in self._watched:
            self._watched[key] = self._new(profile)
        watched, place = self._watched[key], (record.source, record.partition)
        fresh = record.after(*watched.applied.get(place, (-1, -1)))
        if not len(fresh):
            return False
        effects.linked[key] = effects.linked.get(key, 0) + len(fresh.queries.linked)
        watched.applied[place] = int(fresh.offset[-1]), int(fresh.queries.row[-1])
        effects.watched[key] = effects.watched.get(key, 0) + len(fresh)
        now, joined = float(fresh.time.max()), list[str]()
        for revision in watched.watch.observe(fresh.queries):
            watched.published.setdefault(revision.id, _Published()).changed = True
            joined += revision.joined
        self._publish(watched, now, effects)
        limited = watched.watch.measure(watched.joint, self._limit, now) if watched.joint.is_due(now) else None
        if not fresh.learning.all():
            self._report(watched, [*joined, *fresh.queries.principals], now, effects)
            if limited is not None:
                self._restrict(watched, limited, now, effects)
        return True

    def _publish(self, watched: _Watched, now: float, effects: GroupEffects) -> None:
        """Adds an alert for each group that is new, has grown by a share, or changed a minute ago: each record holds
        the whole group. One whose members were all forgotten has ended: its last alert has the size 0."""
        for group, one in list(watched.published.items()):
            size = watched.watch.size_of(group)
            if one.family == "content" and now >= one.checked_at + _STALE_SECONDS:
                one.checked_at, one.changed = now, one.changed or watched.watch.state_of(group).family != "content"
            due = one.changed and (size >= _GROWN * one.size or now >= one.time + _STALE_SECONDS)
            if due or (one.size and not size):
                effects.alerts.append(self._alert(watched, group, one, now))
            if not watched.watch.knows(group):
                del watched.published[group]

    def _alert(self, watched: _Watched, group: str, one: _Published, now: float) -> GroupAlert:
        state = watched.watch.state_of(group)
        score = log(max(state.chance, _LEAST_CHANCE)) / log(CHANCE)
        one.revision, one.size, one.time, one.changed = one.revision + 1, len(state.members), now, False
        if one.family in (None, "content") and one.family != state.family:
            one.family = state.family
            for member in state.members:  # their owners are told anew when they are seen next
                watched.joined.pop(member.principal, None)
        return GroupAlert(
            id=group,
            revision=one.revision,
            occurred_at=now,
            model=watched.profile.model,
            model_version=watched.profile.model_version,
            severity=severity_of(score),
            score=score,
            chance=state.chance,
            size=len(state.members),
            members=state.members[:MEMBERS_SHOWN],
            evidence=state.evidence,
            configuration=self._configuration,
            profile=watched.profile.hash,
            dismissed_by=one.dismissed_by,
            family=one.family,
        )

    def _report(self, watched: _Watched, names: Sequence[str], now: float, effects: GroupEffects) -> None:
        """Adds a command for each of ``names`` who is a member and was not reported yet, or so long ago that their
        owner may have forgotten."""
        for name in dict.fromkeys(names):
            group = watched.watch.group_of(name)
            if group is None or watched.published[group].dismissed_by is not None:
                continue
            if now >= watched.joined.get(name, -_REPEATED_SECONDS) + _REPEATED_SECONDS:
                watched.joined[name] = now
                effects.commands.append(_command("join", watched, group, name, now))
        if len(watched.joined) > 2 * ACCOUNTS:
            watched.joined = {
                name: at for name, at in watched.joined.items() if watched.watch.group_of(name) is not None
            }

    def _restrict(self, watched: _Watched, limited: Sequence[str], now: float, effects: GroupEffects) -> None:
        """Adds commands for those of the ``limited`` accounts who were not told yet, or so long ago that their owner
        may have forgotten, and for those who are limited no longer."""
        told = watched.joint.limited
        for name in [name for name in told if name not in limited]:
            del told[name]
            effects.commands.append(_membership("leave", watched, MOST_LEARNED, name, now, "others have learned more"))
        reason = f"{len(limited)} accounts have learned {watched.joint.reached:.0%} of the model together"
        for name in limited:
            if now >= told.get(name, -_REPEATED_SECONDS) + _REPEATED_SECONDS:
                told[name] = now
                effects.commands.append(_membership("join", watched, MOST_LEARNED, name, now, reason))

    def _dismiss(self, command: Command, now: float, effects: GroupEffects) -> str:
        """Returns a summary of the result. Raises ConfigurationError with the reason if there is nothing to do."""
        key, group = (command.model, command.model_version or ""), command.principal
        watched = self._watched.get(key)
        if watched is None or group not in watched.published:
            raise ConfigurationError(f"nothing dismissed: there is no group {group} of {key[0]} {key[1]}")
        if watched.published[group].dismissed_by is not None:
            raise ConfigurationError(
                f"nothing dismissed: {watched.published[group].dismissed_by} has dismissed {group}"
            )
        self._release(key, group, command.issuer, now, effects)
        return f"dismissed: {watched.watch.size_of(group):,} members are released"

    def _release(self, key: ModelVersion, group: str, issuer: str, now: float, effects: GroupEffects) -> None:
        watched = self._watched.get(key)
        if watched is None or group not in watched.published:
            return
        one = watched.published[group]
        one.dismissed_by = issuer
        for name in watched.watch.members_of(group):
            if watched.joined.pop(name, None) is not None:
                leave = _command("leave", watched, group, name, now)
                effects.commands += [leave, _deletion(leave, issuer)]
        effects.alerts.append(self._alert(watched, group, one, now))


def _deletion(leave: Command, issuer: str) -> Command:
    """Returns the command that ends what follows from a membership at once: who leaves is let go when it expires."""
    return replace(
        leave,
        id=content_id("delete", leave.id),
        kind="delete",
        issuer=issuer,
        reason="the group was dismissed",
        cause_id=leave.issuer,
        group=None,
        group_size=None,
        family=None,
        model_version=None,
    )


def _command(kind: Any, watched: _Watched, group: str, name: str, now: float) -> Command:
    size = watched.watch.size_of(group)
    command = _membership(kind, watched, group, name, now, f"{size} accounts of group {group} share one theft")
    return replace(command, group_size=size, family=watched.published[group].family if kind == "join" else None)


def _membership(kind: Any, watched: _Watched, group: str, name: str, now: float, reason: str) -> Command:
    profile = watched.profile
    return Command(
        id=content_id(kind, profile.model, profile.model_version, group, name, now),
        kind=kind,
        issued_at=now,
        issuer=GROUP_ORIGIN + group,
        model=profile.model,
        principal=name,
        reason=reason,
        group=group,
        model_version=profile.model_version,
    )
