"""``weirguard explain``: why a principal is flagged, or is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.cli.logs import Map, files_in, reading
from detector.cli.operator import principal_of
from detector.cli.options import ApiKey, Json
from detector.cli.output_files import file_for, write
from detector.cli.replay import bar, given_profiles, rows_in
from detector.cli.screen import console, note, say_json

if TYPE_CHECKING:
    from detector.cli.explanation.account import Account
    from detector.core.configuration import EngineConfig
    from detector.policy.config import Policy
    from detector.replay.principal import PrincipalReplay, TimedQueries
    from detector.runtime.sections import KafkaSettings
    from detector.sources import LogReader

PAGE = "explanation.html"
PAGES = (".html", ".htm")


def explain(
    principal: Annotated[str, typer.Argument(help="Account to explain.", show_default=False)],
    files: Annotated[list[Path] | None, typer.Argument(help="Further logs.", show_default=False)] = None,
    *,
    log: Annotated[
        list[Path] | None,
        typer.Option("--log", help="Query log to replay, with any files after it. [default: the service's topics]"),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Needed if the account queried several models.")] = None,
    profile: Annotated[
        list[Path] | None,
        typer.Option("--profile", help="Profile of a model version, from weirguard calibrate. [default: the setting]"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write a page with plots: FILE.html, or a folder.")
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge the files by occurred_at, instead of reading them in turn.")
    ] = False,
    map_: Map = None,
    api_key: ApiKey = False,
    json: Json = False,
    settings: Annotated[Path | None, typer.Option("--settings", help="YAML file; WEIRGUARD_* variables win.")] = None,
) -> None:
    """Explain why PRINCIPAL is flagged, or is not, in words and plots.

    Replays the account's queries, from log files or from the service's topics. With the topics, it also shows the
    alerts and decisions that the service published.
    """
    from detector.cli.explanation.page import page
    from detector.cli.explanation.plain import plain
    from detector.cli.explanation.terminal import show
    from detector.runtime.settings import load_settings
    from detector.stream.building import engine_config, policy_of

    logs = [*(log or []), *(files or [])]
    if logs and not log:
        raise typer.BadParameter(f"name {logs[0]} with --log")
    path = None if out is None else file_for(out if out.suffix.lower() in PAGES else out / PAGE)
    loaded = load_settings(settings)
    given = given_profiles(profile)
    config = engine_config(loaded)
    judging = Judging(replace(config, profiles=given) if given else config, policy_of(loaded), bool(given))
    name = principal_of(loaded, principal, api_key)
    how = reading(loaded, map_, merge=merge)
    account = _of_logs(logs, how, name, model, judging) if logs else _of_service(loaded.kafka, name, model, judging)
    if path is not None:
        write(path, page(account).encode("utf-8", "backslashreplace"))
        note(f"See {path}.")
    if json:
        say_json(plain(account))
    else:
        show(account, console())


@dataclass(frozen=True, slots=True)
class Judging:
    """How queries are judged. ``must_fit``: profiles were given by option, so every query must match one."""

    config: EngineConfig
    policy: Policy
    must_fit: bool

    def follow(self, queries: Sequence[TimedQueries]) -> PrincipalReplay:
        """Returns the course of ``queries``. Raises ConfigurationError if one matches no profile, with ``must_fit``."""
        from detector.contracts.errors import ConfigurationError
        from detector.core.profile.profile import ProfileMatcher
        from detector.replay.principal import replay_principal

        misfits = ProfileMatcher(self.config.profiles).mismatches([batch for batch, _ in queries])
        if misfits and self.must_fit:
            raise ConfigurationError(misfits[0].detail)
        return replay_principal(queries, self.config, self.policy)

    def unseen(self, queries: Sequence[TimedQueries]) -> list[str]:
        """Returns sentences on features with values that no honest query has."""
        from detector.cli.explanation.features import unseen_by_name

        return unseen_by_name([batch for batch, _ in queries], self.config)


def _of_logs(paths: Sequence[Path], how: LogReader, name: str, model: str | None, judging: Judging) -> Account:
    from detector.cli.explanation.account import account_of
    from detector.replay.principal import queries_in_logs, queries_of

    logs = files_in(paths)
    with bar(console(stderr=True), "read", rows_in(logs)) as progress:
        own = queries_of(name, queries_in_logs(logs, how, progress))
    queries = own.of(model)
    source = ", ".join(path.name for path in logs)
    return account_of(judging.follow(queries), judging.config, source, notes=judging.unseen(queries))


def _of_service(kafka: KafkaSettings, name: str, model: str | None, judging: Judging) -> Account:
    from detector.cli.explanation.account import account_of
    from detector.cli.explanation.service import notes, placed, read_queries, read_records, since_cleared

    queries = read_queries(kafka, name).of(model)
    known = read_records(kafka, queries[0][0].model, name)
    queries = since_cleared(queries, known)
    course = judging.follow(queries)
    return account_of(
        course,
        judging.config,
        f"the topic {kafka.topics.queries}",
        records=placed(known, course),
        notes=[*judging.unseen(queries), *notes(known, course, judging.config.configuration_hash())],
    )
