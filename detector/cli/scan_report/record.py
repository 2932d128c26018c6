"""The JSON of a scan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import detector
from detector.cli.scan_report.words import look_at, not_seen, reasons
from detector.core.calibration.calibrate import CONFIDENCE
from detector.core.calibration.scan import ScannedAccount
from detector.replay.scan import ScannedVersion, ScanReport, times
from detector.runtime.text import rfc3339

_LEAST_ADDED = 0.05


def record(report: ScanReport, profiles: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """Returns the content of ``scan.json``. ``profiles``: the file name for each model version."""
    accounts = [_account(version, own) for version in report.scanned for own in version.scan.accounts]
    return {
        "code_version": detector.__version__,
        "rows_count_from": 1,
        "budget": report.budget,
        "confidence": CONFIDENCE,
        "data": report.log.digests,
        "queries": sum(report.log.sieve.seen.values()),
        "refused": report.log.refused.total(),
        "refused_reasons": dict(report.log.refused.most_common()),
        "notes": list(not_seen(report)),
        "models": [_model(own, profiles[own.model, own.version]) for own in report.scanned],
        "accounts": sorted(accounts, key=lambda own: -own["score"]),
    }


def _model(version: ScannedVersion, profile: str) -> dict[str, Any]:
    screened = version.scan.screened
    calibration, achieved = screened.calibration, screened.achieved
    reference, (least, most) = calibration.profile.reference, calibration.threshold_range
    return {
        "model": version.model,
        "model_version": version.version,
        "form": {
            "features": reference.dimension,
            "feature_names": None if version.traffic.form.fields is None else list(version.traffic.form.columns or ()),
            "outputs": version.traffic.form.outputs,
            "outputs_width": int(reference.outputs.shape[1]),
        },
        "accounts": len(version.accounts),
        "accounts_left_out": len(screened.left_out),
        "accounts_too_short": int((~calibration.long).sum()),
        "accounts_enough": version.scan.enough,
        "queries": sum(version.asked.values()),
        "queries_of_another_form": version.traffic.left_out,
        "queries_median": screened.length,
        "threshold": calibration.profile.standards.threshold,
        "threshold_low": least,
        "threshold_high": most,
        "flagged": achieved.flagged,
        "of_accounts": achieved.accounts,
        "bound": achieved.bound,
        "confidence": CONFIDENCE,
        "profile": profile,
    }


def _account(version: ScannedVersion, own: ScannedAccount) -> dict[str, Any]:
    queries = version.accounts[own.name]
    first, last = times(queries)
    crossed = own.crossed
    return {
        "principal": own.name,
        "model": version.model,
        "model_version": version.version,
        "stands_out": own.stands_out,
        "score": own.score,
        "reasons": reasons(own),
        "look_at": look_at(own),
        "queries": version.asked[own.name],
        "queries_looked_at": own.queries,
        "crossed_at_query": None if crossed is None else crossed + 1,
        "crossed_at": None if crossed is None else rfc3339(float(queries.occurred_at[crossed])),
        "farthest_at_query": own.row + 1,
        "first_at": rfc3339(first),
        "last_at": rfc3339(last),
        "unexplained": own.unexplained,
        "line": own.line,
        "closest": own.closest,
        "without_excuse_of": list(own.like),
        "left_out_of_profile": own.left_out,
        "measures": [
            {"measure": name, "score": score, "closest": reached, "adds": added}
            for name, score, reached, added in own.parts
            if added >= _LEAST_ADDED
        ],
    }
