"""``weirguard explain``: why a principal is flagged, or is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.cli.files import file_for, log_reader, reading_bar, write_page
from detector.cli.operator import principal_of
from detector.cli.options import ApiKey, Json, Map, Merge, Profiles, SettingsFile
from detector.cli.screen import console, print_json, print_sentence, table

if TYPE_CHECKING:
    from rich.console import Console

    from detector.core.configuration import EngineConfig
    from detector.explain.explanation import Explanation
    from detector.explain.published import PublishedRecords
    from detector.policy.config import Policy
    from detector.replay.principal import TimedQueries
    from detector.runtime.sections import KafkaSettings
    from detector.sources import LogReader

PAGE = "explanation.html"
PAGES = (".html", ".htm")


def explain(
    principal: Annotated[
        str | None, typer.Argument(help="Account to explain; none with --group.", show_default=False)
    ] = None,
    files: Annotated[list[Path] | None, typer.Argument(help="Further logs.", show_default=False)] = None,
    *,
    log: Annotated[
        list[Path] | None,
        typer.Option("--log", help="Query log to replay, with any files after it. [default: the service's topics]"),
    ] = None,
    group: Annotated[str | None, typer.Option("--group", help="Explain the group with this id.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Needed if the account queried several models.")] = None,
    profile: Profiles = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write a page with plots: FILE.html, or a folder.")
    ] = None,
    merge: Merge = False,
    map_: Map = None,
    api_key: ApiKey = False,
    json: Json = False,
    settings: SettingsFile = None,
) -> None:
    """Explain why PRINCIPAL is flagged, or is not, or what the accounts of a group share, in words and plots.

    Replays the account's queries, from log files or from the service's topics. With the topics, it also shows the
    alerts and decisions that the service published.
    """
    from detector.explain.page import page
    from detector.explain.tables import as_json
    from detector.runtime.settings import load_settings
    from detector.stream.detection_config import engine_config, policy_config, read_profiles

    logs = [*(log or []), *(files or [])]
    if logs and not log:
        raise typer.BadParameter(f"name {logs[0]} with --log")
    if (principal is None) == (group is None):
        raise typer.BadParameter("name an account, or a group with --group, and not both")
    path = None if out is None else file_for(out if out.suffix.lower() in PAGES else out / PAGE)
    loaded = load_settings(settings)
    given = read_profiles(profile or ())
    config, policy = engine_config(loaded), policy_config(loaded)
    config = replace(config, profiles=given) if given else config
    reader = log_reader(loaded, map_, merge=merge)
    if group is not None:
        _explain_group(group, logs, reader, (config, policy), loaded.kafka, path, json=json)
        return
    name = principal_of(loaded, principal or "", api_key)
    explanation = _explain_account(name, model, logs, reader, loaded.kafka, (config, policy), must_match=bool(given))
    if path is not None:
        write_page(path, page(explanation))
    if json:
        print_json(as_json(explanation))
    else:
        show(explanation, console())


def _explain_account(
    name: str,
    model: str | None,
    logs: Sequence[Path],
    reader: LogReader,
    kafka: KafkaSettings,
    judge: tuple[EngineConfig, Policy],
    *,
    must_match: bool,
) -> Explanation:
    """Returns the explanation of the principal ``name`` in the ``logs``, or in the service's topics without any."""
    from detector.explain.published import read_queries, read_records, since_cleared

    if logs:
        queries, source = _recorded(logs, reader, name, model)
        return _explanation(queries, source, *judge, None, must_match=must_match)
    queries, source = read_queries(kafka, name).of(model), f"the topic {kafka.topics.queries}"
    published = read_records(kafka, queries[0][0].model, name)
    return _explanation(since_cleared(queries, published), source, *judge, published, must_match=must_match)


def _explain_group(
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
    from detector.replay.group_course import courses_in_alerts, courses_in_logs, members_queries
    from detector.replay.principal import queries_in_logs
    from detector.replay.topics import find_group, read_group_alerts
    from detector.sources import files_of

    if logs:
        paths = files_of(logs)
        with reading_bar("judge", paths) as progress:
            course = find_group(courses_in_logs(paths, *judge, reader, progress), group)
        with reading_bar("read", paths) as progress:
            queries = members_queries(course, queries_in_logs(paths, reader, progress))
        source = ", ".join(path.name for path in paths)
    else:
        course = find_group(courses_in_alerts(read_group_alerts(kafka)), group)
        found = (
            queries for name in course.joined for queries in read_queries(kafka, name).by_model.get(course.model, ())
        )
        queries, source = members_queries(course, found), f"the topic {kafka.topics.queries}"
    explained = explain_group(course, queries, *judge, source)
    if path is not None:
        write_page(path, group_page(explained))
    if json:
        print_json(group_json(explained))
        return
    for sentence in (f"{group_headline(explained)}.", lead(explained)):
        print_sentence(console(), sentence)
    members = members_table(explained)
    console().print(table(members.head, members.rows, members.texts))


def _explanation(
    queries: Sequence[TimedQueries],
    source: str,
    config: EngineConfig,
    policy: Policy,
    published: PublishedRecords | None,
    *,
    must_match: bool,
) -> Explanation:
    """Returns the explanation of ``queries``. ``must_match``: profiles were given by option, so every query must match
    one. Raises ConfigurationError."""
    from detector.contracts.errors import ConfigurationError
    from detector.core.profile import ProfileMatcher
    from detector.explain.explanation import explanation_of
    from detector.explain.published import by_row, differences
    from detector.explain.words import learned, unseen_values
    from detector.replay.principal import replay_principal

    batches = [batch for batch, _ in queries]
    if must_match and (mismatches := ProfileMatcher(config.profiles).mismatches(batches)):
        raise ConfigurationError(mismatches[0].detail)
    replay = replay_principal(queries, config, policy)
    notes = [*unseen_values(batches, config), *learned(batches, config)]
    if published is None:
        return explanation_of(replay, config, source, notes=notes)
    notes += differences(published, replay, config.configuration_hash())
    return explanation_of(replay, config, source, records=by_row(published, replay), notes=notes)


def _recorded(paths: Sequence[Path], reader: LogReader, name: str, model: str | None) -> tuple[list[TimedQueries], str]:
    """Returns the principal's queries in files, and the names of the files."""
    from detector.replay.principal import queries_in_logs, queries_of
    from detector.sources import files_of

    logs = files_of(paths)
    with reading_bar("read", logs) as progress:
        queries = queries_of(name, queries_in_logs(logs, reader, progress))
    return queries.of(model), ", ".join(path.name for path in logs)


def show(explanation: Explanation, screen: Console) -> None:
    """Prints the verdict, the measures that contribute, and the events on record."""
    from detector.explain.tables import contributions, events, facts
    from detector.explain.words import basis, verdict

    for sentence in (verdict(explanation), *basis(explanation), facts(explanation)):
        print_sentence(screen, sentence)
    tables = [events(explanation)]
    if explanation.at_verdict is not None:
        tables.insert(0, contributions(explanation, {*explanation.main_measures, "D"}))
    for part in tables:
        screen.print(table(part.head, part.rows, part.texts))
