"""The gate that a prediction service checks before it answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import detector
from detector.contracts.actions import ACTIONS
from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import ActionName, GateReport, Graded, Mode, WhenStale
from detector.contracts.principals import EVERYONE, principal_of
from detector.contracts.queries import OutputKind
from detector.serving.calls import count_rows
from detector.serving.connection import Connection
from detector.serving.decision_reader import DecisionReader
from detector.serving.decisions import CachedDecision, DecisionTable, renew_lock
from detector.serving.gate_reporter import GateReporter, new_gate_id
from detector.serving.metrics import Counters, OpenCounters, RateLimitedLogger
from detector.serving.responder import Answer, NoiseHolder, Responder
from detector.serving.responses import SPECIFICATION
from detector.serving.threads import BackgroundService, BackgroundThread

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_CONTACT_SECONDS = 2.0
_RETRY_WHEN_STALE_SECONDS = 5.0


class Verdict(NamedTuple):
    """The decision on one request.

    ``action``: ``none`` lets it pass; ``slow`` and ``refuse`` refuse it for ``retry_after`` seconds.
    ``queries_per_second``: the limit in force, also if this request passes. ``decision_id`` and ``mode``: of the
    decision in force. ``would_have``: the action that a decision in mode ``observe`` did not take. ``stale``: the gate
    does not know the current decisions. ``graded``: the action for a request that passes, such as ``round``; a response
    for :func:`respond`.
    """

    action: ActionName = "none"
    queries_per_second: float | None = None
    decision_id: str | None = None
    retry_after: float = 0.0
    mode: Mode | None = None
    would_have: str = "none"
    stale: bool = False
    graded: Graded | None = None
    group: str = ""

    @property
    def allowed(self) -> bool:
        return self.action == "none"


_verdict = partial(tuple.__new__, Verdict)
"""Builds a verdict from all its fields, twice as fast as the class itself."""
_ALLOW = Verdict()
_ALLOW_STALE = Verdict(stale=True)
_REFUSE_STALE = Verdict("refuse", retry_after=_RETRY_WHEN_STALE_SECONDS, stale=True)
_STALE: dict[str, Verdict] = {"allow": _ALLOW_STALE, "refuse": _REFUSE_STALE}


class Gate(BackgroundService[DecisionReader]):
    """The detector's decisions in memory: a look-up costs microseconds and never waits for Kafka.

    Until the decisions topic has been read once, and when Kafka was out of reach for longer than
    ``max_staleness_seconds``, ``when_stale`` decides, for all models, or by model with ``*`` for all others, which by
    default are allowed. When the detector is away for as long, it closes its closed models; others obey what was
    decided. A principal without a decision is always allowed. Decisions expire here by ``clock`` (seconds
    UTC), so a dead detector leaves no ban behind. The threads start with the first call of each process.

    With a ``responder``, :meth:`answer` changes answers as decisions ask. Without one, such decisions fall back to an
    action that every gate knows.

    Counters: ``allowed``, ``slowed`` and ``refused`` requests; among the allowed ones ``tagged``, ``rounded`` and so on
    by a graded action, ``would_have_slowed``, ``would_have_refused`` and so on by decisions that only observe,
    ``switched_off`` by the kill switch, ``stale_allowed``; ``stale_refused`` among the refused ones. ``unserved``
    queries: they got the model's own answer against a decision. ``applied``, ``outdated`` and ``unreadable`` decision
    records; ``failures`` of the connection and of the gate itself. Every ``report_seconds`` and at the end these go to
    the topic of gates: ``reported`` and ``unreported`` times.
    """

    NAME = "gate"

    def __init__(
        self,
        connection: Connection,
        *,
        max_staleness_seconds: float = 60.0,
        when_stale: WhenStale | Mapping[str, WhenStale] = "allow",
        report_seconds: float = 30.0,
        responder: Responder | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        by_model = {EVERYONE: when_stale} if isinstance(when_stale, str) else {EVERYONE: "allow", **when_stale}
        if min(max_staleness_seconds, report_seconds) <= 0 or not set(by_model.values()) <= {*_STALE}:
            raise ConfigurationError(
                f"max_staleness_seconds is {max_staleness_seconds}, report_seconds {report_seconds} and when_stale "
                f"{when_stale!r}; give more than 0 seconds and 'allow' or 'refuse'"
            )
        self.counters = Counters(*_COUNTERS)
        self.responses = OpenCounters()
        """Queries that got another answer than the model's, by response; whoever changes an answer counts it here."""
        self._max_staleness = max_staleness_seconds
        self._report_seconds = report_seconds
        self._when_stale = by_model
        self._clock = clock
        self._responder = responder
        self._table = DecisionTable(responds=responder is not None)
        self._connection = connection
        self._log = RateLimitedLogger(logging.getLogger(__name__))
        super().__init__()

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        """Gives a spawned process its own gate, which reads the decisions again."""
        settings = {
            "max_staleness_seconds": self._max_staleness,
            "when_stale": self._when_stale,
            "report_seconds": self._report_seconds,
            "responder": self._responder,
            "clock": self._clock,
        }
        make: Any = type(self)
        return partial(make, self._connection, **settings), ()

    @property
    def ready(self) -> bool:
        """Whether the decisions topic has been read to its end once."""
        return self._background.ready.is_set()

    def renew(self) -> None:
        """Starts again in a forked process, where the thread is gone. Decisions so far remain in force."""
        renew_lock()
        super().renew()

    def wait_until_ready(self, timeout: float) -> bool:
        """Starts the gate. Returns whether it became ready within ``timeout`` seconds."""
        self.start()
        return self._background.ready.wait(timeout)

    def close(self, timeout: float = 2.0) -> None:
        """Stops reading decisions; waits at most ``timeout`` seconds. The gate is stale until :meth:`start`."""
        self._close(timeout)

    def check(self, model: str, principal: str, queries: int = 1) -> Verdict:
        """Returns whether ``principal`` may query ``model`` for ``queries`` rows now. Never raises, never waits."""
        try:
            return self._check(model, principal, queries)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001  no fault of the SDK may break the caller
            self.counters.add("failures")
            self._log.warning("check", "the gate failed and let a request pass", error=error)
            return _ALLOW_STALE

    def charge(self, model: str, principal: str, queries: int) -> None:
        """Charges ``queries`` more rows for a request that passed :meth:`check`, once their number is known."""
        cached = self._find(model, principal)
        if cached is not None and cached.bucket is not None:
            cached.bucket.charge(queries)

    def answer(
        self,
        verdict: Verdict,
        model: str,
        principal: str,
        features: Any,
        outputs: Any,
        *,
        output_kind: OutputKind = "probabilities",
    ) -> Answer:
        """Returns what to answer under ``verdict``, and the served mode for the log, which gets ``outputs`` unchanged.

        ``features`` and ``outputs``: as :meth:`QueryLogger.log` takes them; ``outputs`` stay as they are. Never raises:
        if nothing else can be served, the answer is the model's own.
        """
        graded, responder = verdict.graded, self._responder
        if graded is None or responder is None or not ACTIONS[graded.name].is_response:
            return Answer(outputs)
        holder = NoiseHolder(verdict.group or principal_of(principal), model)
        answer = responder.answer(graded, holder, features, outputs, output_kind=output_kind)
        if answer.served_mode:
            self.responses.add(answer.served_mode, count_rows(features))
        else:
            self.counters.add("unserved", count_rows(features))
        return answer

    def specification(
        self,
        verdict: Verdict,
        model: str,
        principal: str,
        features: Any,
        requested: ArrayLike,
        offered: ArrayLike | None = None,
    ) -> ArrayLike:
        """Returns the specification by which to choose a model of a zoo, for ``requested`` (n, 2) accuracies and
        milliseconds.

        ``offered`` (m, 2): what the models have; each row of the result is then one of these. Never raises.
        """
        graded, responder = verdict.graded, self._responder
        if graded is None or responder is None or graded.name != SPECIFICATION:
            return requested
        holder = NoiseHolder(verdict.group or principal_of(principal), model)
        return responder.specification(graded, holder, features, requested, offered)

    def gauges(self) -> Mapping[str, float]:
        """Returns ``ready`` (0 or 1), ``decisions`` known, ``age_seconds`` since Kafka answered and the detector was at
        work, by its heartbeats, of which two may be missing, and ``silence_seconds`` since the detector's last sign
        (-1: never)."""
        now, latest = self._clock(), self._background.latest_sign
        return {
            "ready": self.ready,
            "decisions": len(self._table),
            "age_seconds": now - self._background.current_at if self.ready else -1.0,
            "silence_seconds": max(now - latest, 0.0) if latest > 0 else -1.0,
        }

    def report(self, running: bool = True) -> GateReport:
        """Returns the report of this gate in this process, under its id; ``running`` is False at its end."""
        gauges = self.gauges()
        return GateReport(
            gate=self._id,
            version=detector.__version__,
            started_at=self._started_at,
            occurred_at=self._clock(),
            report_seconds=self._report_seconds,
            running=running,
            ready=self.ready,
            stale_seconds=gauges["age_seconds"] if self.ready else None,
            max_stale_seconds=self._max_staleness,
            when_stale=self._when_stale,
            known=len(self._table),
            counts=self.counters.snapshot(),
            responses=self.responses.snapshot(),
        )

    def _threads(self) -> Sequence[BackgroundThread]:
        return self._background, self._reporter

    def _new_background(self, before: DecisionReader | None) -> DecisionReader:
        self._id, self._started_at = new_gate_id(), self._clock()
        self._reporter = GateReporter(self._connection, self.report, self.counters, self._report_seconds)
        contact_seconds = min(_CONTACT_SECONDS, self._max_staleness / 3)
        follower = DecisionReader(self._connection, self._table, self.counters, self._clock, contact_seconds)
        if before is not None:
            follower.resume(before)
        return follower

    def _check(self, model: str, principal: str, queries: int) -> Verdict:
        if not self._started:
            self._ensure_started()
        now = self._clock()
        if now - self._background.current_at > self._max_staleness:
            stale = _STALE[self._when_stale.get(model) or self._when_stale[EVERYONE]]
            if now - self._background.latest_contact > self._max_staleness or not stale.allowed:
                self.counters.add("stale_allowed" if stale.allowed else "stale_refused")
                return self._count(stale)
        cached = self._table.get((model, principal))
        if cached is None and (self._table.derived_names or type(principal) is not str):
            cached = self._find(model, principal)
        if cached is None or cached.expires_at <= now or (cached.action == "none" and cached.graded is None):
            self.counters.add("allowed")
            return _ALLOW
        if self._table.switched_off(now):
            self.counters.add("switched_off")
            return self._count(_ALLOW)
        return self._count(_verdict_of(cached, now, queries))

    def _find(self, model: str, principal: str) -> CachedDecision | None:
        """Returns the decision about ``principal``, under the name that the logger uses."""
        return self._table.get((model, principal_of(principal)))

    def _count(self, verdict: Verdict) -> Verdict:
        self.counters.add(_OUTCOMES[verdict.action])
        if verdict.would_have != "none":
            self.counters.add(_OBSERVED[verdict.would_have])
        if verdict.graded is not None:
            self.counters.add(_OUTCOMES[verdict.graded.name])
        return verdict


_OUTCOMES = {name: kind.done for name, kind in ACTIONS.items()}
_OBSERVED = {name: f"would_have_{done}" for name, done in _OUTCOMES.items() if name != "none"}
_COUNTERS = (
    *_OUTCOMES.values(),
    *_OBSERVED.values(),
    "unserved",
    "switched_off",
    "stale_allowed",
    "stale_refused",
    "applied",
    "outdated",
    "unreadable",
    "reported",
    "unreported",
    "failures",
)


def _verdict_of(cached: CachedDecision, now: float, queries: int) -> Verdict:
    """Returns the verdict of the decision in force on a request of ``queries`` rows at ``now``."""
    action, wait, rate = cached.action, cached.expires_at - now, None
    bucket = cached.bucket
    if bucket is not None:
        rate, refill = bucket.rate, bucket.take(now, queries)
        action = "slow" if refill else "none"
        wait = refill if refill < wait else wait  # noqa: FURB136  a third of the time
    observes, graded = cached.mode == "observe", cached.graded
    if graded is not None and action == "none":
        if observes:
            return _verdict(("none", rate, cached.decision_id, 0.0, "observe", graded.name, False, None, ""))
        return _verdict(("none", rate, cached.decision_id, 0.0, "enforce", "none", False, graded, cached.group))
    if observes:
        return _verdict(("none", rate, cached.decision_id, 0.0, "observe", action, False, None, ""))
    return _verdict((action, rate, cached.decision_id, wait, "enforce", "none", False, None, ""))
