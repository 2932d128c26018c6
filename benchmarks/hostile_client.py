"""A thief over HTTP, behind the real middleware, in mode ``enforce``, with every evasion we know, alone and combined.

The model server answers whatever it is asked. For each evasion: how many answers until the thief is first turned away,
that as compared with the thief who hides nothing, how many answers came in all, how many of these the detector has no
account of, and how many it could not judge. Honest accounts ask before, between and after, and are counted when turned
away. The detector is let catch up after every fifth request, so that the figures are those of queries and not of time.

python -m benchmarks.hostile_client [--seeds N]
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from rich.progress import track

from detector.runtime.broker import EmbeddedBroker
from tests.conftest import Broker
from tests.core.honest import honest
from tests.e2e.campaign import Outcome, Thief, ask_honestly, environment
from tests.e2e.evasions import EVASIONS, Evasion, combined, half_hidden
from tests.e2e.lenient_server import Serving, serving
from tests.e2e.service import Service, running_service

_HONEST, _QUERIES = 6, 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="thieves for each evasion")
    seeds = parser.parse_args().seeds
    logging.getLogger("detector").setLevel(logging.ERROR)
    evasions = (*EVASIONS, combined, half_hidden)
    with EmbeddedBroker() as broker, tempfile.TemporaryDirectory() as folder:
        own = Broker(broker.bootstrap, embedded=True, process=broker)
        settings = environment(Path(folder))
        with running_service(own, "hostile", Path(folder), **settings) as service, serving(service.kafka) as guarded:
            guarded.gate.wait_until_ready(30)
            turned_away = _honest(guarded, 0)
            outcomes = dict(_campaigns(service, guarded, evasions, seeds))
            turned_away += _honest(guarded, 1)
    _print(outcomes)
    print(f"honest queries turned away: {turned_away} of {2 * _HONEST * _QUERIES}")


def _honest(guarded: Serving, turn: int) -> int:
    """Honest accounts ask; how many of their queries were turned away."""
    rows = [honest("user", 500 + 100 * turn + at, _QUERIES).features for at in range(_HONEST)]
    return sum(_QUERIES - ask_honestly(guarded, f"user-{at}", row) for at, row in enumerate(rows))


def _campaigns(
    service: Service, guarded: Serving, evasions: tuple[Evasion, ...], seeds: int
) -> Iterator[tuple[str, list[Outcome]]]:
    for evasion in track(evasions, "thieves"):
        yield evasion.__name__, [Thief(evasion, 5 + seed).steal(service, guarded) for seed in range(seeds)]


def _print(outcomes: dict[str, list[Outcome]]) -> None:
    plain = median(_answers(one) for one in outcomes["plain"])
    print(f"{'evasion':16} {'until turned away':>20} {'more':>6} {'answered':>9} {'unaccounted':>12} {'unjudged':>9}")
    for name, several in outcomes.items():
        answers = sorted(_answers(one) for one in several)
        answered, unjudged = sum(one.answered for one in several), sum(one.unjudged for one in several)
        unaccounted = answered - sum(one.accounted for one in several)
        middle = f"{median(answers):g} ({answers[0]:g} to {answers[-1]:g})"
        print(f"{name:16} {middle:>20} {median(answers) - plain:>+6g} {answered:>9} {unaccounted:>12} {unjudged:>9}")


def _answers(outcome: Outcome) -> float:
    return float("inf") if outcome.answers is None else outcome.answers


if __name__ == "__main__":
    main()
