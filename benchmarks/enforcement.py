"""Closing the loop: what a thief's clone is worth under no defence, under each rung and under the default ladder.

python -m benchmarks.enforcement [--full] [--broker apache] [--picture docs/pictures/enforcement.svg]

Over HTTP, with a broker, a detector that has a profile of other honest accounts, and a gate. Each theft is done anew
under each defence, by an account of its own, which gives up when it is turned away. A caller waits until the detector
has judged what they asked, so that figures do not depend on this machine's speed. Honest clients ask the same models
meanwhile. At the end, when the thieves are gone, honest clients ask row by row, and each row of each model under all
defences in turn: the difference is what a defence adds to their wait. ``--full``: also at 5,000 queries.
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks._detecting import Account
from benchmarks._loop import VERSION, Caller, Model, Served, TurnedAwayError, serving
from benchmarks._panels import Line, Panel, picture
from benchmarks._service import BROKERS, service, wait_until
from benchmarks._thieves import REPEATS, THIEVES, Countered, Recover, as_served, labels_only, learned, partial_bayes
from benchmarks.calibrated import honest
from benchmarks.lab._markdown import percent, table
from benchmarks.response_strength import foreign, natural
from detector.contracts.actions import make_action
from detector.contracts.codecs.records import encode
from detector.contracts.errors import LabError
from detector.contracts.findings import Command
from detector.contracts.topics import partition_of
from detector.core.calibration.calibrate import calibrate
from detector.core.exposure import Validation
from detector.core.profile import Profile
from detector.lab.answers import Classifier, Victim
from detector.lab.attackers import ATTACKS
from detector.lab.attackers.attacker import Attacker, Knowledge
from detector.lab.experiment import PAUSE, victim_of
from detector.lab.fidelity import Yardstick
from detector.lab.wrappers import PLAIN, WRAPPERS
from detector.lab.wrappers.disguises import Disguise, SentQueries
from detector.runtime.sections import DetectionSettings, PolicySettings
from detector.serving import Connection, Gate, Responder
from detector.serving.responses import RESPONSES

SEED = 2
PARTITIONS = 4
CALIBRATION = 40
HONEST, HONEST_ROWS, TESTED_ROWS = 20, 100, 300
TIMED_ROWS = 25
"""Of each honest client, timed one by one."""
ORDERED_SECONDS = 86_400.0
"""How long the account TESTED stays under its defence: longer than any run."""
STEP = 25
"""Rows in a request."""
EARLY = (100, 200)
"""Queries at which the picture begins."""
_AT_ONCE = 16
"""Callers."""

DIGITS: Model = ("digits", "multilayer perceptron")
MNIST: Model = ("mnist", "multilayer perceptron")
SOFTMAX: Model = ("digits", "logistic regression")
PLANE: Model = ("linear", "logistic regression")
TREE: Model = ("breast cancer", "decision tree")


class Theft(NamedTuple):
    """``attack`` on the model ``target`` in the disguise ``wrapper``. ``pool`` makes the thief's. ``thieves``: those
    of THIEVES who can carry it out: one who reads labels alone has nothing to recover, and a tree tells its leaves."""

    title: str
    attack: str
    target: Model
    pool: Any = None
    wrapper: str = PLAIN
    thieves: Sequence[str] = THIEVES


THEFTS = (
    Theft("JBDA, digits network", "jbda", DIGITS),
    Theft("JBDA with three dummies a query, digits network", "jbda", DIGITS, wrapper="dummies-3-to-1"),
    Theft("Knockoff, foreign images, digits network", "knockoff random", DIGITS, foreign),
    Theft("Knockoff, natural images, MNIST network", "knockoff random", MNIST, natural),
    Theft("equation solving, softmax on digits", "equation solving", SOFTMAX),
    Theft("line search, logistic regression", "line-search retraining", PLANE, thieves=("as served", "averaging")),
    Theft("path finding, decision tree", "path finding bottom-up", TREE, thieves=("as served",)),
)

_SLOW = {"action": "slow", "parameters": {"queries_per_second": 1}}
_DEFAULT = (
    {"name": "content", "families": ["content"], "review": True, "rungs": [_SLOW]},
    {"name": "default", "rungs": [_SLOW, {"action": "refuse", "after_queries": 50}]},
)
"""As ``detector.policy.ladder.default_ladder`` has it."""


def _rung(action: str) -> tuple[dict[str, Any], ...]:
    return ({"name": action, "rungs": [_SLOW if action == "slow" else {"action": action}]},)


BUDGETED = "ladder and budget"
BUDGET = 150.0
"""Effective queries for life: half as many again as an honest client asks here."""
RULES: Mapping[str, Sequence[dict[str, Any]]] = {
    "observe": _DEFAULT,
    "slow": _rung("slow"),
    "round": _rung("round"),
    "label_only": _rung("label_only"),
    "perturb": _rung("perturb"),
    "refuse": _rung("refuse"),
    "ladder": _DEFAULT,
    BUDGETED: ({"name": "budget", "signals": ["budget"], "review": True, "rungs": [_SLOW]}, *_DEFAULT),
}
"""The rules of the ladder for the models under each defence; one more is one more entry."""
CHANGING = {"round": "round", "label_only": "label_only", "perturb": "modelguard_w"}
"""Defences that change answers, and by which response."""
NONE = "no defence"
TESTED = "tested"
DEFENCES = (NONE, *RULES)


def name_of(target: Model, defence: str) -> str:
    return f"{' '.join(target)} {defence}".replace(" ", "-")


def models_of(defences: Sequence[str]) -> dict[str, Model]:
    targets = dict.fromkeys(theft.target for theft in THEFTS)
    return {name_of(target, defence): target for defence in defences for target in targets}


def policy() -> PolicySettings:
    """One policy for all: the rules of each defence hold for its models."""
    ladder = [
        {**rule, "name": f"{defence} {rule['name']}", "models": list(models_of([defence]))}
        for defence, rules in RULES.items()
        for rule in rules
    ]
    modes = dict.fromkeys(models_of(["observe"]), "observe")
    budget = {"name": "account", "for_life": BUDGET, "models": list(models_of([BUDGETED]))}
    return PolicySettings.model_validate(
        {
            "mode": "enforce",
            "model_modes": modes,
            "signal_modes": {"group": "observe"},
            "ladder": ladder,
            "budgets": [budget],
        }
    )


@cache
def yardstick_of(target: Model) -> Yardstick:
    dataset, victim = victim_of(*target)
    return Yardstick.of(victim, dataset, 0)


@cache
def honest_of(target: Model) -> list[Account]:
    """Of rows that the profile has not."""
    return honest(*victim_of(*target), 1, HONEST, SEED + 1)


def profiles(target: Model) -> Iterator[Profile]:
    """One for each guarded model, from honest accounts whose rows nobody asks later."""
    dataset, victim = victim_of(*target)
    accounts = honest(dataset, victim, 0, CALIBRATION, SEED)
    made = calibrate([account.queries for account in accounts], 0.01).profile
    rows = dataset.training.features
    validation = Validation.of(rows, victim.probabilities(rows).argmax(axis=1))  # budgets need one
    for defence in RULES:
        one = replace(made, model=name_of(target, defence), model_version=VERSION, crowd=None)
        yield replace(one, validation=validation) if defence == BUDGETED else one


class Outcome(NamedTuple):
    """Natural and uniform fidelity (n, 2) at each of the checkpoints, NaN without a clone; the rows ``answered``."""

    fidelity: NDArray[np.float64]
    answered: int


def steal(served: Served, theft: Theft, defence: str, thief: str, checkpoints: Sequence[int]) -> Outcome:
    """Carries out ``theft`` as ``thief``, one of THIEVES, until it is done or turned away."""
    dataset, _ = victim_of(*theft.target)
    knowledge = Knowledge.of(dataset, theft.pool and theft.pool(dataset))
    caller = Caller(served, name_of(theft.target, defence), f"{theft.attack} {theft.wrapper} {thief}".replace(" ", "-"))
    asked = adapted(thief, caller, defence, knowledge)
    repeats = REPEATS if thief == "averaging" else 1
    attacker = ATTACKS[theft.attack](knowledge, checkpoints[-1] // repeats, SEED)
    disguise = WRAPPERS[theft.wrapper](dataset, PAUSE, SEED)
    clones = clones_at(attacker, asked, disguise, [checkpoint // repeats for checkpoint in checkpoints])
    measured = [(np.nan, np.nan) if clone is None else _fidelity(theft.target, clone) for clone in clones]
    return Outcome(np.array(measured), caller.answered)


def _fidelity(target: Model, clone: Classifier) -> tuple[float, float]:
    found = yardstick_of(target).measure(clone, 0)
    return found.test, found.uniform


def adapted(thief: str, caller: Caller, defence: str, knowledge: Knowledge) -> Victim:
    """What ``thief`` makes of the answers."""
    if thief == THIEVES[0]:
        return caller
    recover: Recover = labels_only if thief == "labels only" else as_served
    response = RESPONSES[CHANGING.get(defence, "round")]
    if thief == "learned recovery":
        recover = learned(response, knowledge.classes, SEED)
    if thief == "partial Bayes":
        recover = partial_bayes(response, knowledge.classes, SEED)
    repeats = REPEATS if thief == "averaging" else 1
    return Countered(caller, recover, repeats, knowledge.high - knowledge.low, SEED)


def clones_at(
    attacker: Attacker, victim: Victim, disguise: Disguise, checkpoints: Sequence[int]
) -> Iterator[Classifier | None]:
    """The clones after each of ``checkpoints`` queries, cover included; None where there can be none yet. One who is
    turned away asks no more."""
    sent, over = 0, False
    stream = disguise.wrap(attacker.next_batch())
    for checkpoint in checkpoints:
        while sent < checkpoint and not over:
            if not len(stream):
                stream = disguise.wrap(attacker.next_batch())
            count = min(STEP, checkpoint - sent)
            part, stream = stream.take(slice(count)), stream.take(slice(count, None))
            over = not len(part) or not _asked(attacker, victim, part)
            sent += len(part)
        try:
            yield attacker.clone()
        except LabError:
            yield None


def _asked(attacker: Attacker, victim: Victim, part: SentQueries) -> bool:
    """Whether ``victim`` answered ``part``, from which ``attacker`` learns."""
    try:
        answers = victim.answer(part.features)
    except TurnedAwayError:
        return False
    own = np.flatnonzero(~part.cover)
    attacker.observe(part.features[own], answers.take(own))
    return True


class Effect(NamedTuple):
    """On honest clients. ``touched`` of HONEST got a decision of the defence. Under it, on inputs held out: the change
    of accuracy, the mean L1 distance from the model's answers and the share of labels changed."""

    touched: int
    accuracy: float = 0.0
    distance: float = 0.0
    labels: float = 0.0


Figures = Mapping[tuple[Theft, str, str], Outcome]
Effects = Mapping[tuple[Model, str], Effect]
Waits = Mapping[Model, Mapping[str, NDArray[np.float64]]]
"""Milliseconds by model and defence."""


def ask_honestly(served: Served, target: Model, defence: str, number: int) -> None:
    """One honest client at work, until done or turned away."""
    caller = Caller(served, name_of(target, defence), f"honest-{number}")
    rows = honest_of(target)[number].queries.features[:HONEST_ROWS]
    try:
        for at in range(0, len(rows), STEP):
            caller.answer(rows[at : at + STEP])
    except TurnedAwayError:
        return


def effect_on(served: Served, gate: Gate, target: Model, defence: str) -> Effect:
    """``gate`` tells which accounts have a decision; the effect is measured by an account that got it by command."""
    model = name_of(target, defence)
    verdicts = [gate.check(model, f"honest-{number}") for number in range(HONEST)]
    touched = sum(verdict.decision_id is not None for verdict in verdicts)
    if defence not in CHANGING:
        return Effect(touched)
    dataset, victim = victim_of(*target)
    rows, truth = dataset.test.features[:TESTED_ROWS], dataset.test.labels[:TESTED_ROWS]
    own, got = victim.probabilities(rows), Caller(served, model, TESTED).probabilities(rows)
    labels, said = own.argmax(axis=1), got.argmax(axis=1)
    return Effect(
        touched,
        float((said == truth).mean() - (labels == truth).mean()),
        float(np.abs(own - got).sum(axis=1).mean()),
        float((labels != said).mean()),
    )


def latencies(served: Served, target: Model) -> dict[str, NDArray[np.float64]]:
    """The milliseconds that an answer to one row took under each defence: of honest clients, or of the account that is
    under it where it changes answers. Each row is asked under all of them, in an order drawn anew, so that what else
    goes on, and what the answer before left to do, delays all alike."""
    taken: dict[str, list[float]] = {defence: [] for defence in DEFENCES}
    rng = np.random.default_rng(SEED)
    for number in range(HONEST):
        name = f"honest-{number}"
        callers = {
            defence: Caller(served, name_of(target, defence), TESTED if defence in CHANGING else name)
            for defence in DEFENCES
        }
        for row in honest_of(target)[number].queries.features[:TIMED_ROWS, None]:
            for defence in rng.permutation(DEFENCES):
                taken[defence].append(1_000 * callers[defence].seconds(row))
    return {defence: np.array(own) for defence, own in taken.items()}


def rows_of_waits(waits: Waits) -> Iterator[list[str]]:
    """Of all models together."""
    every = {defence: np.concatenate([wait[defence] for wait in waits.values()]) for defence in DEFENCES}
    plain = np.percentile(every[NONE], (50, 99))
    for defence, own in every.items():
        spent = np.percentile(own, (50, 99))
        added = ["", ""] if defence == NONE else [f"{one:+.1f}" for one in spent - plain]
        yield [_shown(defence), f"{len(own):,}", *(f"{one:.1f}" for one in spent), *added]


def put_under(connection: Connection, gate: Gate) -> None:
    """Orders each defence that changes answers against the account TESTED, and waits until ``gate`` has it."""
    producer = connection.producer()
    for defence in CHANGING:
        for model in models_of([defence]):
            order = Command(
                *(model, "add", time.time(), "benchmark", model, TESTED, ""),
                *(make_action(defence), "enforce", ORDERED_SECONDS),
            )
            place = partition_of(TESTED, PARTITIONS)
            producer.send(connection.topics.commands, encode(order), TESTED.encode(), partition=place).get(30)
    producer.close()
    wanted = [model for defence in CHANGING for model in models_of([defence])]
    wait_until("the orders obeyed", lambda: all(gate.check(model, TESTED).graded for model in wanted), 60)


def thieves_of(theft: Theft, defence: str) -> Sequence[str]:
    """Those who carry out ``theft`` anew under ``defence``. Whoever reads labels alone gets the same under all that
    keeps labels as under none."""
    wanted: Sequence[str] = {NONE: THIEVES[:2], "label_only": (THIEVES[0], THIEVES[2])}.get(defence, THIEVES[:1])
    if defence in CHANGING and defence != "label_only":
        wanted = [thief for thief in THIEVES if thief != THIEVES[1]]
    return [thief for thief in wanted if thief in theft.thieves]


def by_thief(theft: Theft, defence: str, found: Figures) -> dict[str, Outcome]:
    """The outcome of each thief, the one who takes answers as served first."""
    own = {thief: found[theft, defence, thief] for thief in thieves_of(theft, defence)}
    if defence in CHANGING and THIEVES[1] in theft.thieves:
        own[THIEVES[1]] = found[theft, NONE, THIEVES[1]]
    return own


def best_of(outcomes: Mapping[str, Outcome]) -> tuple[str, NDArray[np.float64]]:
    """Who has the best natural fidelity at the end, and the best figures at each of the checkpoints."""
    name = max(outcomes, key=lambda thief: np.nan_to_num(outcomes[thief].fidelity[-1, 0]))
    return name, np.fmax.reduce([one.fidelity for one in outcomes.values()])


def rows_of(found: Figures, effects: Effects, waits: Waits) -> Iterator[list[str]]:
    for theft in THEFTS:
        spent = waits[theft.target]
        for defence in DEFENCES:
            outcomes = by_thief(theft, defence, found)
            served, (name, best) = outcomes[THIEVES[0]], best_of(outcomes)
            pairs = zip(served.fidelity[len(EARLY) :].ravel(), best[len(EARLY) :].ravel(), strict=True)
            effect = effects[theft.target, defence]
            changes = [f"{100 * effect.accuracy:+.1f}", f"{effect.distance:.2f}", percent(effect.labels)]
            yield [
                theft.title,
                _shown(defence),
                f"{served.answered:,}",
                *(f"{_percent(one)} / {_percent(other)}" for one, other in pairs),
                name,
                f"{effect.touched} of {HONEST}",
                *(changes if defence in CHANGING else ("", "", "")),
                "" if defence == NONE else f"{np.median(spent[defence]) - np.median(spent[NONE]):+.1f}",
            ]


def _shown(defence: str) -> str:
    return f"`{defence}`" if defence in RULES else defence


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else percent(share)


def panels(found: Figures, checkpoints: Sequence[int]) -> list[Panel]:
    """Natural fidelity of the best thief: under no defence, under the response that costs most, and the ladder; with a
    budget, where that ends the theft earlier."""
    drawn = []
    for theft in THEFTS:
        best = {name: best_of(by_thief(theft, name, found))[1][:, 0] for name in DEFENCES}
        names = dict.fromkeys((NONE, min(CHANGING, key=lambda name: best[name][-1]), "ladder"))
        lines = [_line(name, checkpoints, best[name]) for name in names]
        if not np.array_equal(best[BUDGETED], best["ladder"], equal_nan=True):
            lines.append(_line("with budget", checkpoints, best[BUDGETED]))
        drawn.append(Panel(theft.title, lines))
    return drawn


def _line(name: str, checkpoints: Sequence[int], shares: NDArray[np.float64]) -> Line:
    known = [(at, 100 * share) for at, share in zip(checkpoints, shares.tolist(), strict=True) if not math.isnan(share)]
    return Line(name, *zip(*known, strict=True))


def measured(broker: str, checkpoints: Sequence[int]) -> tuple[Figures, Effects, Waits]:
    """All thefts and honest clients, on one server."""
    guarded, targets = list(models_of([*RULES])), dict.fromkeys(theft.target for theft in THEFTS)
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for target in targets:
            for profile in profiles(target):
                files.append(Path(folder) / f"{profile.model}.profile")
                files[-1].write_bytes(profile.to_bytes())
        detection = DetectionSettings(profiles=tuple(files))
        with service(broker, PARTITIONS, detection=detection, policy=policy()) as detector:
            detector.worker.start()
            kafka = detector.settings.kafka
            connection = Connection(",".join(kafka.servers), kafka.topics, kafka.client_arguments())
            detector.wait_ready()
            with (
                serving(connection, detector.worker.url, models_of(DEFENCES), guarded) as served,
                Gate(connection, responder=Responder(b"0123456789abcdef")) as gate,
                ThreadPoolExecutor(_AT_ONCE) as pool,
            ):
                put_under(connection, gate)
                for target in targets:  # once, not in every thread
                    honest_of(target), yardstick_of(target)
                clients = [
                    pool.submit(ask_honestly, served, target, defence, number)
                    for target in targets
                    for defence in RULES
                    for number in range(HONEST)
                ]
                calls = [
                    (theft, defence, thief)
                    for theft in THEFTS
                    for defence in DEFENCES
                    for thief in thieves_of(theft, defence)
                ]
                thefts = {call: pool.submit(steal, served, *call, checkpoints) for call in calls}
                for client in clients:
                    client.result()
                found = {call: theft.result() for call, theft in thefts.items()}
                effects = {
                    (target, defence): effect_on(served, gate, target, defence)
                    for target in targets
                    for defence in RULES
                }
                effects |= {(target, NONE): Effect(0) for target in targets}
                return found, effects, {target: latencies(served, target) for target in targets}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--broker", choices=BROKERS, default="embedded")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    started = time.monotonic()
    shown = (500, 2_000, 5_000) if arguments.full else (500, 2_000)
    checkpoints = (*EARLY, *shown)
    found, effects, waits = measured(arguments.broker, checkpoints)
    columns = (
        *("theft", "defence", "answers"),
        *(f"{what} at {at:,}" for at in shown for what in ("natural", "uniform")),
        *("best thief", "honest accounts touched", "honest accuracy", "L1", "labels changed"),
        "ms more",
    )
    print(table(columns, rows_of(found, effects, waits)))
    columns = ("defence", "answers", "ms, median", "ms, p99", "median added", "p99 added")
    print(table(columns, rows_of_waits(waits)))
    print(f"\n{time.monotonic() - started:.0f} s")
    if arguments.picture:
        text = picture(panels(found, checkpoints), "Natural fidelity of the best thief")
        arguments.picture.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
