"""The results of comparing many rows with a reference, to the bit; as a program it prints them for another process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from detector.core.engine import Engine, EngineConfig
from detector.core.measures import MEASURES
from detector.core.profile import Profile
from detector.core.reference.reference import Reference, ReferenceIndex
from detector.core.signals import SIGNALS, WEIGHED
from detector.core.signals.suspicion import Suspicion
from detector.core.state.rows import StepRows
from tests.core.profiles import reference, standards
from tests.core.streams import KINDS, Features, batch, linear_outputs, observe, random

Floats = NDArray[np.float64]
Said = dict[str, NDArray[np.uint8]]


def bits(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """uint8 (n, b): the bytes of each row of ``values`` (n, ...)."""
    return np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8)


def compared(index: ReferenceIndex, features: Features) -> Said:
    """The results for the rows ``features`` (n, d) themselves."""
    own = index.reference
    rows = index.scaled(features)
    projection = own.embedding.project(rows)
    near = index.nearest(projection)
    said = {name: getattr(projection, name) for name in ("points", "residual", "mahalanobis")}
    said |= {"distance": near.distance, "rows": near.rows, "scaled": rows, "strange": own.seen.unseen_mask(rows)}
    return {name: bits(values) for name, values in said.items()}


def measured(own: Reference, features: Features, cuts: Sequence[int]) -> Said:
    """The values of all measures and the weights of all clocks for a principal's queries, cut at ``cuts``."""
    heard: list[tuple[Floats, Floats]] = []

    def listen(_rows: StepRows, values: Floats, weights: Floats, _others: Floats) -> None:
        heard.append((values, weights))

    suspicion = partial(Suspicion, measures=MEASURES, others=WEIGHED, listener=listen)
    config = EngineConfig(profiles=(Profile("credit", "1", own, standards()),))
    outputs = linear_outputs(np.clip(features, 0, 1), 3)
    asked = batch(features, ["ann"] * len(features), outputs=outputs, kind="probabilities")
    observe(Engine(config, {**SIGNALS, "suspicion": suspicion}), [asked], cuts)
    values, weights = (np.concatenate(column) for column in zip(*heard, strict=True))
    columns = dict(zip(MEASURES, values.T, strict=True)) | {"weights": weights}
    return {name: bits(column) for name, column in columns.items()}


def examples(dimension: int, count: int) -> tuple[Reference, Features]:
    """A reference whose features have few values, many, or one, and rows of all kinds of streams."""
    generator = np.random.default_rng(dimension)
    honest = random(generator, 70, dimension)
    honest[:, ::3] = np.round(honest[:, ::3] * 9) / 9
    honest[:, 1] = 0.5
    kinds = [kind(generator, count, dimension) for kind in KINDS.values()]
    rows = np.concatenate((*kinds, honest[:count], honest[:count] * np.float32(1e7)))
    rows[::2, ::3] = np.round(rows[::2, ::3] * 9) / 9
    return reference(honest), rows


def everything() -> Said:
    said: Said = {}
    for dimension in (5, 43):
        own, rows = examples(dimension, 6)
        parts = compared(ReferenceIndex(own), rows) | measured(own, rows, [7, 8, 30])
        said |= {f"{name} of {dimension}": part for name, part in parts.items()}
    return said


if __name__ == "__main__":
    for name, part in everything().items():
        sys.stdout.write(f"{name}: {part.tobytes().hex()}\n")
