"""Judged logs, kept by the hash of what they depend on: the log, who judges it, and the source that does."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from detector.core.engine import EngineConfig
from detector.core.profile.profile import Profile
from detector.lab.evaluation import judging
from detector.lab.evaluation.judging import JudgedLog, judge_labelled
from detector.lab.provenance import digest_of
from detector.lab.query_log import read_run
from detector.policy.config import Policy


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
    judged = _read(place, path)
    if judged is None:
        judged = judge_labelled(path, engine_config=engine_config, policy=policy, progress=progress, must_fit=must_fit)
        _write(place, judged)
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
    return digest_of([judging.__name__, __name__])


def _write(place: Path, judged: JudgedLog) -> None:
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


def _read(place: Path, log: Path) -> JudgedLog | None:
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
