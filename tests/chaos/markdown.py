"""The results as a page of the documentation."""

from __future__ import annotations

from collections.abc import Sequence

from tests.chaos.harness import Result

_HEAD = """\
# Fault injection

`make chaos` runs two workers against one Apache Kafka 4.2 node, loads them with seeded queries of honest principals
and of thieves, and injects faults. Sessions last 6 s, decisions 20 s, a checkpoint round begins every 100 kB, and a
state record above 131 kB comes in parts, so that takeovers, renewals, cuts of the state log and unfinished records
happen during the faults. With `--compression zstd` the broker compresses all its topics. Then the outcome is compared
with an undisturbed run of the same records, with their Kafka timestamps, through the same engine and policy in one
call: alerts, decisions (apart from epochs) and every principal's verdict must be equal. An audit that shares no code
with the workers reads the source topic, the state log, the committed offsets and the published messages, and looks
for queries lost or counted twice, messages not published or published only after the acknowledgement, commits ahead
of the state, unexpected dead letters, and decisions that last too long.

In the last series the broker moves to another port behind its bootstrap address; records have timestamps of years
ahead, or of 1970, like those of a broker whose clock jumps; and some queries end every worker that processes them, by
an exception or by a signal: they must be in the dead letters, and all others must be judged. Then, after the audit,
the source topic is deleted and made again: all workers must stop for good within a minute and say why. Their advice
is followed, they start again, and a partition is added: again all must stop within a minute.

"""

_LEGEND = """
*Parts* are records of the state log that are pieces of a larger one. *Problems* are the audit's findings, *differences*
those from the undisturbed run. *Void* records were written by an owner that had lost the partition, and are ignored;
*repeated* are messages that a takeover published again. *Drain* is the time from the end of the load until the last
query was committed and all was published.
"""

_AUDITED = {
    "state records": "state_records",
    "parts": "parts",
    "takeovers": "fences",
    "void": "void_records",
    "rounds": "rounds",
    "commits": "commits",
    "dead letters": "letters",
    "repeated": "repeated_messages",
}
_HEADS = ("series", "faults", "load (s)", "queries", *_AUDITED, "alerts", "decisions")
_VERDICT = ("drain (s)", "problems", "differences")


def as_markdown(results: Sequence[Result]) -> str:
    """A table with one row a series, and why workers stopped."""
    heads = (*_HEADS, *_VERDICT)
    rows = [heads, tuple("---" for _ in heads), *(_row(result) for result in results)]
    table = "".join(f"| {' | '.join(str(cell) for cell in row)} |\n" for row in rows)
    return _HEAD + table + _LEGEND + _exits(results)


def _row(result: Result) -> tuple[object, ...]:
    start = (result.series, len(result.faults), round(result.seconds), result.queries)
    audited = [result.audit[name] for name in _AUDITED.values()]
    said = (result.outcome["alerts"], result.outcome["decisions"])
    return (*start, *audited, *said, round(result.drain_seconds, 1), len(result.problems), len(result.differences))


def _exits(results: Sequence[Result]) -> str:
    lines = [
        f"- {result.series}: " + ", ".join(f"{why} ({count})" for why, count in sorted(result.exits.items()))
        for result in results
        if result.exits
    ]
    return "\nWorkers stopped, and were started again by their supervisors, because:\n\n" + "\n".join(lines) + "\n"
