"""Recorded traces: calibrate on every second honest account of each victim, judge the others and the attacks.

A folder of NAME.npz: ``user`` (n,), ``x`` (n, d), ``probs`` (n, k) in query order and ``meta``, JSON with ``victim``
and ``is_attack``. Honest accounts are taken in order of first appearance. Run: python -m benchmarks.recorded FOLDER
[--budget 0.01]
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks._detecting import Account, Verdict, account, judge, told_apart
from detector.core.calibration.calibrate import FlaggedRate, calibrate


@dataclass(slots=True)
class Victim:
    """``honest`` accounts in order of appearance; the accounts of each attack by the name of its recording."""

    honest: list[Account] = field(default_factory=list)
    attacks: dict[str, list[Account]] = field(default_factory=dict)


def read(folder: Path) -> dict[str, Victim]:
    """The recordings in ``folder`` by victim."""
    victims: dict[str, Victim] = defaultdict(Victim)
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as data:
            meta = json.loads(str(data["meta"]))
            users, features, outputs = data["user"], data["x"], data["probs"]
        kinds = meta.get("user_kind", {})
        names, first = np.unique(users, return_index=True)
        accounts = [
            account(str(name), kinds.get(str(name), path.stem), features[users == name], outputs[users == name])
            for name in names[np.argsort(first)]
        ]
        victim = victims[meta["victim"]]
        if meta["is_attack"]:
            victim.attacks[path.stem] = accounts
        else:
            victim.honest += accounts
    return dict(victims)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--budget", type=float, default=0.01)
    options = parser.parse_args()
    flagged, judged, firsts, lines = [], 0, [], []
    for name, victim in read(options.folder).items():
        accounts, others = [own.queries for own in victim.honest[::2]], victim.honest[1::2]
        profile = calibrate(accounts, options.budget).profile
        verdicts = {own.name: judge(own, profile) for own in others}
        flagged += [f"{name} {who} (query {verdict.first})" for who, verdict in verdicts.items() if verdict.first]
        judged += len(others)
        for attack, thieves in victim.attacks.items():
            told = [judge(thief, profile) for thief in thieves]
            alone = [judge(thief, None) for thief in thieves]
            if len(thieves) == 1:
                firsts.append(told[0].first)
            lines.append(_line(attack, thieves, told, alone, others))
    print("| recording | accounts | queries | `prada` alone | calibrated | evidence | separable |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(lines))
    low, high = FlaggedRate(len(flagged), judged).interval
    print(f"\nhonest accounts flagged: {len(flagged)} of {judged} (95 percent interval {low:.1%} to {high:.1%})")
    print("\n".join(flagged))
    found = [first for first in firsts if first]
    print(f"attacks of one account found: {len(found)} of {len(firsts)}, median first query {median(found):.0f}")


def _line(attack: str, thieves: list[Account], told: list[Verdict], alone: list[Verdict], honest: list[Account]) -> str:
    missed = any(verdict.first is None for verdict in told)
    apart = f"{told_apart(_joined(thieves), honest, np.random.default_rng(0)):.2f}" if missed else ""
    evidence = next((", ".join(verdict.evidence) for verdict in told if verdict.first), "")
    queries = sum(len(thief.queries) for thief in thieves)
    return f"| {attack} | {len(thieves)} | {queries:,} | {_firsts(alone)} | {_firsts(told)} | {evidence} | {apart} |"


def _firsts(verdicts: list[Verdict]) -> str:
    """When, for one account; how many of several, and when the first."""
    found = [verdict.first for verdict in verdicts if verdict.first]
    if len(verdicts) == 1:
        return str(found[0]) if found else "missed"
    return f"{len(found)} of {len(verdicts)}" + (f", first at {min(found)}" if found else "")


def _joined(accounts: list[Account]) -> Account:
    features = np.concatenate([account.queries.features for account in accounts])
    outputs = np.concatenate([account.queries.outputs for account in accounts])
    return account("group", accounts[0].kind, features, outputs)


if __name__ == "__main__":
    main()
