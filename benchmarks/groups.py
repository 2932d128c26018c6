"""Thieves with many accounts, each in one stream with honest accounts: who is found alone, and which groups.

For each victim 50 honest accounts calibrate and 120 others, of the same habits, are judged: alone, and with each attack
dealt to 5, 20, 100 and 400 accounts in turn or in blocks. A campaign is caught in time before the clone first has 90
percent of its final agreement on uniform inputs. That may be chance, as a clone that names one class agrees on nearly
all of them: it has 90 percent *for good* once it keeps them on uniform and on natural inputs. For attacks not caught in
time, *separable* says how well a classifier tells the queries until then from honest ones (0.5 is chance).

With ``--newcomers`` it compares the groups with statistics of pooled first queries (``_newcomers``).
With ``--recorded FOLDER`` (see ``benchmarks.recorded``) the colluding runs in it are judged among all honest accounts
of their victim that did not calibrate. With ``--scale`` it prints what groups cost. Run: python -m benchmarks.groups
[--recorded FOLDER | --populations | --newcomers | --scale] [DATASET:VICTIM ...]
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks._group_scale import scale
from benchmarks._newcomers import newcomers
from benchmarks.calibrated import SEED, honest
from benchmarks.recorded import read
from detector.contracts.batches import cut, take
from detector.contracts.queries import QueryBatch
from detector.core.calibration.calibrate import FlaggedRate, calibrate
from detector.core.engine import Engine, EngineConfig
from detector.core.profile import Profile
from detector.groups.calibration import crowd_of
from detector.lab.experiment import AttackPlan, session_of, thief_trace, victim_of
from detector.lab.fidelity import Fidelity, Yardstick
from detector.lab.session import InProcess
from detector.replay.groups import GroupReplay

from benchmarks._detecting import Account, account, told_apart  # isort: skip

TARGETS = {
    "categorical:decision tree": (
        "path finding bottom-up",
        "path finding top-down",
        "uniform retraining",
        "knockoff random",
    ),
    "breast cancer:logistic regression": (
        *("equation solving", "uniform retraining", "line-search retraining", "adaptive retraining", "lowd-meek"),
    ),
    "digits:multilayer perceptron": (
        *("jbda", "t-rnd-fgsm", "knockoff random", "equation solving", "line-search retraining", "cloudleak pgd"),
    ),
    "mnist:convolutional network": ("jbda", "knockoff random", "uncertainty", "line-search retraining"),
}
SCALED = "digits:multilayer perceptron"
ACCOUNTS = (5, 20, 100, 400)
BUDGET, CALIBRATION, JUDGED, LONGEST = 1_000, 50, 120, 300
POPULATION, POPULATIONS = 300, 10


@dataclass(frozen=True, slots=True)
class Outcome:
    """``begun``: the union's query at which each account of the ring began. ``alone``: that at which each became a
    suspect itself, by account. ``found``: that at which each became one or joined a group. ``honest``: honest accounts
    in groups, and ``beyond``: those of them in groups that showed more than content. ``cpu``: seconds of the engine and
    of the groups."""

    begun: list[int]
    alone: dict[int, int]
    found: dict[int, int]
    honest: int
    beyond: int
    cpu: tuple[float, float]

    def caught(self, share: float) -> int | None:
        """The union's first query at which ``share`` of the accounts that had begun were found."""
        for count, query in enumerate(sorted(self.found.values()), 1):
            if count >= share * sum(begun <= query for begun in self.begun):
                return query
        return None


def stream(accounts: Sequence[QueryBatch], spans: Sequence[tuple[float, float]]) -> QueryBatch:
    """All queries of ``accounts`` in order of time, each account's evenly over its of ``spans``."""
    when = [
        low + (high - low) * (np.arange(len(account)) + 0.5) / len(account)
        for account, (low, high) in zip(accounts, spans, strict=True)
    ]
    whose = np.repeat(np.arange(len(accounts)), [len(account) for account in accounts])
    order = np.lexsort((whose, np.concatenate(when)))
    masked = any(account.missing is not None for account in accounts)
    missing = [
        np.zeros(account.features.shape, np.bool_) if account.missing is None else account.missing
        for account in accounts
    ]
    return replace(
        accounts[0],
        event_ids=[""] * len(order),
        occurred_at=np.concatenate(when)[order],
        principals=[str(at) for at in range(len(accounts))],
        principal_index=whose[order].astype(np.int32),
        features=np.concatenate([account.features for account in accounts])[order],
        outputs=np.concatenate([account.outputs for account in accounts])[order],
        missing=np.concatenate(missing)[order] if masked else None,
    )


def judged(profile: Profile, others: Sequence[QueryBatch], ring: Sequence[QueryBatch], length: int) -> Outcome:
    """The outcome of a ``ring`` with ``length`` queries among the honest accounts ``others``, who begin before its
    middle."""
    rng, first = np.random.default_rng(SEED), len(others)
    spans = [(float(start), float(length)) for start in rng.random(first) * length / 2]
    log = stream([*others, *ring], spans + [(float(at), float(length)) for at in range(len(ring))])
    engine, groups = Engine(EngineConfig(profiles=(profile,))), GroupReplay((profile,))
    asked = np.cumsum(log.principal_index >= first)
    alone: dict[int, int] = {}
    joined: dict[int, int] = {}
    beyond = set[int]()
    cpu = [0.0, 0.0]
    for start in range(0, len(log), 512):
        piece = cut(log, start, min(start + 512, len(log)))
        before = time.process_time()
        observation = engine.observe([piece])
        between = time.process_time()
        seen = groups.observe(observation)
        cpu[0] += between - before
        cpu[1] += time.process_time() - between
        for finding in observation.findings:
            alone.setdefault(int(finding.principal), int(asked[start + finding.row]))
        for _, _, revision in seen.revisions:
            for name in revision.joined:
                joined.setdefault(int(name), int(asked[start + revision.row]))
            beyond |= {int(name) for name in revision.joined if revision.family != "content"}
    members = range(first, first + len(ring))
    return Outcome(
        [int(asked[np.argmax(log.principal_index == at)]) for at in members],
        {at: query for at, query in alone.items() if at >= first},
        {at: min(alone.get(at, length), joined.get(at, length)) for at in members if at in alone or at in joined},
        sum(at < first for at in joined),
        sum(at < first for at in beyond),
        (cpu[0], cpu[1]),
    )


def dealt(queries: QueryBatch, accounts: int, how: str) -> list[QueryBatch]:
    """``queries`` dealt to ``accounts`` accounts: in ``turn``, or in ``blocks`` of neighbours."""
    rows = np.arange(len(queries))
    whose = rows % accounts if how == "turn" else rows * accounts // len(queries)
    return [take(queries, rows[whose == at]) for at in range(accounts) if (whose == at).any()]


@dataclass(frozen=True, slots=True)
class Row:
    """One campaign: whether it was caught before the clone had 90 percent of its final fidelity, at first and for good,
    whether 80 percent of the accounts became suspects themselves, and its line of the table."""

    in_time: bool
    for_good: bool
    alone: bool
    accounts: int
    line: str


def fidelities(curve: Sequence[Fidelity], queries: int) -> tuple[int, int]:
    """The queries, of all ``queries``, at which the clone first has 90 percent of its final agreement on uniform
    inputs, and from which on it keeps 90 percent of it, and of that on natural ones."""
    reached = [(point.uniform >= 0.9 * curve[-1].uniform, point.test >= 0.9 * curve[-1].test) for point in curve]
    first = next((point.queries for point, own in zip(curve, reached, strict=True) if own[0]), queries)
    lasting = sum(all(all(own) for own in reached[at:]) for at in range(len(curve)))
    return first, curve[-lasting].queries if lasting else queries


def carried_out(target: str, attack: str) -> tuple[Account, list[Fidelity]]:
    """The queries of an attack, and the clone's fidelity after more and more of them."""
    data, _, model = target.partition(":")
    dataset, victim = victim_of(data, model)
    plan = AttackPlan(attack, model, data, budget=BUDGET, seed=SEED)
    session = session_of(plan, dataset, InProcess(victim), Yardstick.of(victim, dataset, 0))
    session.run()
    trace = thief_trace(attack, session)
    return account("thief", attack, trace.features, trace.outputs), session.curve


def one_each(target: str, profile: Profile, others: Sequence[QueryBatch]) -> str:
    """What is found of as many accounts as a linear model has unknowns, each with one query to solve its equations."""
    queries = carried_out(target, "equation solving")[0].queries
    count = queries.features.shape[1] + 1
    own = judged(profile, others, dealt(cut(queries, 0, count), count, "turn"), count)
    named = f"{own.caught(0.8) or 'never'}; found {len(own.found)} of {count}, and {own.honest} honest accounts"
    return f"{count} accounts of one query that solve equations: 80% found as of query {named}"


def campaign(target: str, attack: str, profile: Profile, others: Sequence[QueryBatch]) -> list[Row]:
    """One attack, dealt in each way."""
    data = target.partition(":")[0]
    thief, curve = carried_out(target, attack)
    queries = thief.queries
    late, too_late = fidelities(curve, len(queries))
    known, rows = [Account("", "", own) for own in others], list[Row]()
    apart = told_apart(replace(thief, queries=cut(queries, 0, late)), known, np.random.default_rng(0))
    for accounts in ACCOUNTS:
        for how in ("turn", "blocks"):
            ring = dealt(queries, accounts, how)
            own = judged(profile, others, ring, len(queries))
            caught = own.caught(0.8)
            in_time, for_good = (caught is not None and caught <= end for end in (late, too_late))
            found = f"{len(own.found)} of {len(ring)}"
            separable = "" if in_time else f"{apart:.2f}"
            cells = (
                attack,
                data,
                how,
                len(own.alone),
                caught or "**missed**",
                late,
                too_late,
                found,
                own.honest,
                separable,
            )
            line = f"| {' | '.join(str(cell) for cell in cells)} |"
            rows.append(Row(in_time, for_good, len(own.alone) >= 0.8 * len(ring), accounts, line))
    return rows


def calibrated(accounts: Sequence[QueryBatch]) -> Profile:
    made = calibrate(accounts, 0.01)
    return replace(made.profile, crowd=crowd_of(made, accounts))


def profile_of(target: str) -> Profile:
    """The profile of a victim, of 50 honest accounts."""
    dataset, victim = victim_of(*target.split(":"))
    given = [own.queries for own in honest(dataset, victim, 0, CALIBRATION, SEED)]
    return calibrated([replace(own, principals=[str(at)]) for at, own in enumerate(given)])


def of_target(target: str, progress: Progress) -> Iterator[Row]:
    """The rows of one victim; first prints what honest accounts alone give."""
    dataset, victim = victim_of(*target.split(":"))
    profile = profile_of(target)
    accounts = [own.queries for own in honest(dataset, victim, 1, JUDGED, SEED + 1)]
    others = [cut(account, 0, min(len(account), LONGEST)) for account in accounts]
    alone = judged(profile, others, [], BUDGET)
    share = alone.cpu[1] / alone.cpu[0]
    print(f"{target}: {alone.honest} of {JUDGED} honest accounts in a group; CPU of groups {share:.0%} of the engine's")
    if "equation solving" in TARGETS[target]:
        print(one_each(target, profile, others))
    task = progress.add_task(f"campaigns on {target}", total=len(TARGETS[target]))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as workers:
        futures = [workers.submit(campaign, target, attack, profile, others) for attack in TARGETS[target]]
        for future in futures:
            yield from future.result()
            progress.advance(task)


def populations(target: str, progress: Progress) -> None:
    """Prints how many accounts of ten honest populations of 300 are ever in a group."""
    dataset, victim = victim_of(*target.split(":"))
    profile = profile_of(target)
    task = progress.add_task(f"populations of {target}", total=POPULATIONS)
    found, beyond = 0, 0
    for seed in range(SEED + 1, SEED + 1 + POPULATIONS):
        accounts = [own.queries for own in honest(dataset, victim, 1, POPULATION, seed)]
        own = judged(profile, accounts, [], BUDGET)
        found, beyond = found + own.honest, beyond + own.beyond
        progress.advance(task)
    low, high = FlaggedRate(found, POPULATION * POPULATIONS).interval
    print(f"{target}: {found} of {POPULATION * POPULATIONS:,} honest accounts in a group ({low:.2%} to {high:.2%})")
    print(f"of these, in groups that showed more than content: {beyond}")


def pooled(target: str) -> None:
    """Prints how few thieves among a hundred newcomers are found."""
    dataset, victim = victim_of(*target.split(":"))
    given = [own.queries for own in honest(dataset, victim, 0, CALIBRATION, SEED)]
    fresh = ([own.queries for own in honest(dataset, victim, 1, POPULATION, SEED + 1 + seed)] for seed in range(10))
    attacks = {attack: carried_out(target, attack)[0].queries for attack in TARGETS[target]}
    newcomers(target, profile_of(target), given, list(fresh), attacks)


def recorded(folder: Path) -> None:
    """Prints the colluding runs in ``folder``: members and honest accounts in groups, and when."""
    print("| recording | accounts | queries | suspects alone | caught | 90 percent found | found | honest in groups |")
    print("|---|---|---|---|---|---|---|---|")
    for victim in read(folder).values():
        given = [replace(own.queries, principals=[own.name]) for own in victim.honest[::2]]
        profile, others = calibrated(given), [own.queries for own in victim.honest[1::2]]
        for name, ring in victim.attacks.items():
            if len(ring) == 1:
                continue
            length = sum(len(own.queries) for own in ring)
            own = judged(profile, others, [each.queries for each in ring], length)
            ordered = sorted(own.found.values())
            count = int(np.ceil(0.9 * len(ring)))
            most = ordered[count - 1] if len(ordered) >= count else "missed"
            alone = f"{len(own.alone)} of {len(ring)}"
            cells = (name, len(ring), length, alone, own.caught(0.8) or "missed", most, len(own.found), own.honest)
            print(f"| {' | '.join(str(cell) for cell in cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=list(TARGETS))
    parser.add_argument("--recorded", type=Path)
    parser.add_argument("--populations", action="store_true", help="ten honest populations of 300 accounts")
    parser.add_argument("--newcomers", action="store_true", help="what statistics of pooled first queries find")
    parser.add_argument("--scale", action="store_true", help=f"what groups cost, on {SCALED}")
    options = parser.parse_args()
    if options.recorded:
        recorded(options.recorded)
        return
    if options.scale:
        scale(SCALED, profile_of(SCALED))
        return
    rows: list[Row] = []
    with Progress(console=Console(stderr=True)) as progress:
        if options.populations or options.newcomers:
            for target in options.targets:
                populations(target, progress) if options.populations else pooled(target)
            return
        for target in options.targets:
            rows += of_target(target, progress)
    columns = "suspects alone | caught | clone has 90% | for good | found | honest in groups | separable"
    print(f"| attack | data | dealt in | {columns} |\n{'|---' * 10}|")
    print("\n".join(row.line for row in rows))
    for accounts in ACCOUNTS:
        own = [row for row in rows if row.accounts == accounts]
        caught, for_good, alone = (
            sum(each) for each in zip(*((row.in_time, row.for_good, row.alone) for row in own), strict=True)
        )
        before = f"{for_good} before the clone has 90% for good"
        print(f"{accounts} accounts: {caught} of {len(own)} in time, {before}; by the accounts alone {alone}")


if __name__ == "__main__":
    main()
