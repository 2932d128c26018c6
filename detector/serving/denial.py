"""What a gate tells callers: when to try again, or how much of a budget is left, and never the reason."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import NamedTuple

from detector.contracts.actions import LEFT, NOTICE
from detector.serving.decisions import LONGEST_SECONDS
from detector.serving.gate import Verdict

DECISION_HEADER = "weirguard-decision"
"""Header with the opaque id of the decision, which ``weirguard decisions list`` shows."""


Notice = list[tuple[str, str]]
"""Headers that are added to an answer of the model; names in lower case."""


class Denial(NamedTuple):
    """An HTTP answer; the names of ``headers`` are in lower case."""

    status: HTTPStatus
    headers: list[tuple[str, str]]
    body: bytes


def denial_of(verdict: Verdict) -> Denial:
    """Returns 429 (503 if the gate is stale and set to refuse) with Retry-After and the decision's id."""
    status = HTTPStatus.SERVICE_UNAVAILABLE if verdict.stale else HTTPStatus.TOO_MANY_REQUESTS
    seconds = max(1, math.ceil(verdict.retry_after))
    body = b'{"error":"%b"}' % status.phrase.lower().encode()
    headers = [
        ("content-type", "application/json"),
        ("content-length", str(len(body))),
        ("retry-after", str(seconds)),
        ("ratelimit", f'"queries";r=0;t={seconds}'),
    ]
    if verdict.queries_per_second is not None:
        headers.append(("ratelimit-policy", _policy(verdict.queries_per_second)))
    if verdict.decision_id is not None:
        headers.append((DECISION_HEADER, verdict.decision_id.encode("ascii", "replace").decode()))
    return Denial(status, headers, body)


def notice_of(verdict: Verdict) -> Notice:
    """Returns the headers that tell a caller who is let through how much of the exposure budget is left; none where
    there is nothing to tell."""
    graded = verdict.graded
    left = graded.parameters.get(LEFT) if graded is not None and graded.name == NOTICE else None
    if not isinstance(left, int | float):
        return []
    return [("ratelimit", f'"budget";r={max(0, int(left))}'), ("ratelimit-policy", '"budget";q=100')]


def _policy(rate: float) -> str:
    """Returns a quota in whole queries over whole seconds, as the RateLimit-Policy field requires."""
    window = max(1, math.ceil(min(1 / rate, LONGEST_SECONDS)))
    return f'"queries";q={max(1, int(rate * window))};w={window}'
