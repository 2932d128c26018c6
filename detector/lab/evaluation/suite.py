"""Suites of attacks: their logs are made here, kept by the hash of what they depend on, and not made twice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path

from detector.contracts.errors import LabError
from detector.lab.evaluation.plans import SUITES
from detector.lab.experiment import Plan, conduct
from detector.lab.query_log import code_version, write_query_log


def plans_of(suite: str) -> tuple[Plan, ...]:
    """The plans of the suite of that name."""
    return SUITES[suite]()


def make_logs(plans: Sequence[Plan], folder: Path, progress: Callable[[int], None] | None = None) -> list[Path]:
    """The logs in ``folder`` of those ``plans`` that can be carried out; as many are made at a time as there are cores.

    What is there already stays, so that this goes on where it was stopped. ``progress`` is told how many plans were
    dealt with since. A plan whose attack cannot handle the victim (LabError) leaves a note instead of a log; another
    error ends it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    logs = {log_path(folder, plan): plan for plan in plans}
    missing = {path: plan for path, plan in logs.items() if not (path.exists() or _note(path).exists())}
    told = progress or (lambda _: None)
    told(len(plans) - len(missing))
    for _ in _made(missing):
        told(1)
    return [path for path in logs if path.exists()]


def make_log(path: Path, plan: Plan) -> None:
    """Carry out ``plan``; its log, or beside it the note why there can be none, is at ``path`` afterwards."""
    try:
        write_query_log(path, conduct(plan))
    except LabError as error:
        _note(path).write_text(f"{json.dumps(asdict(plan))}\n{error}\n", "utf-8")


def log_path(folder: Path, plan: Plan) -> Path:
    """Where the log of ``plan`` is, or would be: another one for another plan or another version of the lab."""
    depends = json.dumps([code_version(), asdict(plan)], sort_keys=True)
    return folder / f"{sha256(depends.encode()).hexdigest()[:24]}.parquet"


def _note(path: Path) -> Path:
    return path.with_suffix(".unfit.txt")


def _made(missing: Mapping[Path, Plan]) -> Iterator[None]:
    """Makes each log in one of several processes; yields as each is done."""
    if not missing:
        return
    workers = min(len(missing), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(make_log, path, plan) for path, plan in missing.items()]
        try:
            for future in as_completed(futures):
                future.result()
                yield
        finally:
            pool.shutdown(cancel_futures=True)
