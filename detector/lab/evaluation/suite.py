"""Suites of attacks: their logs are made here, kept by the hash of what they depend on, and not made twice."""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

from detector.contracts.errors import LabError
from detector.lab.evaluation.plans import SUITES
from detector.lab.experiment import Plan, code_version, conduct
from detector.lab.query_log import PARTIAL, write_query_log

_LOCK = "being-made.lock"


def plans_of(suite: str) -> tuple[Plan, ...]:
    """The plans of the suite of that name."""
    return SUITES[suite]()


@dataclass(frozen=True, slots=True)
class SuiteProgress:
    """What has become of ``plans`` plans: ``logs``; how many are ``unfit``, ``failed``, or not carried out yet."""

    plans: int
    logs: list[Path]
    unfit: int
    failed: int

    @property
    def left(self) -> int:
        return self.plans - len(self.logs) - self.unfit - self.failed


def progress_of(plans: Sequence[Plan], folder: Path) -> SuiteProgress:
    """What has become of ``plans`` in ``folder``."""
    paths = [log_path(folder, plan) for plan in plans]
    logs = [path for path in paths if path.exists()]
    unfit = sum(_unfit(path).exists() for path in paths)
    return SuiteProgress(len(plans), logs, unfit, sum(_failed(path).exists() for path in paths))


def make_logs(plans: Sequence[Plan], folder: Path, progress: Callable[[int], None] | None = None) -> None:
    """Make the logs of ``plans`` that are not in ``folder`` yet; as many at a time as there are cores.

    What is there already stays, so that this goes on where it was stopped, however it was. ``progress`` is told how
    many plans were dealt with since. A plan whose attack cannot handle the victim (LabError) leaves a note instead of a
    log; so does any other error, but that plan is tried again the next time. Raises LabError where another process
    makes logs in ``folder``, or one of ours was killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        for path in folder.glob(f"*{PARTIAL}"):
            path.unlink()
        logs = {log_path(folder, plan): plan for plan in plans}
        missing = {path: plan for path, plan in logs.items() if not (path.exists() or _unfit(path).exists())}
        told = progress or (lambda _: None)
        told(len(plans) - len(missing))
        for _ in _made(missing):
            told(1)


def make_log(path: Path, plan: Plan) -> None:
    """Carry out ``plan``; its log, or beside it the note why there is none, is at ``path`` afterwards."""
    try:
        write_query_log(path, conduct(plan))
    except LabError as error:
        _unfit(path).write_text(f"{json.dumps(asdict(plan))}\n{error}\n", "utf-8")
    except Exception:  # noqa: BLE001  one plan that fails must not end all others
        _failed(path).write_text(f"{json.dumps(asdict(plan))}\n{traceback.format_exc()}", "utf-8")
        return
    _failed(path).unlink(missing_ok=True)


def log_path(folder: Path, plan: Plan) -> Path:
    """Where the log of ``plan`` is, or would be: another one for another plan or other source that makes it."""
    depends = json.dumps([code_version(plan.attack), asdict(plan)], sort_keys=True)
    return folder / f"{sha256(depends.encode()).hexdigest()[:24]}.parquet"


def _unfit(path: Path) -> Path:
    return path.with_suffix(".unfit.txt")


def _failed(path: Path) -> Path:
    return path.with_suffix(".failed.txt")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else makes logs in ``folder`` meanwhile; the lock ends with the process, even one that is killed."""
    from fcntl import LOCK_EX, LOCK_NB, flock

    with (folder / _LOCK).open("wb") as lock:
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError as error:
            raise LabError(f"{folder}: another process makes logs there; wait for it, or report --so-far") from error
        yield


def _made(missing: Mapping[Path, Plan]) -> Iterator[None]:
    """Makes each log in one of several processes; yields as each is done."""
    if not missing:
        return
    workers = min(len(missing), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin) as pool:
        futures = [pool.submit(make_log, path, plan) for path, plan in missing.items()]
        try:
            for future in as_completed(futures):
                future.result()
                yield
        except BrokenProcessPool as error:
            raise LabError(
                "a process that makes logs was killed, maybe for its memory; run this again to go on"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """In each process: Ctrl-C is for the one that started it, with which it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
