"""Verdicts on the same queries logged in every way that people log them, beside those on all numbers and probabilities.

For each way, honest accounts are calibrated on and others judged, as `calibrate` and `replay` do it.
Run: python -m benchmarks.inputs
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from detector.core.configuration import EngineConfig
from detector.policy.config import Policy
from detector.replay.calibrate import CalibrationOptions, make_profile, read_files
from detector.replay.report import replay
from tests.sources.logged_forms import (
    FEATURES,
    OUTPUTS,
    LoggedAccount,
    customers,
    image_thieves,
    readers,
    table_thieves,
    write_log,
)

ACCOUNTS, JUDGED = 24, 12
PLAIN, PROBABILITIES = next(iter(FEATURES)), next(iter(OUTPUTS))

Verdicts = dict[str, int | None]
"""The first query, from 1, at which each account was flagged."""


def main() -> None:
    print("| data | features | outputs | taken for | threshold | thieves flagged at | honest flagged | as the first |")
    print("| --- | --- | --- | --- | --: | --- | --: | --- |")
    table = customers(ACCOUNTS, 1), [*customers(JUDGED, 2), *table_thieves(3)]
    ways = [(features, PROBABILITIES) for features in FEATURES]
    ways += [("by name", outputs) for outputs in OUTPUTS if outputs not in (PROBABILITIES, "the best three classes")]
    _report("table", *table, ways)
    images = readers(ACCOUNTS, 1), [*readers(JUDGED, 2), *image_thieves(3)]
    some = [outputs for outputs in OUTPUTS if outputs not in ("one probability", "a score")]
    _report("digits", *images, [(PLAIN, outputs) for outputs in some] + [("by name", PROBABILITIES)])


def _report(
    data: str, honest: Sequence[LoggedAccount], judged: Sequence[LoggedAccount], ways: Sequence[tuple[str, str]]
) -> None:
    first: Verdicts = {}
    for features, outputs in ways:
        with TemporaryDirectory() as folder:
            taken, threshold, found = verdicts(Path(folder), honest, judged, features, outputs)
        first = first or found
        thieves = [str(found[own.account] or "never") for own in judged if "thief" in own.account]
        flagged = sum(at is not None for name, at in found.items() if "thief" not in name)
        apart = sum((found[name] is None) != (first[name] is None) for name in first)
        like = "same" if found == first else f"{apart} accounts differ" if apart else "same accounts"
        cells = [data, features, outputs, taken, f"{threshold:.2f}", ", ".join(thieves), str(flagged), like]
        print(f"| {' | '.join(cells)} |", flush=True)


def verdicts(
    folder: Path, honest: Sequence[LoggedAccount], judged: Sequence[LoggedAccount], features: str, outputs: str
) -> tuple[str, float, Verdicts]:
    """What outputs were taken for, the threshold, and when each of the ``judged`` was flagged."""
    write_log(folder / "honest.jsonl", honest, features, outputs)
    write_log(folder / "judged.jsonl", judged, features, outputs)
    made = make_profile(read_files([folder / "honest.jsonl"], lambda _: None), CalibrationOptions(0.01))
    summary = replay(
        [folder / "judged.jsonl"],
        folder / "out",
        engine_config=EngineConfig(profiles=(made.profile,)),
        policy=Policy(),
        must_fit=(made.profile,),
    )
    found = {own["principal"]: own["first_flagged"] for own in summary["principals"]}
    numbered = {name: None if at is None else at + 1 for name, at in found.items()}
    return made.traffic.form.outputs, made.profile.standards.threshold, numbered


if __name__ == "__main__":
    main()
