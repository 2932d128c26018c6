"""Counts each answered query that is not judged, by principal and reason; too many of them raise the signal
``unjudged``.

Only principals with a dropped or unjudged query have an account: the engine counts judged queries. The result depends
on the stream alone, not on how it is cut into micro-batches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from detector.contracts.errors import NewerStateLog, StateLogError
from detector.contracts.findings import Evidence, Finding, severity_of
from detector.policy.account import Account, Watch
from detector.policy.activity import Activity, Key, Place, Section, Turn
from detector.policy.odd_events import JudgedRows, OddEvent, odd_events

FORMAT = 1
UNJUDGED = "unjudged"
"""The signal of a principal that sends too many queries that cannot be judged."""

MOST_ACCOUNTS = 10_000
MOST_WATCHES = 64
_FORGOTTEN_SHARE = 16

_Name = TypeVar("_Name")
_Held = TypeVar("_Held")

_decoder = msgspec.msgpack.Decoder(tuple[int, list[tuple[str, str, Account | None]], list[tuple[str, Watch | None]]])


@dataclass(slots=True)
class Accounted:
    """The result of a micro-batch.

    ``turns``: accusations and releases of each principal, in log order. ``excused``: by model, unjudged queries that
    accuse nobody because the deployment is at fault. ``forgotten``: accounts evicted because the limit was reached.
    ``section``: the state of the keys ``changed``, None where nothing changed.
    """

    turns: dict[Key, list[Turn]] = field(default_factory=dict)
    excused: Counter[str] = field(default_factory=Counter)
    forgotten: int = 0
    changed: dict[Key, None] = field(default_factory=dict)
    section: Section | None = None


class Accounting:
    """The accounts of one partition, ``most`` of them. ``limit``: recent unjudged queries that make a suspect."""

    def __init__(self, limit: int, most: int = MOST_ACCOUNTS) -> None:
        self._limit = limit
        self._most = most
        self._events = 0
        self._accounts: dict[Key, Account] = {}
        self._watches: dict[str, Watch] = {}
        self._followed: set[Key] = set()

    # -- live

    def take(self, activity: Activity) -> Accounted:
        """Applies a micro-batch; the result holds the change."""
        events = odd_events(activity)
        done = Accounted()
        if not (events or self._followed):
            return done
        rows = JudgedRows(activity)
        for event in events:
            self._events += 1
            if event.key not in self._accounts:
                self._make_room(event, rows, done)
            self._event(event, rows, done)
        for key in self._followed & rows.keys:
            self._catch_up(key, rows, len(activity), done)
        for key in done.changed:
            self._follow(key)
        done.section = self.dump(done.changed) if done.changed else None
        return done

    def of(self, key: Key) -> Account | None:
        """Returns the account of a principal, or None."""
        return self._accounts.get(key)

    @property
    def known(self) -> Container[Key]:
        """The principals with an account."""
        return self._accounts

    def accused(self) -> set[Key]:
        """The principals that are suspects because of unjudged queries."""
        return {key for key in self._followed if key[1] and self._accounts[key].accused}

    def forget(self, key: Key) -> Section | None:
        """Drops the account of a principal; returns the change, or None if there is no account."""
        if self._accounts.pop(key, None) is None:
            return None
        self._follow(key)
        return self.dump([key])

    # -- state

    def absorb(self, section: Section) -> None:
        """Applies a change or a dump. Raises NewerStateLog, StateLogError."""
        version, data = section
        if version > FORMAT:
            raise NewerStateLog(
                f"accounting section: format {version} was written by a later Weirguard, this one reads up to "
                f"{FORMAT}; run that version or a later one"
            )
        try:
            events, accounts, watches = _decoder.decode(data)
        except msgspec.MsgspecError as error:
            raise StateLogError(f"accounting section of {len(data)} bytes cannot be read: {error}") from error
        self._events = max(self._events, events)
        for model, principal, account in accounts:
            _put(self._accounts, (model, principal), account)
            self._follow((model, principal))
        for model, watch in watches:
            _put(self._watches, model, watch)
            self._follow((model, ""))

    def keys(self) -> list[Key]:
        """The principals with an account, and (model, "") for each watched model."""
        return [*self._accounts, *((model, "") for model in self._watches)]

    def dump(self, keys: Iterable[Key]) -> Section:
        """The state of ``keys``; a key without state is recorded as deleted."""
        chosen = list(keys)
        accounts = [(*key, self._accounts.get(key)) for key in chosen if key[1]]
        watches = [(model, self._watches.get(model)) for model, name in chosen if not name]
        return FORMAT, msgspec.msgpack.encode((self._events, accounts, watches))

    @property
    def nbytes(self) -> int:
        """Approximate memory in bytes."""
        accounts = sum(account.nbytes for account in self._accounts.values())
        return accounts + sum(watch.nbytes for watch in self._watches.values())

    # -- inside

    def _event(self, event: OddEvent, rows: JudgedRows, done: Accounted) -> None:
        """Counts one event of a principal, and records whether it makes them a suspect."""
        account = self._accounts.setdefault(event.key, Account())
        account.touched = self._events
        done.changed[event.key] = None
        if event.kind == "dropped":
            account.drop(event.reason, event.queries)
            return
        self._catch_up(event.key, rows, event.rows, done)
        watch, accused = self._watch(event, rows, done), account.accused
        account.refuse(event.reason, event.queries, self._limit)
        if account.accused or account.recent >= self._limit:
            account.accused = not watch.deployment()
            if not account.accused:
                done.excused[event.key[0]] += event.queries
        if accused or account.accused:
            _turn(done, event.key, event.place, self._finding(event, account) if account.accused else None)
        self._follow(event.key)

    def _watch(self, event: OddEvent, rows: JudgedRows, done: Accounted) -> Watch:
        """Returns the watch over the event's model, after counting the event."""
        key = event.key[0], ""
        if key[0] not in self._watches:
            if len(self._watches) >= MOST_WATCHES:
                oldest = min(self._watches, key=lambda name: self._watches[name].touched)
                del self._watches[oldest]
                done.changed[oldest, ""] = None
                self._follow((oldest, ""))
            self._watches[key[0]] = Watch()
        watch = self._watches[key[0]]
        watch.touched = self._events
        if key in self._followed:
            self._catch_up(key, rows, event.rows, done)
        else:
            rows.pass_by(key, event.rows)
        watch.refuse(event.key[1])
        done.changed[key] = None
        self._follow(key)
        return watch

    def _catch_up(self, key: Key, rows: JudgedRows, before: int, done: Accounted) -> None:
        """Counts the judged rows of the account or watch ``key`` up to the row ``before``."""
        done.changed[key] = None
        if not key[1]:
            self._watches[key[0]].judge(rows.principals_of(key[0], before))
            return
        account, own = self._accounts[key], rows.of(key, before)
        released = account.judge(len(own), self._limit)
        if released is not None:
            _turn(done, key, (2 * own[released] + 1, 0), None)

    def _make_room(self, event: OddEvent, rows: JudgedRows, done: Accounted) -> None:
        """Evicts accounts if the limit is reached: those without an accusation first, the longest unchanged first."""
        if len(self._accounts) < self._most:
            return
        for key in self._followed & rows.keys:
            if key[1]:
                self._catch_up(key, rows, event.rows, done)
        order = sorted(self._accounts, key=lambda key: (self._accounts[key].accused, self._accounts[key].touched))
        gone = order[: max(self._most // _FORGOTTEN_SHARE, 1)]
        for key in gone:
            del self._accounts[key]
            done.changed[key] = None
            self._follow(key)
        done.forgotten += len(gone)

    def _follow(self, key: Key) -> None:
        """Notes whether judged queries change the state of ``key``."""
        held = self._accounts.get(key) if key[1] else self._watches.get(key[0])
        (self._followed.add if held is not None and held.watched else self._followed.discard)(key)

    def _finding(self, event: OddEvent, account: Account) -> Finding:
        score = account.recent / self._limit
        reasons = sorted(account.unjudged.items())
        return Finding(
            row=event.rows,
            model=event.key[0],
            model_version=event.version,
            principal=event.key[1],
            signal=UNJUDGED,
            severity=severity_of(score),
            score=score,
            statistic=float(account.recent),
            threshold=float(self._limit),
            query_index=sum(account.unjudged.values()) - 1,
            evidence=(
                Evidence("unjudged", float(account.recent), "queries", float(self._limit)),
                Evidence("share", account.share, "of the recent queries"),
                *(Evidence(f"unjudged: {reason}", float(queries), "queries") for reason, queries in reasons),
            ),
        )


def _put(held: dict[_Name, _Held], key: _Name, value: _Held | None) -> None:
    if value is None:
        held.pop(key, None)
    else:
        held[key] = value


def _turn(done: Accounted, key: Key, place: Place, finding: Finding | None) -> None:
    done.turns.setdefault(key, []).append(Turn(place, finding))
