"""Every metric as data: dashboards, alert rules, documentation and tests are checked against this list.

No principal is ever a label. A label has a closed set of values and refuses any other, or a bounded number of distinct
values and counts later ones under ``other``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from detector.contracts.actions import ACTIONS
from detector.contracts.codecs.limits import REPAIRS
from detector.contracts.findings import Mode, Severity
from detector.contracts.queries import CountKind, MisfitReason

PREFIX = "weirguard_"
OTHER = "other"

MetricKind = Literal["counter", "gauge", "histogram"]
Component = Literal["detector", "notify"]
"""The processes that serve metrics: `weirguard run` and `weirguard notify`."""

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
_SUSPICION = (0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 4.0)


@dataclass(frozen=True, slots=True)
class Label:
    """A label with its allowed ``values``, or, without them, with ``most`` distinct values before ``other``.

    ``most`` None leaves the number to the settings (``metrics.models``).
    """

    name: str
    values: tuple[str, ...] = ()
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family. ``name`` is without the prefix; ``unit`` is for people, the name carries it already.
    ``component`` is the process that serves it."""

    name: str
    unit: str
    help: str
    labels: tuple[Label, ...] = ()
    buckets: tuple[float, ...] = ()
    component: Component = "detector"

    @property
    def kind(self) -> MetricKind:
        """The Prometheus type; a counter's name ends in ``_total``."""
        return "counter" if self.name.endswith("_total") else "histogram" if self.buckets else "gauge"

    @property
    def full_name(self) -> str:
        return PREFIX + self.name


MODEL = Label("model")
SIGNAL = Label("signal", most=50)
REASON = Label("reason", most=50)
VERSION = Label("version", most=1)
GROUP_STATE = Label("state", ("verdict", "dismissed"))
JOINT_KIND = Label("kind", ("reached", "ordinary"))
PARTITION = Label("partition", most=1024)
TOPIC = Label("topic", ("queries", "rekeyed", "judged", "commands"))
SEVERITY = Label("severity", get_args(Severity))
ACTION = Label("action", tuple(ACTIONS))
MODE = Label("mode", get_args(Mode))
ORIGIN = Label("origin", ("signal", "group", "operator"))
STAGE = Label("stage", ("decode", "judge", "state_log", "publish"))
TIME_FAULT = Label("fault", ("absent", "past", "future"))
RECORD_KIND = Label("kind", ("fence", "delta", "chunk", "round"))
MISFIT = Label("reason", get_args(MisfitReason))
MODEL_VERSION = Label("model_version", most=200)
PROFILE = Label("profile", most=200)
MISSING_KIND = Label("kind", get_args(CountKind))
RECEIVER = Label("receiver", most=50)

BUILD_INFO = Metric("build_info", "1", "Always 1; the label is the running version.", (VERSION,))
QUERIES = Metric("queries_total", "queries", "Queries judged, without repeats.", (MODEL,))
QUERIES_ANSWERED = Metric(
    "queries_answered_total",
    "queries",
    "Queries that the model answered: those judged, repeated, unjudged and dropped together.",
    (MODEL,),
)
QUERIES_REPEATED = Metric(
    "queries_repeated_total", "queries", "Queries equal to an earlier one of their principal.", (MODEL,)
)
QUERIES_UNCALIBRATED = Metric(
    "queries_uncalibrated_total",
    "queries",
    "Queries judged without a profile of honest traffic, repeats among them.",
    (MODEL,),
)
QUERIES_UNJUDGED = Metric(
    "queries_unjudged_total",
    "queries",
    "Answered queries that could not be judged; the model is `unknown` if the record does not name it.",
    (MODEL, REASON),
)
QUERIES_DROPPED = Metric("queries_dropped_total", "queries", "Answered queries that a logger dropped.", (MODEL, REASON))
QUERIES_EXCUSED = Metric(
    "queries_excused_total",
    "queries",
    "Unjudged queries that flag no principal, because most active principals of the model send them.",
    (MODEL,),
)
RECORDS = Metric("records_total", "records", "Kafka records applied.", (TOPIC,))
QUERIES_MISSING = Metric(
    "queries_missing_total",
    "queries",
    "Queries without features: dropped by a logger, unfit for the log, or refused by a gate.",
    (MISSING_KIND,),
)
DEAD_LETTERS = Metric("dead_letters_total", "records", "Records and rows refused.", (REASON,))
REPAIRED = Metric(
    "repaired_total",
    "1",
    "Invalid values of queries that were replaced, so that their rows could be judged.",
    (Label("what", tuple(REPAIRS)),),
)
DEAD_LETTERS_NOT_KEPT = Metric(
    "dead_letters_not_kept_total",
    "records",
    "Records and rows refused without a dead letter, because those of a reason are limited per minute.",
    (REASON,),
)
REFUSED = Metric(
    "refused_messages_total",
    "records",
    "Alerts, audit records and the like that Kafka refused permanently and that were left out.",
    (Label("topic", ("groups", "alerts", "audit", "scores", "dead_letters")),),
)
INTERNAL_ERRORS = Metric(
    "internal_errors_total",
    "errors",
    "Errors in watchdog, probes and reports; the worker continues.",
    (Label("where", ("watchdog", "probes", "survey")),),
)
MISFITS = Metric(
    "profile_misfits_total",
    "queries",
    "Queries that fit none of the profiles: an unknown model or version, or another form.",
    (MODEL, MISFIT),
)
PROFILE_INFO = Metric(
    "profile_info",
    "1",
    "Always 1; the labels give the profile of each model version.",
    (MODEL, MODEL_VERSION, PROFILE),
)
REKEYED = Metric("rekeyed_total", "queries", "Queries that arrived in another partition than their principal's.")
ALERTS = Metric(
    "alerts_total",
    "alerts",
    "Principals that were flagged, by the severity of their first alert.",
    (MODEL, SIGNAL, SEVERITY),
)
GROUP_QUERIES = Metric("group_queries_total", "queries", "Judged queries that the search for groups read.", (MODEL,))
GROUP_QUERIES_LINKED = Metric(
    "group_queries_linked_total",
    "queries",
    "Judged queries that were compared with those of other accounts; beyond an account's first, one in eight.",
    (MODEL,),
)
GROUP_ALERTS = Metric(
    "group_alerts_total", "alerts", "Groups that were found, by the severity of their first alert.", (MODEL, SEVERITY)
)
GROUPS = Metric("groups", "groups", "Groups of accounts, under a verdict or dismissed.", (MODEL, GROUP_STATE))
GROUP_MEMBERS = Metric("group_members", "principals", "Accounts in groups.", (MODEL, GROUP_STATE))
JOINT_EXPOSURE = Metric(
    "joint_exposure_ratio",
    "1",
    "Share of the reference that the most-learned accounts have reached together, and that as many honest queries do.",
    (MODEL, JOINT_KIND),
)
DECISIONS = Metric(
    "decisions_total", "decisions", "Decisions published, including renewals and releases.", (ACTION, MODE, ORIGIN)
)
DECISIONS_ACTIVE = Metric("decisions_active", "decisions", "Decisions in force.", (MODEL, ACTION, MODE))
SCORE = Metric(
    "score_ratio",
    "1",
    "Score of each principal in a micro-batch: suspicion as a share of the threshold, flagged from 1 on.",
    (MODEL,),
    _SUSPICION,
)
EXPOSURE = Metric(
    "exposure_ratio",
    "1",
    "The signal's estimate of how much of the model each principal in a micro-batch has learned; 1 is all of it.",
    (MODEL, SIGNAL),
    _SHARES,
)
BUDGET_USED = Metric(
    "exposure_budget_used_ratio",
    "1",
    "Share of its exposure budget that each principal in a micro-batch has used, where it has one: 1 is all.",
    (MODEL,),
    (0.1, 0.25, 0.5, 0.8, 1.0, 1.5),
)
STAGE_DURATION = Metric(
    "stage_duration_seconds", "seconds", "Time that a micro-batch spent in a stage.", (STAGE,), _SECONDS
)
PRINCIPALS_TRACKED = Metric("principals_tracked", "principals", "Principals whose state is held.")
STATE_BYTES = Metric("state_bytes", "bytes", "Counted bytes of detection and policy state in memory.")
EVICTIONS = Metric("evictions_total", "principals", "Principals evicted because the limit was reached.")
GAPS = Metric(
    "source_gaps_total", "gaps", "Gaps in a source that were skipped, including transaction markers.", (TOPIC,)
)
RECORDS_LOST = Metric(
    "source_records_lost_total",
    "records",
    "Offsets that were deleted from a source, by retention or by hand, before they were judged.",
    (TOPIC,),
)
RECORD_TIMES_CLAMPED = Metric(
    "record_times_clamped_total",
    "records",
    "Source records whose Kafka timestamp was impossible and was replaced.",
    (TIME_FAULT,),
)
STALE_RECORDS = Metric(
    "state_log_stale_records_total",
    "records",
    "Records of former owners that were read after a newer owner's fence and ignored.",
)
SKIPPED_SECTIONS = Metric(
    "state_log_skipped_sections_total",
    "sections",
    "Sections of state records that this version does not know and ignored.",
)
STATE_LOG_RECORDS = Metric("state_log_records_total", "records", "Records written to the state log.", (RECORD_KIND,))
STATE_LOG_BYTES = Metric("state_log_bytes_total", "bytes", "Bytes written to the state log.", (RECORD_KIND,))
CHECKPOINT_ROUNDS = Metric("checkpoint_rounds_total", "rounds", "Rolling checkpoints completed.")
PARTITIONS_ASSIGNED = Metric("partitions_assigned", "partitions", "Partitions that this worker owns.")
PARTITIONS_RECOVERED = Metric(
    "partitions_recovered", "partitions", "Partitions whose state is restored; below assigned while recovering."
)
EVENT_TIME_LAG = Metric(
    "event_time_lag_seconds", "seconds", "Age of the newest record when it was applied, by its Kafka timestamp."
)
LAST_RECORD = Metric(
    "last_record_processed_timestamp_seconds", "seconds", "When a Kafka record was last applied, Unix time."
)
RECORDS_BEHIND = Metric(
    "records_behind", "records", "Source records that are not applied yet, at the last check.", (TOPIC, PARTITION)
)
RECORDS_UNCOMMITTED = Metric(
    "records_uncommitted", "records", "Applied records that are not committed yet.", (TOPIC, PARTITION)
)
RESTARTS = Metric("restarts_total", "restarts", "Times the supervisor started a worker again.")
NOTIFY_DELIVERED = Metric(
    "notify_delivered_total", "notifications", "Notifications delivered to a receiver.", (RECEIVER,), component="notify"
)
NOTIFY_REFUSED = Metric(
    "notify_refused_total",
    "notifications",
    "Notifications that a receiver refused permanently.",
    (RECEIVER,),
    component="notify",
)
NOTIFY_RETRIES = Metric(
    "notify_retries_total",
    "1",
    "Deliveries that failed and are tried again.",
    (RECEIVER,),
    component="notify",
)
NOTIFY_UNREADABLE = Metric(
    "notify_unreadable_total", "records", "Alerts that could not be read.", (RECEIVER,), component="notify"
)
NOTIFY_LAG = Metric(
    "notify_lag_records",
    "records",
    "Alerts and dead letters that wait for a receiver, at the last check.",
    (RECEIVER,),
    component="notify",
)

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All of the above, in their order."""
