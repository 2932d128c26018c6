"""In-memory table of current decisions: the newest about each principal, until it expires, with its token bucket."""

from __future__ import annotations

import heapq
import json
import sys
import threading
from dataclasses import dataclass, replace

from detector.contracts.actions import ACTIONS, graded_of, rate_of
from detector.contracts.codecs.records import KILL_SWITCH_KEY, decode
from detector.contracts.errors import ConfigurationError, InvalidRecord
from detector.contracts.findings import GROUP_ORIGIN, Action, ActionName, Decision, Epoch, Graded, Mode
from detector.contracts.principals import DERIVED
from detector.serving.responses import SPECIFICATION, response_of

_LOCK = threading.Lock()
"""One lock for all buckets: it is held for a moment, and a lock per bucket would have to be fetched from memory."""

LONGEST_SECONDS = 1e9
"""The longest wait, however low the rate: some thirty years, which a header can hold."""


def renew_lock() -> None:
    """Replaces the lock in a forked process: a thread that is gone may have held it."""
    global _LOCK  # noqa: PLW0603  the one lock of the process
    _LOCK = threading.Lock()


class TokenBucket:
    """``rate`` queries a second on average, and at most one second's worth, or one query, at once.

    A request passes if a whole token is available and is then charged for all its rows: a thousand rows at once make
    the next wait longer. Safe for any number of threads.
    """

    __slots__ = ("_at", "_burst", "_tokens", "rate")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._burst = self._tokens = max(1.0, rate)
        self._at = float("inf")

    def take(self, now: float, queries: int = 1) -> float:
        """Charges ``queries`` at ``now`` (seconds). Returns 0 if they may pass, else the seconds to wait."""
        _LOCK.acquire()  # `with` and `min` cost more than all the rest, and a request waits for this
        try:
            tokens = self._tokens
            if now > self._at:
                tokens += (now - self._at) * self.rate
                tokens = self._burst if tokens > self._burst else tokens  # noqa: FURB136  as above
            self._at = now
            if tokens < 1.0:
                self._tokens = tokens
                wait = (1.0 - tokens) / self.rate
                return wait if wait < LONGEST_SECONDS else LONGEST_SECONDS  # noqa: FURB136  as above
            self._tokens = tokens - queries
            return 0.0
        finally:
            _LOCK.release()

    def charge(self, queries: int) -> None:
        """Charges ``queries`` more that have passed already."""
        with _LOCK:
            self._tokens -= queries


Key = tuple[str, str]
"""(model, principal)"""


@dataclass(slots=True)
class CachedDecision:
    """The part of a decision that the gate needs; ``bucket`` if it limits the rate.

    ``graded``: an action that this gate can take; ``action`` is then no fallback, but says whether the rate is limited.
    ``group``: the origin of a group behind the decision, the first of several; empty for none. A release is cached too,
    so that older decisions do not replace it. ``useful_until``: when it may be dropped, seconds UTC.
    """

    decision_id: str
    action: ActionName
    mode: Mode
    epoch: Epoch
    expires_at: float
    useful_until: float
    bucket: TokenBucket | None
    graded: Graded | None
    group: str


class DecisionTable:
    """Decisions by (model, principal), written by one thread and read by any.

    Each record replaces the previous one. A record with an older epoch is ignored. :meth:`sweep` removes expired
    decisions, which bounds the table. A decision to change an answer falls back if this version does not know the
    response, or the table does not ``respond``.
    """

    def __init__(self, responds: bool = False) -> None:
        self._responds = responds
        self._decisions: dict[Key, CachedDecision] = {}
        self._expiries: list[tuple[float, Key]] = []
        self._scheduled: set[Key] = set()
        self._kill_switch: Decision | None = None
        self.derived_names = False
        """Whether there ever was a decision about a name that :func:`usable_principal` derived."""
        self.get = self._decisions.get

    def __len__(self) -> int:
        return len(self._decisions)

    def switched_off(self, now: float) -> bool:
        """Returns whether the kill switch is on at ``now``."""
        return self._kill_switch is not None and now < self._kill_switch.expires_at

    def set_kill_switch(self, value: bytes | None) -> None:
        """Applies the record of the kill switch, ``["*"]``: a decision ``none``, or None to enforce again. Raises
        InvalidRecord.
        """
        self._kill_switch = None if value is None else decode(Decision, value)

    def apply(self, key: bytes | None, value: bytes | None) -> bool:
        """Applies one record of the decisions topic. Returns False if it is older than the current one. Raises
        InvalidRecord."""
        if key == KILL_SWITCH_KEY:
            self.set_kill_switch(value)
            return True
        names = _read_key(key)
        if value is None:
            self._decisions.pop(names, None)
            return True
        decision = decode(Decision, value)
        if (decision.model, decision.principal) != names:
            raise InvalidRecord("identity", "the key of a decision names another model or principal than its value")
        return self._replace(names, decision)

    def _replace(self, key: Key, decision: Decision) -> bool:
        before = self._decisions.get(key)
        if before is not None and decision.epoch < before.epoch:
            return False
        action = decision.action if self._can_apply(decision.action) else replace(decision.action, graded=None)
        graded, rate, useful_until = graded_of(action), rate_of(action), decision.expires_at
        if before is not None:
            useful_until = max(useful_until, before.useful_until)
        self._decisions[key] = CachedDecision(
            decision.id,
            action.name if graded is None else "none" if rate is None else "slow",
            decision.mode,
            decision.epoch,
            decision.expires_at,
            useful_until,
            _bucket(rate, before),
            graded,
            min((cause.origin for cause in decision.causes if cause.origin.startswith(GROUP_ORIGIN)), default=""),
        )
        if key not in self._scheduled:
            self._schedule(useful_until, key)
        self.derived_names = self.derived_names or decision.principal.startswith(DERIVED)
        return True

    def _can_apply(self, action: Action) -> bool:
        """Returns whether this gate can carry out ``action``, if that is a response."""
        graded = graded_of(action)
        if graded is None or not ACTIONS[graded.name].is_response:
            return True
        if not self._responds or graded.name == SPECIFICATION:
            return self._responds
        try:
            response_of(graded.name, graded.parameters)
        except ConfigurationError:
            return False
        return True

    def _schedule(self, useful_until: float, key: Key) -> None:
        """Keeps one entry per key, however often the decision is renewed: a later end is looked up when the first is
        due."""
        self._scheduled.add(key)
        heapq.heappush(self._expiries, (useful_until, key))

    def sweep(self, now: float) -> None:
        """Drops decisions that have no effect after ``now``."""
        while self._expiries and self._expiries[0][0] <= now:
            _, key = heapq.heappop(self._expiries)
            self._scheduled.discard(key)
            cached = self._decisions.get(key)
            if cached is None:
                continue
            if cached.useful_until <= now:
                del self._decisions[key]
            else:
                self._schedule(cached.useful_until, key)


def _bucket(rate: float | None, before: CachedDecision | None) -> TokenBucket | None:
    """Returns the bucket for a decision: a renewal keeps the old one, or it would grant a fresh burst."""
    if rate is None:
        return None
    if before is not None and before.bucket is not None and before.bucket.rate == rate:
        return before.bucket
    return TokenBucket(rate)


def _read_key(key: bytes | None) -> Key:
    try:
        names = json.loads(key or b"")
    except (ValueError, RecursionError) as error:
        raise InvalidRecord("syntax", f"the key of a decision is not JSON: {error}") from None
    if not isinstance(names, list) or len(names) != 2 or not all(isinstance(name, str) for name in names):
        raise InvalidRecord("structure", "the key of a decision must be the JSON array [model, principal]")
    return sys.intern(names[0]), names[1]
