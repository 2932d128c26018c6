"""Runs recorded queries through engine and policy, without Kafka."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from detector.cli.verdicts import COUNTED_FROM, Accounts, VerdictFile
from detector.contracts.codecs import encode
from detector.contracts.findings import Alert, Decision
from detector.contracts.queries import BadRow
from detector.core.engine import EngineConfig, Observation
from detector.core.profile.profile import Profile
from detector.policy.config import Policy
from detector.sources import Reading
from detector.stream.recorded import Part, judge_logs


def replay(
    paths: Sequence[Path],
    out: Path,
    *,
    engine_config: EngineConfig,
    policy: Policy,
    reading: Reading | None = None,
    progress: Callable[[int], None] | None = None,
    must_fit: Sequence[Profile] = (),
    not_after: float = inf,
) -> dict[str, Any]:
    """Judges the queries in ``paths``, writes the results to the folder ``out``, and returns the summary.

    ``reading`` tells how to read the files, by default in the order given. Policy time is the running maximum of
    ``occurred_at``, capped at ``not_after``, seconds UTC.

    ``verdicts.parquet`` has one row per query in the order of judging. ``alerts.jsonl`` and ``decisions.jsonl`` hold
    the records that the service would publish, with the epoch (0, 0) in decisions. ``refused.jsonl`` lists the bad
    rows, counted from 1. ``summary.json`` has the reasons of refusal, the repairs (``limits.REPAIRS``), the model
    versions with their profiles, and for each principal the number of queries, the first flagged query or null, and
    the unjudged rows by reason. ``index`` and ``first_flagged`` count from 0, ``first_flagged_query`` from 1;
    ``alerts`` counts the revisions of one alert once. ``progress`` is called with the number of rows, good or bad,
    processed since. Raises ConfigurationError, also if ``must_fit`` has profiles and a query matches none of them.
    """
    options: dict[str, Any] = {"reading": reading, "must_fit": must_fit, "not_after": not_after}
    parts = judge_logs(paths, engine_config=engine_config, policy=policy, **options)
    out.mkdir(parents=True, exist_ok=True)
    with Report(out, paths) as report:
        for part, judgement in parts:
            report.clamped(sum(int((piece.occurred_at >= not_after).sum()) for piece in part.pieces))
            if judgement is not None:
                report.judged_by(judgement.profiles)
                report.judged(part, judgement.observation, judgement.effects.alerts, judgement.effects.decisions)
            for log, bad in part.bad_rows:
                report.refused(log, bad)
            report.repaired += part.repaired
            if progress:
                progress(len(part))
        return report.summary()


class Report:
    """The files that a replay writes."""

    def __init__(self, out: Path, paths: Sequence[Path]) -> None:
        self._out = out
        self._paths = paths
        self._accounts = Accounts()
        self._counts = dict.fromkeys(("queries", "refused", "alerts", "decisions", "evicted", "clamped"), 0)
        self._reasons: Counter[str] = Counter()
        self._profiles: dict[tuple[str, str], str | None] = {}
        self.repaired: Counter[str] = Counter()
        self._verdicts = VerdictFile(out / "verdicts.parquet")
        self._alerts, self._decisions, self._refused = (
            (out / f"{name}.jsonl").open("wb") for name in ("alerts", "decisions", "refused")
        )

    def __enter__(self) -> Report:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._verdicts, self._alerts, self._decisions, self._refused):
            file.close()

    def judged(
        self, part: Part, observation: Observation, alerts: Iterable[Alert], decisions: Iterable[Decision]
    ) -> None:
        """Writes the results of one micro-batch."""
        self._count("evicted", observation.evicted)
        self.repaired += observation.repaired
        self._refuse_by_engine(part, observation)
        kept = np.flatnonzero(observation.index >= 0)
        self._count("queries", len(kept))
        index = self._accounts.number(observation, kept)
        self._verdicts.write(observation, kept, index, part.event_ids)
        for alert in alerts:
            self._count("alerts", alert.revision == 1)
            self._alerts.write(encode(alert) + b"\n")
        for decision in decisions:
            self._count("decisions")
            self._decisions.write(encode(decision) + b"\n")

    def judged_by(self, profiles: Mapping[tuple[str, str], str | None]) -> None:
        """Adds the hash of the profile, or None, of each model version."""
        self._profiles.update(profiles)
        self._verdicts.uncalibrated = [f"{m} {v}" for (m, v), profile in self._profiles.items() if profile is None]

    def clamped(self, rows: int) -> None:
        """Counts rows with a time too far in the future."""
        self._count("clamped", rows)

    def refused(self, log: int, bad: BadRow) -> None:
        """Writes one bad row of the file with the number ``log``."""
        self._count("refused")
        self._reasons[bad.reason] += 1
        self._accounts.refuse(bad)
        line = {"file": str(self._paths[log]), "row": bad.row + 1, "reason": bad.reason, "detail": bad.detail}
        self._refused.write(json.dumps(line).encode() + b"\n")

    def summary(self) -> dict[str, Any]:
        """Returns the totals and one entry per principal, and writes them to ``summary.json``."""
        counted = {"reasons": dict(self._reasons.most_common()), "repaired": dict(self.repaired)}
        base = {"index_counts_from": COUNTED_FROM, "queries_count_from": 1, "rows_count_from": 1}
        models = [
            {"model": model, "model_version": version, "calibrated": profile is not None, "profile": profile}
            for (model, version), profile in self._profiles.items()
        ]
        calibrated = {"calibrated": all(own["calibrated"] for own in models), "models": models}
        summary = {**self._counts, **counted, **base, **calibrated, "principals": self._accounts.summary()}
        (self._out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", "utf-8")
        return summary

    def _count(self, what: str, number: int = 1) -> None:
        self._counts[what] += number

    def _refuse_by_engine(self, part: Part, observation: Observation) -> None:
        if observation.refused:
            log, row = part.log, part.row
            for bad in observation.refused:
                self.refused(int(log[bad.row]), replace(bad, row=int(row[bad.row])))
