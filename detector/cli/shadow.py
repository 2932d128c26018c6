"""``weirguard shadow-report``: what would have been enforced, had gates acted on decisions that only observe."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from detector.cli.files import file_for, write
from detector.cli.operator import seconds
from detector.cli.options import Json, SettingsFile
from detector.cli.screen import console, print_json, print_lines, print_note, print_sentence, table


def shadow_report(
    since: Annotated[str, typer.Option(help="How far to look back: 12h, 7d.")] = "7d",
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where to write a page: FILE.html.")] = None,
    json: Json = False,
    settings: SettingsFile = None,
) -> None:
    """Say what would have been enforced: against which accounts, for how long, why, and at what cost.

    Reads decisions of mode observe in the service's topics.
    """
    from detector.explain import shadow
    from detector.replay.topics import alerts_since, audits_since, read_decisions, read_scores
    from detector.runtime.settings import load_settings

    until = time.time()
    start = until - seconds(since)
    path = None if out is None else file_for(out)
    kafka = load_settings(settings).kafka
    chosen = [audit for audit in audits_since(kafka, start) if model in (None, audit.model)]
    current = [
        decision for decision in read_decisions(kafka, until).current.values() if model in (None, decision.model)
    ]
    known = Counter(key[0] for key in read_scores(kafka) if model in (None, key[0]))
    report = shadow.shadow_report(chosen, current, alerts_since(kafka, start), known, start, until)
    if path is not None:
        write(path, shadow.page(report).encode("utf-8", "backslashreplace"))
        print_note(f"See {path}.")
    if json:
        print_json(shadow.as_json(report))
        return
    print_lines(f"{shadow.headline(report)}.")
    screen = console()
    for sentence in shadow.sentences(report):
        print_sentence(screen, sentence)
    if report.principals:
        listed = shadow.table_of(report)
        screen.print(table(listed.head, listed.rows, listed.texts))
