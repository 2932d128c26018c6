"""What the commands that read logs have in common: ``--map``, and what they say of rows that are no queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.cli.screen import complain, note

if TYPE_CHECKING:
    from detector.runtime.settings import Settings
    from detector.sources import Reading

LOGS = "Query logs: .jsonl, .csv, .tsv (also .gz or .zst), .parquet, or folders of these."
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        help="Which columns are what, such as principal=user_id,features=f_*,outputs=p_no|p_yes,model=@credit.",
        show_default=False,
    ),
]

MOST_REFUSED = 0.05
"""More rows refused than this share, and the figures are not those of the log."""
REFUSED, NOTHING = 3, 1
"""Exit statuses where that is so, and where there was nothing left to judge."""
_SHOWN = 3

_MENDS = {
    "structure": "name other columns with --map, or write missing values as empty or null",
    "time": "name the column of times with --map occurred_at=COLUMN, or none with --map occurred_at=",
    "outputs": "name the columns of outputs with --map outputs=COLUMNS, or their kind with --map output_kind=@score",
    "non-finite": "name the columns of outputs with --map outputs=COLUMNS",
    "dimension": "give logs of one form, or name the columns of features with --map features=COLUMNS",
    "identity": "name the model with --map model=@NAME,model_version=@VERSION",
    "syntax": "write each query as one JSON object a line",
    "too-large": "name the columns that matter with --map, or give shorter rows",
}


def reading(settings: Settings, given: Sequence[str] | None, *, merge: bool = False) -> Reading:
    """How logs are to be read, by the settings and ``--map``, which wins. What is assumed on the way goes to standard
    error. Raises ConfigurationError."""
    from detector.sources import Reading
    from detector.sources.mapping import parse_map, sources_of

    sources = sources_of(settings.sources.map, "sources.map") | parse_map(given or ())
    return Reading(sources, note, merge=merge)


def files_in(paths: Sequence[Path]) -> list[Path]:
    """The files that ``paths`` name: folders of parts and patterns among them. Raises ConfigurationError."""
    from detector.sources import files_of

    return files_of(paths)


def check_refused(rows: int, reasons: Mapping[str, int]) -> None:
    """End the command, after saying why and what helps, where all of ``rows`` were refused, by reason, or too many."""
    refused = sum(reasons.values())
    if refused > MOST_REFUSED * rows:
        most = sorted(reasons, key=reasons.__getitem__, reverse=True)[:_SHOWN]
        told = ", ".join(f"{reasons[reason]} for the reason {reason}" for reason in most)
        help_ = next((_MENDS[reason] for reason in most if reason in _MENDS), "mend the log")
        complain(f"{refused} of {rows} rows were refused: {told}; {help_}")
        raise typer.Exit(NOTHING if refused == rows else REFUSED)
    if not rows:
        complain("the logs hold no query")
        raise typer.Exit(NOTHING)
