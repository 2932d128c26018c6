"""The report of a scan as one HTML page, without scripts or external resources."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from detector.cli.explanation import plots
from detector.cli.explanation.account import Account, account_of
from detector.cli.explanation.page import document, figure, pair, table
from detector.cli.explanation.tables import Table
from detector.cli.explanation.words import count, number
from detector.cli.scan_report.words import headline, look_at, not_seen, reasons, sentence, sureness
from detector.core.calibration.scan import ScannedAccount
from detector.core.configuration import EngineConfig
from detector.core.profile.profile import Profile
from detector.policy.config import Policy
from detector.replay.principal import replay_principal
from detector.replay.scan import ScannedVersion, ScanReport, times
from detector.runtime.text import html_text, rfc3339

_DRAWN, _MEASURES = 20, 2
"""Maximum number of accounts with plots, and of measures in each."""
_LISTED = 1_000
_HEAD = ("account", "times the line", "queries", "crossed at", "first", "last", "largest contributions")


def page(report: ScanReport) -> str:
    """Returns the whole page, well-formed XML after its first line."""
    return document(f"Scan: {headline(report)}", _sections(report))


def _sections(report: ScanReport) -> Iterator[str]:
    yield from (_paragraph(line) for line in not_seen(report))
    for version in report.scanned:
        yield f"<h2>{html_text(f'{version.model} {version.version}')}</h2>"
        out = [own for own in version.scan.accounts if own.stands_out]
        yield table(_accounts(version, out)) if out else _paragraph("No account stands out.")
        yield from (_paragraph(line, "soft") for line in sureness(version))
        yield from (_suspect(version, own, drawn=at < _DRAWN) for at, own in enumerate(out))
        rest = [own for own in version.scan.accounts if not own.stands_out]
        yield "<h2>The other accounts, most suspicious first</h2>" + table(_accounts(version, rest[:_LISTED]))
        if len(rest) > _LISTED:
            yield _paragraph(f"{count(len(rest) - _LISTED, 'more is', 'more are')} in scan.json.", "soft")


def _paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{html_text(text)}</p>' if kind else f"<p>{html_text(text)}</p>"


def _accounts(version: ScannedVersion, some: list[ScannedAccount]) -> Table:
    rows = [_row(version, own) for own in some]
    return Table((_HEAD[0], _HEAD[-1], *_HEAD[1:-1]), rows, 2)


def _row(version: ScannedVersion, own: ScannedAccount) -> tuple[str, ...]:
    first, last = (rfc3339(time)[:16].replace("T", " ") for time in times(version.accounts[own.name]))
    crossed = "-" if own.crossed is None else f"{own.crossed + 1:,}"
    most = ", ".join(f"{name} {number(added)}" for name, _, _, added in own.parts[:2] if round(added, 1))
    return own.name, most or "-", f"{own.score:.2f}", f"{version.asked[own.name]:,}", crossed, first, last


def _suspect(version: ScannedVersion, own: ScannedAccount, *, drawn: bool) -> str:
    """Returns the section on an account that stands out."""
    parts = [f"<h2>{html_text(own.name)}</h2>", _paragraph(f"{sentence(own)}.", "lead suspect")]
    parts += [_listed("Why", reasons(own)), _listed("What to look at", look_at(own)), table(_measures(own))]
    when = f"After query {own.row + 1:,}, where D was largest, in standard deviations of the other accounts."
    parts.append(_paragraph(when, "soft"))
    if drawn and own.left_out:
        parts += _drawn(_account(version, own))
    return "\n".join(parts)


def _listed(title: str, lines: list[str]) -> str:
    items = "".join(f"<li>{html_text(line)}</li>" for line in lines)
    return f"<p>{title}:</p><ul>{items}</ul>"


def _measures(own: ScannedAccount) -> Table:
    rows = [
        (name, number(score), number(reached), number(added))
        for name, score, reached, added in own.parts
        if round(added, 1)
    ]
    total = ("sum", "", "", number(own.unexplained))
    closest = "closest average" if own.closest is None else f"closest account, {own.closest}"
    return Table(("measure", "this account", closest, "contribution"), [*rows, total], 1)


def _drawn(account: Account) -> Iterator[str]:
    over = plots.suspicion(account)
    if over is not None:
        yield figure(over)
        yield pair(plots.measures(account)[:_MEASURES])


def _account(version: ScannedVersion, own: ScannedAccount) -> Account:
    """Returns the account, judged by the profile without it and against its own line."""
    queries = version.accounts[own.name]
    profile: Profile = version.scan.screened.calibration.profile
    standards = replace(profile.standards, threshold=own.line)
    config = EngineConfig(profiles=(replace(profile, standards=standards, validation=None),))
    course = replay_principal([(queries, np.maximum.accumulate(queries.occurred_at))], config, Policy())
    return account_of(course, config, "", records=())
