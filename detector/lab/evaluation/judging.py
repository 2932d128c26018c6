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
from detector.core.profile.profile import Profile
from detector.lab.provenance import digest_of
from detector.lab.query_log import Run, read_run
from detector.policy.config import Policy
from detector.replay.judging import judge_logs


@dataclass(frozen=True, slots=True)
class JudgedLog:
    """The ``n`` queries of one log that could be judged, in log order, and the ``run`` that it tells of.

    ``account`` int64 (n,) into ``accounts``, each (model, principal); ``honest`` bool (n,) and ``kind`` (n,), texts:
    what the log says they are; ``flagged`` bool (n,): the verdict as of that query. ``refused``: rows without one.
    """

    run: Run
    accounts: list[tuple[str, str]]
    account: NDArray[np.int64]
    honest: NDArray[np.bool_]
    kind: NDArray[np.object_]
    flagged: NDArray[np.bool_]
    refused: int


def judge_labelled(
    path: Path,
    *,
    engine_config: EngineConfig,
    policy: Policy,
    progress: Callable[[int], None] | None = None,
    must_fit: Sequence[Profile] = (),
) -> JudgedLog:
    """The log at ``path``, judged by an engine that has seen nothing else; ``progress`` is told rows done since.

    Raises ConfigurationError or LabError where the file is no labelled log, or fits none of the profiles ``must_fit``,
    if there are any.
    """
    run, (honest, kind) = read_run(path), _marks(path)
    account, flagged = np.full(len(honest), -1, dtype=np.int64), np.zeros(len(honest), dtype=np.bool_)
    numbers: dict[tuple[str, str], int] = {}
    for part, judgement in judge_logs([path], engine_config=engine_config, policy=policy, must_fit=must_fit):
        if judgement is not None:
            seen = judgement.observation
            own = [numbers.setdefault((key.model, key.principal), len(numbers)) for key in seen.keys]
            kept = np.flatnonzero(seen.index >= 0)
            account[part.row[kept]] = np.array(own, dtype=np.int64)[seen.key_index[kept]]
            flagged[part.row[kept]] = seen.flagged[kept]
        if progress:
            progress(len(part))
    judged = account >= 0
    return JudgedLog(
        run, list(numbers), account[judged], honest[judged], kind[judged], flagged[judged], int((~judged).sum())
    )


def _marks(path: Path) -> tuple[NDArray[np.bool_], NDArray[np.object_]]:
    """Of each row in the file: whether it is honest, and its kind."""
    import pyarrow.parquet as pq

    marks = pq.read_table(path, columns=["label", "kind"])
    label, kind = (np.array(marks[name].to_pylist(), dtype=np.object_) for name in ("label", "kind"))
    return np.asarray(label == "honest", dtype=np.bool_), kind


def judge_once(
    path: Path,
    folder: Path,
    *,
    engine_config: EngineConfig,
    policy: Policy,
    progress: Callable[[int], None] | None = None,
    must_fit: Sequence[Profile] = (),
) -> JudgedLog:
    """As ``judge_labelled``, but what is kept in ``folder`` is not judged again; what is not, is kept there."""
    place = judged_path(folder, path, engine_config, policy)
    judged = _read_judged(place, path)
    if judged is None:
        judged = judge_labelled(path, engine_config=engine_config, policy=policy, progress=progress, must_fit=must_fit)
        _write_judged(place, judged)
    elif progress:
        progress(len(judged.account) + judged.refused)
    return judged


def judged_path(folder: Path, path: Path, engine_config: EngineConfig, policy: Policy) -> Path:
    """Where the judged log at ``path`` is kept, or would be."""
    who = [_source(), engine_config.configuration_hash(), policy.version]
    log = sha256(path.read_bytes()).hexdigest()
    return folder / f"{sha256(json.dumps([log, *who]).encode()).hexdigest()[:24]}.npz"


@cache
def _source() -> str:
    return digest_of([__name__])


def _write_judged(place: Path, judged: JudgedLog) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez_compressed(
            file,
            accounts=np.array(json.dumps(judged.accounts)),
            account=judged.account,
            honest=judged.honest,
            kind=judged.kind.astype(np.str_),
            flagged=judged.flagged,
            refused=np.array(judged.refused),
        )
    partial.replace(place)


def _read_judged(place: Path, log: Path) -> JudgedLog | None:
    """What is kept at ``place`` of ``log``; None where nothing is, or nothing whole."""
    try:
        with place.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            accounts = [(model, principal) for model, principal in json.loads(str(kept["accounts"]))]
            kind, refused = kept["kind"].astype(np.object_), int(kept["refused"])
            return JudgedLog(
                read_run(log), accounts, kept["account"], kept["honest"], kind, kept["flagged"], refused=refused
            )
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
