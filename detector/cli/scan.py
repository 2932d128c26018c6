"""``weirguard scan``: finds the accounts that stand out in an unlabelled query log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.cli.logs import LOGS, Map, check_refused, files_in, reading
from detector.cli.options import Json
from detector.cli.output_files import folder_for, write
from detector.cli.replay import OutputsName, bar, rows_in
from detector.cli.screen import console, note, say, say_json
from detector.contracts.principals import EVERYONE

if TYPE_CHECKING:
    from detector.core.profile.profile import Profile
    from detector.replay.scan import ScannedVersion, ScanReport

PAGE, RECORD = "scan.html", "scan.json"
_SHOWN = 20


def scan(
    *,
    files: Annotated[list[Path], typer.Argument(help=LOGS, show_default=False)],
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the report, scan.json and one profile per model version.")
    ] = Path("scan-report"),
    budget: Annotated[
        float, typer.Option("--budget", min=1e-6, max=0.5, help="Share of honest accounts that may stand out.")
    ] = 0.01,
    map_: Map = None,
    outputs: Annotated[
        OutputsName | None, typer.Option("--outputs", help="Kind of the outputs. [default: the setting, or inferred]")
    ] = None,
    json: Json = False,
    settings: Annotated[Path | None, typer.Option("--settings", help="YAML file; WEIRGUARD_* variables win.")] = None,
) -> None:
    """Find the accounts of a query log that stand out, and why. Needs no profile: each is compared with all others."""
    from detector.cli.scan_report.page import page
    from detector.cli.scan_report.record import record
    from detector.replay.scan import read, scan_log
    from detector.runtime.settings import load_settings

    folder_for(out)
    loaded, screen, logs = load_settings(settings), console(stderr=True), files_in(files)
    how = reading(loaded, map_)
    with bar(screen, "rows", rows_in(logs)) as progress:
        log = read(logs, progress, how)
    if not log.sieve.pieces:
        check_refused(log.rows, log.refused)
    kinds = {EVERYONE: outputs.value} if outputs else loaded.detection.outputs
    report = scan_log(log, budget, lambda what, count: bar(screen, f"accounts of {what}", count), kinds)
    profiles = _profiles(report)
    names = {key: name for key, (name, _) in profiles.items()}
    content = record(report, names)
    for name, profile in profiles.values():
        write(out / name, profile.to_bytes())
    write(out / RECORD, f"{dumps(content, indent=1)}\n".encode())
    write(out / PAGE, page(report).encode("utf-8", "backslashreplace"))
    _tell(report, content, out, names, as_json=json)
    check_refused(log.rows, log.refused)


def _tell(report: ScanReport, content: Any, out: Path, names: dict[tuple[str, str], str], *, as_json: bool) -> None:
    if as_json:
        say_json(content)
    else:
        say(*told(report))
        say(*(f"{'profile':<12}{out / name}, from the accounts that do not stand out" for name in names.values()))
    note(f"See {out / PAGE}.")


def told(report: ScanReport) -> Iterator[str]:
    """Yields the outcome as lines of text."""
    from detector.cli.form_words import form_lines
    from detector.cli.scan_report.words import headline, not_seen, sureness

    yield f"{headline(report)}."
    for version in report.scanned:
        yield ""
        yield f"{version.model} {version.version}"
        yield from (f"{heading:<12}{line}" for heading, line in form_lines(version.traffic))
        yield from _ranked(version)
        for line in sureness(version):
            yield f"{'how sure':<12}{line}"
    for line in not_seen(report):
        yield f"{'skipped':<12}{line}"


def _ranked(version: ScannedVersion) -> Iterator[str]:
    from detector.cli.scan_report.words import look_at, reasons, sentence

    found = version.scan
    out = [own for own in found.accounts if own.stands_out]
    shown = (out if found.enough else found.accounts)[:_SHOWN]
    for place, own in enumerate(shown, 1):
        yield f"{place:>3}. {own.name}: {sentence(own)}"
        yield from (f"     {reason}" for reason in reasons(own))
        yield from (f"     to look at: {advice}" for advice in look_at(own) if own.stands_out)
    if len(out) > _SHOWN:
        yield f"     and {len(out) - _SHOWN} more"
    if not out and found.enough:
        first = found.accounts[0]
        yield f"     No account stands out. The closest to the line is {first.name}: {sentence(first)}"


def _profiles(report: ScanReport) -> dict[tuple[str, str], tuple[str, Profile]]:
    """Returns the file name and the profile of each model version."""
    from detector.replay.calibrate import with_provenance

    found: dict[tuple[str, str], tuple[str, Profile]] = {}
    for own in report.scanned:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{own.model}-{own.version}").strip(".-")[:80] or "model"
        taken = sum(other.startswith(name) for other, _ in found.values())
        name += f"-{taken + 1}" if taken else ""
        profile = own.traffic.profile(with_provenance(own.scan.screened, report.budget, report.log.digests))
        found[own.model, own.version] = f"{name}.profile", profile
    return found
