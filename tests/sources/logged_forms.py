"""The same queries as people log them: features by name, as lists, with texts among them; outputs of every kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.lab.attackers import ATTACKS
from detector.lab.attackers.attacker import Knowledge
from detector.lab.experiment import thief_trace, victim_of
from detector.lab.fidelity import Yardstick
from detector.lab.honest import population
from detector.lab.session import AttackSession, InProcess, checkpoints
from detector.lab.wrappers import PLAIN, WRAPPERS

Row = Mapping[str, Any]
Floats = NDArray[np.float64]

REGIONS = ("centre", "east", "north", "south", "west")
PLANS = ("free", "gold", "plus")
_THIEF_STEPS = 25
_PARTS = 1 << 16
"""Probabilities are whole numbers of such parts, so that float32 holds one and what is left of it alike."""
_BEST = 3
_MISSING = 0.08


@dataclass(frozen=True, slots=True)
class LoggedAccount:
    """What one ``account`` asked, a value a name, None where it is missing, and what it was told: probabilities float64
    (n, k) of ``classes``."""

    account: str
    rows: Sequence[Row]
    told: Floats
    classes: tuple[str, ...]


def customers(count: int, seed: int, queries: int = 80) -> list[LoggedAccount]:
    """``count`` honest accounts who have customers of their own scored, a region or two each."""
    return [_honest(f"honest-{seed}-{number:02}", seed * 1_000 + number, queries) for number in range(count)]


def table_thieves(seed: int, queries: int = 160) -> list[LoggedAccount]:
    """One who asks with numbers and texts drawn at random, and one who goes from row to row in small steps."""
    rng = np.random.default_rng(seed)
    drawn = [_drawn(rng) for _ in range(queries)]
    steps: list[Row] = []
    for number in range(queries):
        start = _row(rng) if number % _THIEF_STEPS == 0 else steps[-1]
        steps.append({**start, "income": (start["income"] or 3e4) * 1.01, "age": start["age"] + 0.25})
    return [_asked("thief at random", drawn), _asked("thief in steps", steps)]


def _honest(account: str, seed: int, queries: int) -> LoggedAccount:
    rng = np.random.default_rng(seed)
    home, centre = rng.choice(REGIONS, 2), rng.uniform(30, 60)
    return _asked(account, [_row(rng, centre, home) for _ in range(queries)])


def _row(rng: np.random.Generator, centre: float = 45.0, regions: Any = REGIONS) -> dict[str, Any]:
    return {
        "age": round(float(np.clip(rng.normal(centre, 9), 18, 95))),
        "income": None if rng.random() < _MISSING else round(float(rng.lognormal(10.4, 0.5)), -2),
        "owner": bool(rng.random() < 0.4),
        "plan": str(rng.choice(PLANS, p=(0.6, 0.1, 0.3))),
        "region": None if rng.random() < _MISSING else str(rng.choice(regions)),
        "tenure": round(float(rng.exponential(4)), 1),
    }


def _drawn(rng: np.random.Generator) -> Row:
    numbers = {"age": float(rng.uniform(0, 120)), "income": float(rng.uniform(0, 4e5))}
    return _row(rng) | numbers | {"plan": str(rng.choice((*PLANS, "any")))}


def _asked(account: str, rows: Sequence[Row]) -> LoggedAccount:
    likely = np.array([_likely(row) for row in rows])
    return LoggedAccount(account, rows, np.stack((1 - likely, likely), axis=1), ("no", "yes"))


def _likely(row: Row) -> float:
    """What the model of the table says: a logistic function of everything."""
    worth = {"north": 0.6, "south": -0.5, "east": 0.2}.get(row["region"] or "", 0.0)
    worth += {"gold": 1.5, "plus": 0.4}.get(row["plan"], -0.4) + 0.8 * row["owner"]
    worth += ((row["income"] or 30_000.0) / 40_000.0 - 1) - 0.03 * (row["age"] - 45) + 0.05 * row["tenure"]
    return float(np.round(_PARTS / (1 + np.exp(-worth))) / _PARTS)


def readers(count: int, seed: int, queries: int = 80) -> list[LoggedAccount]:
    """``count`` honest accounts who have handwritten digits read."""
    dataset, victim = victim_of("digits", "multilayer perceptron")
    asked = []
    for user in population(dataset, count, seed):
        rows = np.zeros((0, dataset.honest.features.shape[1]), np.float32)
        for ask in user.requests:
            rows = np.concatenate((rows, ask.rows))
            if len(rows) >= queries:
                break
        told = victim.answer(rows[:queries]).probabilities
        asked.append(LoggedAccount(user.account, [_numbered(row) for row in rows[:queries]], told, _DIGITS))
    return asked


def image_thieves(seed: int, queries: int = 300) -> list[LoggedAccount]:
    """Two of the lab's attacks on the model of digits."""
    dataset, victim = victim_of("digits", "multilayer perceptron")
    thieves = []
    for name in ("jbda", "data-free"):
        attacker = ATTACKS[name](Knowledge.of(dataset, None), queries, seed)
        disguise = WRAPPERS[PLAIN](dataset, 0.1, seed)
        course = AttackSession(
            attacker, InProcess(victim), disguise, Yardstick.of(victim, dataset, 0), checkpoints(queries)
        )
        course.run()
        trace = thief_trace(name, course)
        thieves.append(
            LoggedAccount(f"thief, {name}", [_numbered(row) for row in trace.features], trace.outputs, _DIGITS)
        )
    return thieves


_DIGITS = tuple(f"digit {number}" for number in range(10))


def _numbered(row: NDArray[np.float32]) -> Row:
    return {f"pixel {place:02}": value for place, value in enumerate(row.tolist())}


def write_log(path: Path, accounts: Sequence[LoggedAccount], features: str, outputs: str) -> None:
    """A log in JSON lines of all queries by time, ``features`` and ``outputs`` as these say."""
    lines = []
    for number, asked in enumerate(accounts):
        for at, (row, told) in enumerate(zip(asked.rows, asked.told, strict=True)):
            query = {"event_id": f"{number}-{at}", "principal": asked.account, "model": "m", "model_version": "1"}
            logged = {"features": FEATURES[features](row, at), **OUTPUTS[outputs](told, asked.classes)}
            lines.append((1.7e9 + at + number / 1_000, json.dumps(query | {"occurred_at": 1.7e9 + at} | logged)))
    path.write_text("".join(f"{line}\n" for _, line in sorted(lines)), encoding="utf-8")


def _plain(row: Row, _: int) -> list[float | None]:
    return list(_columns(row))


def _columns(row: Row) -> Iterator[float | None]:
    texts = {"plan": PLANS, "region": REGIONS}
    for name, value in row.items():
        known = texts.get(name, ())
        if not known:
            yield value if value is None else float(value)
        elif value is None:
            yield from [None] * len(known)
        else:
            first = -1.0 if value not in known else float(value == known[0])
            yield from [first, *(float(value == other) for other in known[1:])]


def _named(row: Row, at: int) -> Row:
    """In another order each time."""
    names = list(row)
    return {name: row[name] for name in names[at % len(names) :] + names[: at % len(names)]}


def _as_texts(row: Row, _: int) -> Row:
    """Numbers as a form or a CSV file has them."""
    number = (int, float)
    return {name: str(float(value)) if isinstance(value, number) else value for name, value in row.items()}


FEATURES: dict[str, Callable[[Row, int], Any]] = {
    "numbers, texts one-hot": _plain,
    "by name": _named,
    "a list with texts": lambda row, _: list(row.values()),
    "by name, numbers as texts": _as_texts,
}
"""From a row and its number to what is logged of its features. The first needs no form."""


def _best(told: Floats, classes: Sequence[str], count: int) -> list[dict[str, Any]]:
    order = np.argsort(-told)[:count].tolist()
    return [{"label": classes[at], "score": float(told[at])} for at in order]


OUTPUTS: dict[str, Callable[[Floats, Sequence[str]], dict[str, Any]]] = {
    "all probabilities": lambda told, _: {"outputs": told.tolist()},
    "one probability": lambda told, _: {"outputs": float(told[1])},
    "an object of classes": lambda told, classes: {"outputs": dict(zip(classes, told.tolist(), strict=True))},
    "the best three classes": lambda told, classes: {"outputs": _best(told, classes, _BEST)},
    "the best class and its probability": lambda told, classes: {"outputs": _best(told, classes, 1)[0]},
    "a score": lambda told, _: {"outputs": log(max(told[1], 1e-9) / max(told[0], 1e-9))},
    "a class number": lambda told, _: {"outputs": int(told.argmax())},
    "a class by name": lambda told, classes: {"outputs": classes[int(told.argmax())]},
    "nothing": lambda _, __: {},
}
"""From all probabilities and the names of the classes to what is logged of outputs."""
