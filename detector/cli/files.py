"""The files of a command: query logs to read, with progress and advice on rejected rows, and output files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from detector.cli.screen import console, print_note
from detector.contracts.errors import ConfigurationError
from detector.runtime.text import print_error

if TYPE_CHECKING:
    from detector.core.calibration.traffic import PlainTraffic
    from detector.runtime.settings import Settings
    from detector.sources import LogReader

MOST_REFUSED = 0.05
"""If a larger share of rows is refused, the results do not represent the log."""
REFUSED, NOTHING = 3, 1
"""Exit statuses for too many refused rows, and for no row left to judge."""
_SHOWN_REASONS = 3

_ADVICE = {
    "structure": "name other columns with --map, or write missing values as empty or null",
    "time": "name the column of times with --map occurred_at=COLUMN, or none with --map occurred_at=",
    "outputs": "name the columns of outputs with --map outputs=COLUMNS, or their kind with --map output_kind=@score",
    "non-finite": "name the columns of outputs with --map outputs=COLUMNS",
    "dimension": "give logs of one form, or name the columns of features with --map features=COLUMNS",
    "identity": "name the model with --map model=@NAME,model_version=@VERSION",
    "syntax": "write each query as one JSON object a line",
    "too-large": "name the columns that matter with --map, or give shorter rows",
}
_OUTPUTS = {
    "probability": "one probability per row, taken as that of the second of two classes",
    "score": "one number per row, taken as a score",
    "label": "one class per row",
    "probabilities": "probabilities",
    "none": "none: accounts are judged by their inputs only",
}


def log_reader(settings: Settings, given: Sequence[str] | None, *, merge: bool = False) -> LogReader:
    """Returns how to read logs, from the settings and ``--map``, which wins. Prints assumptions to standard error.
    Raises ConfigurationError."""
    from detector.sources import LogReader
    from detector.sources.mapping import parse_map, sources_of

    sources = sources_of(settings.sources.map, "sources.map") | parse_map(given or ())
    return LogReader(sources, print_note, merge=merge)


def reading_bar(what: str, files: Sequence[Path]) -> AbstractContextManager[Callable[[int], None]]:
    """Shows progress over the rows, good and bad, in ``files``; their number is an estimate for compressed ones. See
    ``bar``. Raises ConfigurationError."""
    from detector.sources import files_of, format_of

    return bar(what, sum(format_of(path).rows(path) for path in files_of(files)))


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows progress on standard error. Yields a function that takes the number of items done since, of ``total``."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(None), TaskProgressColumn(), MofNCompleteColumn())
    with Progress(*columns, Remaining(), console=console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.advance(task, done)


def check_refused(rows: int, reasons: Mapping[str, int]) -> None:
    """Ends the command with the reasons and advice if all of ``rows``, or too many of them, were refused."""
    refused = sum(reasons.values())
    if refused > MOST_REFUSED * rows:
        most = sorted(reasons, key=reasons.__getitem__, reverse=True)[:_SHOWN_REASONS]
        shares = ", ".join(f"{reasons[reason]} for the reason {reason}" for reason in most)
        advice = next((_ADVICE[reason] for reason in most if reason in _ADVICE), "correct the log")
        print_error(f"{refused} of {rows} rows were refused: {shares}; {advice}")
        raise typer.Exit(NOTHING if refused == rows else REFUSED)
    if not rows:
        print_error("the logs hold no query")
        raise typer.Exit(NOTHING)


def describe_form(traffic: PlainTraffic) -> Iterator[str]:
    """Yields lines on how the features and outputs of a model were interpreted."""
    form, width, why = traffic.form, traffic.pieces[0].dimension, traffic.why
    features = f"{width} numbers"
    if form.fields is not None:
        texts = [field for field in form.fields if field.values is not None]
        of_texts = f", {len(texts)} of them texts with {sum(field.width for field in texts)} values" if texts else ""
        features = f"{len(form.fields)} by name{of_texts}"
    yield f"{'features':<12}{features}"
    classes = f", of {len(form.classes)} classes by name" if form.classes else ""
    others = [kind for kind in ("probability", "label", "score") if kind != form.outputs]
    reason = f": {why}; --outputs {' or '.join(others)} to say otherwise" if why else ""
    yield f"{'outputs':<12}{_OUTPUTS[form.outputs]}{classes}{reason}"
    if traffic.left_out:
        yield f"{'note':<12}left out: {traffic.left_out} queries with other features or outputs than the rest"


def folder_for(path: Path) -> Path:
    """Returns ``path`` if it is a writable folder or one can be made there. Raises ConfigurationError."""
    if path.exists() and not path.is_dir():
        raise ConfigurationError(f"--out: {path} is a file; name a folder")
    _check_writable(path)
    return path


def file_for(path: Path) -> Path:
    """Returns ``path`` if a file can be written there once its folders are made. Raises ConfigurationError."""
    if path.is_dir():
        raise ConfigurationError(f"--out: {path} is a folder; name a file")
    _check_writable(path)
    return path


def write_page(path: Path, page: str) -> None:
    """Writes ``page`` to ``path`` and says where it is. Raises ConfigurationError."""
    write(path, page.encode("utf-8", "backslashreplace"))
    print_note(f"See {path}.")


def write(path: Path, content: bytes) -> None:
    """Writes ``content`` to ``path``; an existing file is kept if the disk is full. Raises ConfigurationError."""
    partial = path.with_name(f".{path.name[:200]}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # such as /dev/stdout
            path.write_bytes(content)
            return
        try:
            partial.write_bytes(content)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigurationError(f"--out: cannot write {path}: {error.strerror or error}") from error


def _check_writable(path: Path) -> None:
    parents = (parent for parent in path.absolute().parents if parent.exists() or parent.is_symlink())
    nearest = path if path.exists() else next(parents)
    if nearest != path and not nearest.is_dir():
        raise ConfigurationError(f"--out: {nearest} is a file, so {path} cannot be made in it")
    if not os.access(nearest, os.W_OK | (os.X_OK if nearest.is_dir() else 0)):
        raise ConfigurationError(f"--out: {nearest} cannot be written to; name another place or change its permissions")
