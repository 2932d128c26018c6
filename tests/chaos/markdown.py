"""The results as a page of the documentation."""

from __future__ import annotations

from collections.abc import Sequence

from tests.chaos.harness import Result

_HEAD = """\
# What faults do to it

`make chaos` runs two workers against one Apache Kafka 4.2 node, loads them with seeded queries of honest principals
and of thieves, and does harm. Sessions last 6 s, decisions 20 s, a checkpoint round begins every 100 kB, and a state
record above 131 kB comes in parts, so that takeovers, renewals, cuts of the state log and unfinished records fall
among the faults. `--compression zstd` has the broker compress all that it keeps. Then it compares with the undisturbed
run, the same records with their Kafka timestamps through the same judge in one go: alerts, decisions (apart from
epochs) and every principal's verdict must be equal. An audit that shares no code with the workers reads the source
topic, the state log, the committed offsets and what was published, and looks for queries lost or counted twice,
messages not published or only after they were acknowledged, commits ahead of the state, dead letters that should not
be, and decisions that outlast what they may.

In the last series the broker moves to another port behind its bootstrap address; records say that they are years
ahead, or of 1970, as those of a broker whose clock jumps; and queries come in that end whichever worker processes them,
by an exception or by a signal: they must be in the dead letters, and all else must be judged. Then, after the audit,
the source topic is deleted and made again: all workers must stop for good within a minute and say why. What they advise
is done, they begin anew, and a partition is added: again all must stop within a minute.

"""

_LEGEND = """
*Parts* are records of the state log that are pieces of a larger one. *Problems* are the audit's findings, *differences*
those from the undisturbed run. *Void* records were written by an owner who had lost the partition, and are ignored;
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
