"""``weirguard scan``: finds the accounts that stand out in an unlabelled query log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.cli.files import bar, check_refused, describe_form, folder_for, log_reader, reading_bar, write
from detector.cli.options import LOGS, Json, Map, OutputKind, SettingsFile
from detector.cli.screen import print_json, print_lines, print_note
from detector.contracts.principals import EVERYONE

if TYPE_CHECKING:
    from detector.replay.scan import ScannedVersion, ScanReport

PAGE, RECORD = "scan.html", "scan.json"
_SHOWN_ACCOUNTS = 20


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
        OutputKind | None, typer.Option("--outputs", help="Kind of the outputs. [default: the setting, or inferred]")
    ] = None,
    json: Json = False,
    settings: SettingsFile = None,
) -> None:
    """Find the accounts of a query log that stand out, and those that look like one thief. Needs no profile: each is
    compared with all others."""
    from detector.explain.scan_report import page, record
    from detector.replay.scan import read, scan_log
    from detector.runtime.settings import load_settings
    from detector.sources import files_of

    folder_for(out)
    loaded, logs = load_settings(settings), files_of(files)
    reader = log_reader(loaded, map_)
    with reading_bar("rows", logs) as progress:
        log = read(logs, progress, reader)
    if not log.sieve.pieces:
        check_refused(log.rows, log.refused)
    kinds = {EVERYONE: outputs} if outputs else loaded.detection.outputs
    report = scan_log(log, budget, lambda what, count: bar(f"accounts of {what}", count), kinds)
    names = _write_profiles(report, out)
    content = record(report, names)
    write(out / RECORD, f"{dumps(content, indent=1)}\n".encode())
    write(out / PAGE, page(report).encode("utf-8", "backslashreplace"))
    if json:
        print_json(content)
    else:
        print_lines(*_describe(report))
        print_lines(
            *(f"{'profile':<12}{out / name}, from the accounts that do not stand out" for name in names.values())
        )
    print_note(f"See {out / PAGE}.")
    check_refused(log.rows, log.refused)


def _describe(report: ScanReport) -> Iterator[str]:
    """Yields the outcome as lines of text."""
    from detector.explain.scan_report import headline, reliability, skipped

    yield f"{headline(report)}."
    for version in report.scanned:
        yield ""
        yield f"{version.model} {version.version}"
        yield from describe_form(version.traffic)
        yield from _ranked(version)
        yield from _rings(version)
        for line in reliability(version):
            yield f"{'how sure':<12}{line}"
    for line in skipped(report):
        yield f"{'skipped':<12}{line}"


def _ranked(version: ScannedVersion) -> Iterator[str]:
    from detector.explain.scan_report import look_at, reasons, sentence

    result = version.scan
    out = [account for account in result.accounts if account.stands_out]
    listed = (out if result.enough else result.accounts)[:_SHOWN_ACCOUNTS]
    for rank, account in enumerate(listed, 1):
        yield f"{rank:>3}. {account.name}: {sentence(account)}"
        yield from (f"     {reason}" for reason in reasons(account))
        yield from (f"     to look at: {advice}" for advice in look_at(account) if account.stands_out)
    if len(out) > _SHOWN_ACCOUNTS:
        yield f"     and {len(out) - _SHOWN_ACCOUNTS} more"
    if not out and result.enough:
        first = result.accounts[0]
        yield f"     No account stands out. The closest to the line is {first.name}: {sentence(first)}"


def _rings(version: ScannedVersion) -> Iterator[str]:
    from detector.explain.scan_report import reasons, ring_score, ring_sentence

    for ring in version.rings:
        yield f"{'ring':<12}{ring_sentence(ring)}"
        yield f"     {ring_score(ring)}"
        yield from (f"     {reason}" for reason in reasons(ring.merged))


def _write_profiles(report: ScanReport, out: Path) -> dict[tuple[str, str], str]:
    """Writes a profile for each model version to the folder ``out``, and returns the names of the files."""
    from detector.replay.calibrate import with_provenance

    names: dict[tuple[str, str], str] = {}
    for version in report.scanned:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{version.model}-{version.version}").strip(".-")[:80] or "model"
        same_name = sum(other.startswith(name) for other in names.values())
        name += f"-{same_name + 1}.profile" if same_name else ".profile"
        accounts = list(version.accounts.values())
        made = with_provenance(version.scan.screened, accounts, report.budget, report.log.digests)
        profile = version.traffic.profile(made)
        write(out / name, profile.to_bytes())
        names[version.model, version.version] = name
    return names
