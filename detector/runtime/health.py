"""Whether a worker lives and is ready, from the facts of the stream and the time alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Fact = float | int | str | dict[str, str] | list[str] | None


@dataclass(frozen=True, slots=True)
class Probe:
    """The answer to a probe: ``ok``, or why not."""

    ok: bool
    why: str
    facts: dict[str, Fact]


QUIET_SECONDS = 15.0
"""A worker that has heard nothing from its brokers for this long is not ready."""


@dataclass(slots=True)
class Health:
    """The state of a worker. ``clock`` returns seconds and never goes back.

    ``stall_seconds``: after this long without progress, while there is work, the worker counts as dead. A silent broker
    does not count: ``behind`` counts only while it is refreshed. ``profiles``: the hash of the profile of each model
    version. ``uncalibrated``: model versions that were seen and are judged without a profile.
    """

    clock: Callable[[], float]
    stall_seconds: float = 60.0
    partitions_assigned: int | None = None
    partitions_recovered: int = 0
    event_time: float | None = None
    records_behind: int = 0
    profiles: Mapping[str, str] = field(default_factory=dict)
    uncalibrated: set[str] = field(default_factory=set)
    stop_reason: str | None = None
    _moved_at: float = field(init=False)
    _behind_since: float | None = field(init=False, default=None)
    _told_at: float = field(init=False)
    _heard_at: float = field(init=False)
    _cut_off_since: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._moved_at = self._told_at = self._heard_at = self.clock()

    def assigned(self, partitions: int) -> None:
        """The group assigned ``partitions`` to this worker; their state is to be restored."""
        self.partitions_assigned, self.partitions_recovered = partitions, 0
        self._moved_at = self._heard_at = self.clock()

    def absorbed(self) -> None:
        """A record of the state log was read back."""
        self._moved_at = self._heard_at = self.clock()

    def heard(self, answered: bool, connected: bool) -> None:
        """Whether a broker has ``answered`` since the last call, and whether there is a connection to any."""
        if answered:
            self._heard_at = self.clock()
        if connected:
            self._cut_off_since = None
        elif self._cut_off_since is None:
            self._cut_off_since = self.clock()

    def cut_off_seconds(self) -> float:
        """Seconds since there is no connection to any broker, as far as is known; 0 while there is one."""
        return 0.0 if self._cut_off_since is None else self.clock() - self._cut_off_since

    def silent_seconds(self) -> float:
        """Seconds since a broker answered."""
        return self.clock() - self._heard_at

    def hears(self) -> bool:
        """Whether brokers answer, or did a moment ago."""
        return self.silent_seconds() < QUIET_SECONDS

    def recovered(self, partitions: int) -> None:
        """The state of ``partitions`` is restored."""
        self.partitions_recovered = partitions
        self._moved_at = self.clock()

    def applied(self, event_time: float) -> None:
        """A micro-batch is done; ``event_time`` is its newest Kafka timestamp."""
        self.event_time = max(event_time, self.event_time or event_time)
        self._moved_at = self.clock()

    def behind(self, records: int) -> None:
        """The broker reports that ``records`` wait."""
        self.records_behind = records
        self._told_at = self.clock()
        if records == 0:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = self._told_at

    def stopped(self, why: str) -> None:
        """The worker gave up."""
        self.stop_reason = why

    def still_seconds(self) -> float:
        """Seconds since anything moved."""
        return self.clock() - self._moved_at

    def live(self) -> Probe:
        """Not live: stopped, or still for ``stall_seconds`` while restoring state or while records wait."""
        if self.stop_reason is not None:
            return self._probe(f"stopped: {self.stop_reason}")
        still = self.still_seconds()
        if still >= self.stall_seconds and self._recovering():
            return self._probe(f"state is not restored and nothing was read for {still:.0f} s")
        if still >= self.stall_seconds and self._starved():
            return self._probe(f"{self.records_behind} records wait and none was applied for {still:.0f} s")
        return self._probe(None)

    def ready(self) -> Probe:
        """Ready: assigned, all state restored, brokers answer. A spare worker, assigned no partition, is ready."""
        if self.stop_reason is not None:
            return self._probe(f"stopped: {self.stop_reason}")
        if self.partitions_assigned is None:
            return self._probe("no assignment yet")
        if self._recovering():
            return self._probe(
                f"state of {self.partitions_recovered} of {self.partitions_assigned} partitions restored"
            )
        if not self.hears():
            return self._probe(
                f"the brokers that this worker knows have not answered for {self.silent_seconds():.0f} s"
            )
        return self._probe(None)

    def _recovering(self) -> bool:
        return self.partitions_recovered < (self.partitions_assigned or 0)

    def _starved(self) -> bool:
        """Whether records have waited for ``stall_seconds``, as the broker still says."""
        now = self.clock()
        long_enough = self._behind_since is not None and now - self._behind_since >= self.stall_seconds
        return long_enough and now - self._told_at < self.stall_seconds

    def _probe(self, trouble: str | None) -> Probe:
        facts: dict[str, Fact] = {
            "partitions_assigned": self.partitions_assigned,
            "partitions_recovered": self.partitions_recovered,
            "event_time": self.event_time,
            "records_behind": self.records_behind,
            "still_seconds": round(self.still_seconds(), 3),
            "silent_seconds": round(self.silent_seconds(), 3),
            "profiles": dict(self.profiles),
            "uncalibrated": sorted(self.uncalibrated),
        }
        return Probe(trouble is None, trouble or "ok", facts)
