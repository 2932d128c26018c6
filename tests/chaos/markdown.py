"""The results as a page of the documentation."""

from __future__ import annotations

from collections.abc import Sequence

from tests.chaos.harness import Result

_HEAD = """\
# What faults do to it

`make chaos` runs two workers against one Apache Kafka 4.2 node, loads them with seeded queries of honest principals
and of thieves, and does harm. Sessions last 6 s, decisions 20 s, and a checkpoint round begins every 100 kB, so that
takeovers, renewals and cuts of the state log fall among the faults. Then it compares with the undisturbed run, the
same records with their Kafka timestamps through the same judge in one go: alerts, decisions (apart from epochs) and
every principal's verdict must be equal. An audit that shares no code with the workers reads the source topic, the
state log, the committed offsets and what was published, and looks for queries lost or counted twice, messages not
published or only after they were acknowledged, and commits ahead of the state.

"""

_LEGEND = """
*Problems* are the audit's findings, *differences* those from the undisturbed run. *Void* records were written by an
owner who had lost the partition, and are ignored; *repeated* are messages that a takeover published again. *Drain* is
the time from the end of the load until the last query was committed and all was published.
"""


def as_markdown(results: Sequence[Result]) -> str:
    """A table with one row a series, and why workers stopped."""
    head = ("series", "faults", "load (s)", "queries", "state records", "takeovers", "void", "rounds", "commits")
    tail = ("alerts", "decisions", "repeated", "drain (s)", "problems", "differences")
    rows = [head + tail, tuple("---" for _ in head + tail), *(_row(result) for result in results)]
    table = "".join(f"| {' | '.join(str(cell) for cell in row)} |\n" for row in rows)
    return _HEAD + table + _LEGEND + _exits(results)


def _row(result: Result) -> tuple[object, ...]:
    audit, outcome = result.audit, result.outcome
    start = (result.series, len(result.faults), round(result.seconds), result.queries, audit["state_records"])
    middle = (audit["fences"], audit["void_records"], audit["rounds"], audit["commits"])
    said = (outcome["alerts"], outcome["decisions"], audit["repeated_messages"], round(result.drain_seconds, 1))
    return start + middle + said + (len(result.problems), len(result.differences))


def _exits(results: Sequence[Result]) -> str:
    lines = [
        f"- {result.series}: " + ", ".join(f"{why} ({count})" for why, count in sorted(result.exits.items()))
        for result in results
        if result.exits
    ]
    return "\nWorkers stopped, and were started again by their supervisors, because:\n\n" + "\n".join(lines) + "\n"
