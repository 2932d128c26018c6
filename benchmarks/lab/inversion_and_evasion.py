"""Model inversion of the digits network, and evasion of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.lab._markdown import percent, table
from benchmarks.lab._workers import Workers
from detector.lab.answers import Victim
from detector.lab.attackers.attacker import Knowledge, run_offline
from detector.lab.attackers.evasion import BoundaryWalk, FiniteDifferences
from detector.lab.attackers.model_inversion import ModelInversion
from detector.lab.fidelity import agreement
from detector.lab.victims.digits import CLASSES, DigitsVictim, load_split
from tests.lab.coarser import LabelOnly

INPUTS = 10
PLENTY = 50_000
EVASIONS = {"finite differences": FiniteDifferences, "boundary walk": BoundaryWalk}


def inverted() -> tuple[int, float, int, float]:
    """Queries; least confidence in a recovered input; how many of those are most like their own class's mean image
    among unseen digits, by correlation; agreement of the clone that names the class whose input is nearest."""
    split = load_split()
    victim = DigitsVictim(split.training)
    thief = ModelInversion(Knowledge.of(split), PLENTY, 0)
    queries = run_offline(thief, victim)
    sure = victim.probabilities(thief.recovered.astype(np.float32)).diagonal().min()
    rows, labels = split.test.features, split.test.labels
    means = np.stack([rows[labels == label].mean(axis=0) for label in range(CLASSES)])
    closest = np.corrcoef(thief.recovered, means)[:CLASSES, CLASSES:].argmax(axis=1)
    return queries, float(sure), int((closest == np.arange(CLASSES)).sum()), agreement(victim, thief.clone(), rows)


def evaded(name: str, labels_only: bool) -> tuple[int, float, float]:
    """How many of ten digits are named otherwise in the end, queries a digit, and their median distance or nan."""
    split = load_split()
    plain = DigitsVictim(split.training)
    victim: Victim = LabelOnly(plain) if labels_only else plain
    knowledge = Knowledge.of(split)
    thief = EVASIONS[name](replace(knowledge, natural=knowledge.natural[:INPUTS]), PLENTY, 0)
    queries = run_offline(thief, victim)
    distance = float(np.median(thief.distances())) if thief.found else float("nan")
    return len(thief.found), queries / INPUTS, distance


def tables(workers: Workers) -> str:
    queries, sure, closest, agreed = workers.each(inverted, [()])[0]
    calls = [(name, labels_only) for name in EVASIONS for labels_only in (False, True)]
    evasions = [
        (name, "label only" if labels_only else "exact", f"{count}", f"{each:,.0f}", "" if count == 0 else f"{far:.2f}")
        for (name, labels_only), (count, each, far) in zip(calls, workers.each(evaded, calls), strict=True)
    ]
    inversion = (f"{queries:,}", percent(sure), f"{closest} of {CLASSES}", percent(agreed))
    return "\n\n".join(
        [
            table(("inversion, queries", "least sure of", "closest to its own class", "1 - R_test"), [inversion]),
            table(("evasion", "answers", f"turned, of {INPUTS}", "queries each", "median distance"), evasions),
        ]
    )
