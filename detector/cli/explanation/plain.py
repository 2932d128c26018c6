"""An explanation as data, for scripts."""

from __future__ import annotations

from math import isfinite
from typing import Any

from detector.cli.explanation.account import Account
from detector.cli.explanation.weighing import Weighing
from detector.cli.explanation.words import basis, verdict
from detector.runtime.text import rfc3339


def plain(account: Account) -> dict[str, Any]:
    """Returns all that ``show`` prints, as JSON values. Queries count from 1; times are RFC 3339."""
    course = account.course
    return {
        "principal": course.principal,
        "model": course.model,
        "model_versions": list(dict.fromkeys(course.versions)),
        "source": account.source,
        "configuration": account.config.configuration_hash(),
        "queries_count_from": 1,
        "queries": len(course),
        "unjudged": course.refused,
        "since": rfc3339(course.time[0]),
        "until": rfc3339(course.time[-1]),
        "suspect": course.verdict is not None,
        "first_flagged_query": None if course.verdict is None else course.verdict + 1,
        "calibrated": account.has_profile,
        "verdict": verdict(account),
        "basis": basis(account),
        "then": _weighed(account.then),
        "now": _weighed(account.now),
        "record": [
            {"query": own.row + 1, "time": rfc3339(own.time), "what": own.sentence, "accuses": own.accuses}
            for own in account.moments
        ],
    }


def _weighed(weighing: Weighing | None) -> dict[str, Any] | None:
    if weighing is None:
        return None
    return {
        "query": weighing.row + 1,
        "unexplained": weighing.unexplained,
        "threshold": weighing.threshold,
        "explained": weighing.explained,
        "measures": [
            {
                "name": part.name,
                "about": part.about,
                "score": _known(part.score),
                "likest_honest": _known(part.likest),
                "most_honest": _known(part.most),
                "added": _known(part.added),
            }
            for part in weighing.parts
        ],
    }


def _known(value: float) -> float | None:
    return value if isfinite(value) else None
