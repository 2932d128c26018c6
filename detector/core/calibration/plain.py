"""Converts logged honest queries to plain numbers, by the form learned from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import QueryBatch
from detector.core.forms import Form, Learned, Outputs, learn
from detector.core.profile.profile import Profile

_SHOWN = 6


@dataclass(frozen=True, slots=True)
class PlainTraffic:
    """``pieces`` of plain queries of one model version, in the form ``learned``. ``left_out``: the number of queries
    with another form."""

    pieces: list[QueryBatch]
    learned: Learned
    left_out: int

    @property
    def form(self) -> Form:
        return self.learned.form

    def profile(self, made: Profile) -> Profile:
        """``made`` from the pieces, with the form, where it does not say as much by itself."""
        by_itself = self.form.fields is None and self.form.classes is None and self.form.said == made.form.said
        return made if by_itself else replace(made, stored_form=self.form)


def plain_traffic(
    pieces: Sequence[QueryBatch], outputs: Outputs | None = None, names: Sequence[str] | None = None
) -> PlainTraffic:
    """Returns ``pieces`` of one model version as plain numbers. ``outputs``: their kind, if the owner gives it.
    ``names``: the columns of the owner's model, which set the order. Raises ConfigurationError if the names differ."""
    learned = learn(pieces, outputs)
    if names is not None:
        learned = replace(learned, form=_arranged(learned.form, names))
    form = learned.form
    plain = [form.plain(own, Counter()) if form.takes(own) else own for own in pieces]
    shapes: Counter[tuple[object, ...]] = Counter()
    for own in plain:
        shapes[_shape(own)] += len(own)
    most = max(sorted(shapes, key=str), key=shapes.__getitem__)
    left_out = shapes.total() - shapes[most]
    if most[1] != form.said:
        raise ConfigurationError(
            f"--outputs {form.outputs}: the honest logs have {most[1]} outputs, and say so; leave the option out"
        )
    return PlainTraffic([own for own in plain if _shape(own) == most], learned, left_out)


def _shape(batch: QueryBatch) -> tuple[object, ...]:
    return batch.dimension, batch.output_kind, batch.outputs.shape[1], batch.feature_names is None


def _arranged(form: Form, names: Sequence[str]) -> Form:
    """Returns ``form`` with its features in the order of ``names``."""
    if form.fields is None:
        return form
    place = {name: at for at, name in enumerate(names)}
    fields = sorted(form.fields, key=lambda own: place.get(own.columns[0] if own.width else "", -1))
    arranged = replace(form, fields=tuple(fields))
    if arranged.columns != tuple(names):
        raise ConfigurationError(
            f"--model has the features {_listed(names)}, and the honest logs {_listed(form.columns or ())}; name them "
            "alike (a text is name=value for each of its values), or give the logs as the lists that the model takes"
        )
    return arranged


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
