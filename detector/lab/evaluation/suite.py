"""Suites of attacks: the plans, and their logs, which are made once."""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from itertools import product
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

from detector.contracts.errors import LabError
from detector.lab.attackers import ATTACKS
from detector.lab.evaluation.costs import OWN_ROWS
from detector.lab.experiment import AttackPlan, Knows, code_version, conduct
from detector.lab.query_log import PARTIAL, write_query_log
from detector.lab.victims import HARDENED
from detector.lab.wrappers import PLAIN, WRAPPERS

_PERCEPTRON = "multilayer perceptron"
_LOGISTIC = "logistic regression"
_MACHINE = "support vector machine"
_TREE = "decision tree"


def _plan(attack: str, victim: str, dataset: str, wrapper: str = PLAIN, budget: int = 1_000) -> AttackPlan:
    """Returns a plan without honest accounts: those of a data set are the same in every log, and are in one of them."""
    return AttackPlan(attack, victim, dataset, wrapper, budget, accounts=0)


_ON_DIGITS = {
    # substitutes by augmentation
    **dict.fromkeys(("n-fgsm", "n-i-fgsm", "t-rnd-fgsm", "t-rnd-i-fgsm", "color"), 1_000),
    # substitutes from a pool
    **dict.fromkeys(("knockoff random", "knockoff adaptive", "copycat", "uncertainty", "k-center"), 1_000),
    # substitutes from adversarial examples, and without data
    "cloudleak pgd": 1_000,
    **dict.fromkeys(("cloudleak cw", "cloudleak feature adversary", "cloudleak featurefool"), 500),
    **dict.fromkeys(("cloudleak featurefool 0.1", "cloudleak featurefool 0.8"), 500),
    "data-free": 4_000,
    # inversion, fingerprints, evasion
    **dict.fromkeys(("model inversion", "psml sweep", "finite differences", "boundary walk"), 1_000),
}
"""The budget of attacks on the perceptron."""
_DISGUISES = {
    "blocks": 1_600,
    "dummies": 1_000,
    "dummies-3-to-1": 1_000,
    "lineage": 1_600,
    "mixed": 1_000,
    "random": 1_600,
    "round-robin": 1_600,
    "slow": 1_000,
}
"""The budget of each disguise of what prada catches."""

QUICK: tuple[AttackPlan, ...] = (
    # honest users, one log per data set
    AttackPlan("jbda", _PERCEPTRON, "digits", accounts=112),
    AttackPlan("uniform retraining", _LOGISTIC, "breast cancer", budget=1_200, accounts=72),
    # equations and boundaries
    _plan("equation solving", _LOGISTIC, "breast cancer", budget=31),
    _plan("equation solving", _LOGISTIC, "digits", budget=650),
    _plan("equation solving mlp", _PERCEPTRON, "iris", budget=300),
    _plan("lowd-meek", _LOGISTIC, "breast cancer", budget=2_000),
    _plan("line-search retraining", _LOGISTIC, "breast cancer"),
    _plan("adaptive retraining", _LOGISTIC, "breast cancer", budget=500),
    _plan("rbf-svm retraining", _MACHINE, "linear", budget=500),
    # trees
    _plan("path finding bottom-up", _TREE, "iris", budget=2_000),
    _plan("path finding top-down", _TREE, "iris", budget=2_000),
    *(_plan(attack, _PERCEPTRON, "digits", budget=budget) for attack, budget in _ON_DIGITS.items()),
    *(_plan("jbda", _PERCEPTRON, "digits", wrapper, budget) for wrapper, budget in _DISGUISES.items()),
)

_TARGETS = (
    (_LOGISTIC, "linear"),
    (_LOGISTIC, "breast cancer"),
    (_LOGISTIC, "digits"),
    (_TREE, "iris"),
    (_TREE, "categorical"),
    ("random forest", "wine"),
    ("gradient boosting", "credit"),
    (_MACHINE, "linear"),
    (_PERCEPTRON, "breast cancer"),
    (_PERCEPTRON, "digits"),
    (_PERCEPTRON, "mnist"),
    ("convolutional network", "digits"),
)
_FULL_BUDGET = 2_000
_FULL_ACCOUNTS = 112
_CARRIER = "knockoff random"
"""The attack whose plain logs have honest users: it handles every data set."""
_LOCK = "being-made.lock"


def full() -> tuple[AttackPlan, ...]:
    """Returns every attack on every target in every disguise, and undisguised on victims with a defence in their
    training. Undisguised ones come first, so that a part of the suite covers every attack."""
    hardened = [(attack, victim, "digits", PLAIN) for attack, victim in product(sorted(ATTACKS), HARDENED)]
    disguised = [(attack, *target, wrapper) for wrapper, target, attack in product(WRAPPERS, _TARGETS, sorted(ATTACKS))]
    first_victims = {dataset: victim for victim, dataset in reversed(_TARGETS)}
    populated = {(_CARRIER, victim, dataset, PLAIN) for dataset, victim in first_victims.items()}
    plans = {names: _plan(*names, budget=_FULL_BUDGET) for names in (*hardened, *disguised)}
    return tuple(
        replace(plan, accounts=_FULL_ACCOUNTS) if names in populated else plan for names, plan in plans.items()
    )


ADAPTIVE_TARGETS = (
    ("gradient boosting", "credit"),
    (_LOGISTIC, "credit"),
    (_PERCEPTRON, "digits"),
    ("convolutional network", "digits"),
)
_STRATEGIES = (
    *((attack, PLAIN) for attack in ("jbda", "uniform after rows", "crossover", "crossover of eight")),
    *((attack, PLAIN) for attack in ("crossover of unsent rows", "kernel density", "mixture", "mixup")),
    *(("uniform after rows", wrapper) for wrapper in ("diluted", "washed", "slow drift", "fresh accounts")),
    ("jbda", "diluted"),
    ("jbda", "dummies"),
)
_CAREFUL = (("jbda", PLAIN), ("uniform after rows", PLAIN), ("crossover", PLAIN), ("uniform after rows", "diluted"))
_LEVELS: tuple[Knows, ...] = ("code", "profile")
_ADAPTIVE_BUDGET = 1_000
_ADAPTIVE_ACCOUNTS = 60


def adaptive() -> tuple[AttackPlan, ...]:
    """Returns plans on victims of four kinds: a thief who sends only natural rows, thieves who shape their queries, and
    some who run the detector's code, with their own profile or the owner's. The seed distinguishes the targets."""
    plans = []
    for seed, (victim, dataset) in enumerate(ADAPTIVE_TARGETS):
        plan = AttackPlan(OWN_ROWS, victim, dataset, budget=_ADAPTIVE_BUDGET, seed=seed, accounts=_ADAPTIVE_ACCOUNTS)
        plans.append(plan)
        blind = [replace(plan, attack=attack, wrapper=wrapper, accounts=0) for attack, wrapper in _STRATEGIES]
        plans += blind
        careful = [plan for plan in blind if (plan.attack, plan.wrapper) in _CAREFUL]
        plans += [replace(plan, knows=knows) for plan in careful for knows in _LEVELS]
    return tuple(plans)


SUITES: dict[str, Callable[[], tuple[AttackPlan, ...]]] = {"quick": lambda: QUICK, "adaptive": adaptive, "full": full}


def plans_of(suite: str) -> tuple[AttackPlan, ...]:
    """Returns the plans of ``suite``."""
    return SUITES[suite]()


@dataclass(frozen=True, slots=True)
class SuiteProgress:
    """The state of a number of ``plans``: their ``logs``, and how many are ``unfit``, ``failed``, or ``left``."""

    plans: int
    logs: list[Path]
    unfit: int
    failed: int

    @property
    def left(self) -> int:
        return self.plans - len(self.logs) - self.unfit - self.failed

    @property
    def gaps(self) -> tuple[str, ...]:
        """Sentences on the plans without a log."""
        of = f"of {self.plans:,} plans"
        sentences = {
            f"{self.left:,} {of} are not carried out yet; without --so-far, the same command continues.": self.left,
            f"{self.failed:,} {of} failed and are tried again the next time; see logs/*.failed.txt.": self.failed,
            f"{self.unfit:,} {of} have an attack that cannot handle the victim; see logs/*.unfit.txt.": self.unfit,
        }
        return tuple(sentence for sentence, number in sentences.items() if number)


def progress_of(plans: Sequence[AttackPlan], folder: Path) -> SuiteProgress:
    """Returns the state of ``plans`` in ``folder``."""
    paths = [log_path(folder, plan) for plan in plans]
    unfit, failed = (sum(note(path).exists() for path in paths) for note in (_unfit, _failed))
    return SuiteProgress(len(plans), [path for path in paths if path.exists()], unfit, failed)


def make_logs(plans: Sequence[AttackPlan], folder: Path, progress: Callable[[int], None] | None = None) -> None:
    """Makes the logs of ``plans`` that are not in ``folder`` yet; as many at a time as there are cores.

    A suite that was stopped in any way resumes. ``progress`` is called with the number of plans dealt with since. A
    plan whose attack cannot handle the victim (LabError) leaves a note instead of a log; so does any other error, but
    that plan is tried again the next time. Raises LabError where another process makes logs in ``folder``, or one of
    ours was killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        for path in folder.glob(f"*{PARTIAL}"):
            path.unlink()
        logs = {log_path(folder, plan): plan for plan in plans}
        missing = {path: plan for path, plan in logs.items() if not (path.exists() or _unfit(path).exists())}
        report = progress or (lambda _: None)
        report(len(plans) - len(missing))
        for _ in _made(missing):
            report(1)


def make_log(path: Path, plan: AttackPlan) -> None:
    """Carries out ``plan``. Writes its log to ``path``, or a note next to it on why there is none."""
    try:
        write_query_log(path, conduct(plan))
    except LabError as error:
        _unfit(path).write_text(f"{json.dumps(asdict(plan))}\n{error}\n", "utf-8")
    except Exception:  # noqa: BLE001  one plan that fails must not end all others
        _failed(path).write_text(f"{json.dumps(asdict(plan))}\n{traceback.format_exc()}", "utf-8")
        return
    _failed(path).unlink(missing_ok=True)


def log_path(folder: Path, plan: AttackPlan) -> Path:
    """Returns where the log of ``plan`` is, or would be. It differs by plan and by the source that makes the log."""
    depends = json.dumps([code_version(plan.attack, plan.knows), asdict(plan)], sort_keys=True)
    return folder / f"{sha256(depends.encode()).hexdigest()[:24]}.parquet"


def _unfit(path: Path) -> Path:
    return path.with_suffix(".unfit.txt")


def _failed(path: Path) -> Path:
    return path.with_suffix(".failed.txt")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps other processes from making logs in ``folder``. The lock ends with the process, even if it is killed."""
    from fcntl import LOCK_EX, LOCK_NB, flock

    with (folder / _LOCK).open("wb") as lock:
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError as error:
            raise LabError(f"{folder}: another process makes logs there; wait for it, or report --so-far") from error
        yield


def _made(missing: Mapping[Path, AttackPlan]) -> Iterator[None]:
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
                "a process that makes logs was killed, maybe for its memory; run this again to continue"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Leaves Ctrl-C to the parent process, and ends this one with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
