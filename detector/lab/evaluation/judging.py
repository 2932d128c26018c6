"""Labelled query logs, judged by engine and policy of the service; results are cached by what they depend on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from detector.core.engine import EngineConfig
from detector.core.profile import Profile
from detector.lab.provenance import digest_of
from detector.lab.query_log import Run, read_run
from detector.policy.config import Policy
from detector.replay.judging import judge_logs

_COLUMNS = ("account", "honest", "kind", "flagged", "grouped")


@dataclass(frozen=True, slots=True)
class JudgedLog:
    """The ``n`` queries of one log that could be judged, in log order, and the ``run`` of the log.

    ``account`` int64 (n,) into ``accounts``, each (model, principal); ``honest`` bool (n,) and ``kind`` (n,), texts:
    the labels of the log; ``flagged`` bool (n,): the verdict as of that query; ``grouped`` bool (n,): whether the
    account is a member of a group as of it. ``refused``: rows without a verdict.
    """

    run: Run
    accounts: list[tuple[str, str]]
    account: NDArray[np.int64]
    honest: NDArray[np.bool_]
    kind: NDArray[np.object_]
    flagged: NDArray[np.bool_]
    grouped: NDArray[np.bool_]
    refused: int


def judge_labelled(
    path: Path,
    *,
    engine_config: EngineConfig,
    policy: Policy,
    progress: Callable[[int], None] | None = None,
    must_fit: Sequence[Profile] = (),
) -> JudgedLog:
    """Returns the log at ``path``, judged by an engine without earlier queries. ``progress`` is called with the number
    of rows done since.

    Raises ConfigurationError or LabError if the file is not a labelled log, or fits none of the profiles ``must_fit``.
    """
    import pyarrow.parquet as pq

    run, marks = read_run(path), pq.read_table(path, columns=["label", "kind"])
    label, kind = (np.array(marks[name].to_pylist(), dtype=np.object_) for name in ("label", "kind"))
    account = np.full(len(label), -1, dtype=np.int64)
    flagged, grouped = np.zeros((2, len(label)), dtype=np.bool_)
    numbers: dict[tuple[str, str], int] = {}
    for part, judgement in judge_logs([path], engine_config=engine_config, policy=policy, must_fit=must_fit):
        if judgement is not None:
            seen = judgement.observation
            accounts = [numbers.setdefault((key.model, key.principal), len(numbers)) for key in seen.keys]
            rows = np.flatnonzero(seen.index >= 0)
            account[part.row[rows]] = np.array(accounts, dtype=np.int64)[seen.key_index[rows]]
            flagged[part.row[rows]] = seen.flagged[rows]
            grouped[part.row[rows]] = [group is not None for group in judgement.groups.ids[rows].tolist()]
        if progress:
            progress(len(part))
    judged = account >= 0
    honest = np.asarray(label == "honest", dtype=np.bool_)
    columns = (account[judged], honest[judged], kind[judged], flagged[judged], grouped[judged])
    return JudgedLog(run, list(numbers), *columns, refused=int((~judged).sum()))


def judge_once(
    path: Path,
    folder: Path,
    *,
    engine_config: EngineConfig,
    policy: Policy,
    progress: Callable[[int], None] | None = None,
    must_fit: Sequence[Profile] = (),
) -> JudgedLog:
    """Returns the same as ``judge_labelled``, from the cache in ``folder`` if it is there."""
    cached = judged_path(folder, path, engine_config, policy)
    judged = _read_judged(cached, path)
    if judged is None:
        judged = judge_labelled(path, engine_config=engine_config, policy=policy, progress=progress, must_fit=must_fit)
        _write_judged(cached, judged)
    elif progress:
        progress(len(judged.account) + judged.refused)
    return judged


def judged_path(folder: Path, path: Path, engine_config: EngineConfig, policy: Policy) -> Path:
    """Returns where the judged log at ``path`` is cached, or would be."""
    log = sha256(path.read_bytes()).hexdigest()
    depends = json.dumps([log, _source(), engine_config.configuration_hash(), policy.version])
    return folder / f"{sha256(depends.encode()).hexdigest()[:24]}.npz"


@cache
def _source() -> str:
    return digest_of([__name__])


def _write_judged(path: Path, judged: JudgedLog) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: getattr(judged, name) for name in _COLUMNS} | {"kind": judged.kind.astype(np.str_)}
    others = {"accounts": np.array(json.dumps(judged.accounts)), "refused": np.array(judged.refused)}
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, **columns, **others)  # type: ignore[arg-type]  # no array is called allow_pickle
    partial.replace(path)


def _read_judged(path: Path, log: Path) -> JudgedLog | None:
    """Returns what is cached of ``log`` at ``path``, or None if it is missing or damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            accounts = [(model, principal) for model, principal in json.loads(str(stored["accounts"]))]
            columns = {name: stored[name] for name in _COLUMNS} | {"kind": stored["kind"].astype(np.object_)}
            return JudgedLog(read_run(log), accounts, refused=int(stored["refused"]), **columns)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
