"""Shared by the commands that read logs: ``--map``, and the error for rejected rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.cli.screen import note
from detector.runtime.text import complain

if TYPE_CHECKING:
    from detector.runtime.settings import Settings
    from detector.sources import LogReader

LOGS = "Query logs: .jsonl, .csv, .tsv (also .gz or .zst), .parquet, or folders of these."
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        help="Map roles to columns, such as principal=user_id,features=f_*,outputs=p_no|p_yes,model=@credit.",
        show_default=False,
    ),
]

MOST_REFUSED = 0.05
"""If a larger share of rows is refused, the results do not represent the log."""
REFUSED, NOTHING = 3, 1
"""Exit statuses for too many refused rows, and for no row left to judge."""
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


def reading(settings: Settings, given: Sequence[str] | None, *, merge: bool = False) -> LogReader:
    """Returns how to read logs, from the settings and ``--map``, which wins. Prints assumptions to standard error.
    Raises ConfigurationError."""
    from detector.sources import LogReader
    from detector.sources.mapping import parse_map, sources_of

    sources = sources_of(settings.sources.map, "sources.map") | parse_map(given or ())
    return LogReader(sources, note, merge=merge)


def files_in(paths: Sequence[Path]) -> list[Path]:
    """Returns the files that ``paths`` name, which may be folders of parts or patterns. Raises ConfigurationError."""
    from detector.sources import files_of

    return files_of(paths)


def check_refused(rows: int, reasons: Mapping[str, int]) -> None:
    """Ends the command with the reasons and advice if all of ``rows``, or too many of them, were refused."""
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
