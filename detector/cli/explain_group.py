"""``weirguard explain --group``: what the accounts of a group share, and when each joined."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detector.cli.files import reading_bar, write
from detector.cli.screen import console, print_json, print_note, print_sentence, table

if TYPE_CHECKING:
    from detector.core.configuration import EngineConfig
    from detector.policy.config import Policy
    from detector.runtime.sections import KafkaSettings
    from detector.sources import LogReader


def explain_of_group(
    group: str,
    logs: Sequence[Path],
    reader: LogReader,
    judge: tuple[EngineConfig, Policy],
    kafka: KafkaSettings,
    path: Path | None,
    *,
    json: bool,
) -> None:
    """Explains ``group`` in the ``logs``, or in the service's topics without any. Raises ConfigurationError."""
    from detector.explain.group import explain_group, group_headline, group_json, group_page, lead, members_table
    from detector.explain.published import read_queries
    from detector.replay.group_course import chosen, courses_in_alerts, courses_in_logs, members_queries
    from detector.replay.principal import queries_in_logs
    from detector.replay.topics import read_group_alerts
    from detector.sources import files_of

    if logs:
        paths = files_of(logs)
        with reading_bar("judge", paths) as progress:
            course = chosen(courses_in_logs(paths, *judge, reader, progress), group)
        with reading_bar("read", paths) as progress:
            queries = members_queries(course, queries_in_logs(paths, reader, progress))
        source = ", ".join(path.name for path in paths)
    else:
        course = chosen(courses_in_alerts(read_group_alerts(kafka)), group)
        found = (
            queries for name in course.joined for queries in read_queries(kafka, name).by_model.get(course.model, ())
        )
        queries, source = members_queries(course, found), f"the topic {kafka.topics.queries}"
    explained = explain_group(course, queries, *judge, source)
    if path is not None:
        write(path, group_page(explained).encode("utf-8", "backslashreplace"))
        print_note(f"See {path}.")
    if json:
        print_json(group_json(explained))
        return
    for sentence in (f"{group_headline(explained)}.", lead(explained)):
        print_sentence(console(), sentence)
    members = members_table(explained)
    console().print(table(members.head, members.rows, members.texts))
