"""Describes in words how the features and outputs of a model were interpreted."""

from __future__ import annotations

from collections.abc import Iterator

from detector.core.calibration.traffic import PlainTraffic

_OUTPUTS = {
    "probability": "one probability per row, taken as that of the second of two classes",
    "score": "one number per row, taken as a score",
    "label": "one class per row",
    "probabilities": "probabilities",
    "none": "none: accounts are judged by their inputs only",
}


def form_lines(traffic: PlainTraffic) -> Iterator[tuple[str, str]]:
    """Yields lines about features and outputs, each with its heading."""
    yield "features", _features(traffic)
    yield "outputs", _outputs(traffic)
    if traffic.left_out:
        yield "note", f"left out: {traffic.left_out} queries with other features or outputs than the rest"


def _features(traffic: PlainTraffic) -> str:
    fields, width = traffic.form.fields, traffic.pieces[0].dimension
    if fields is None:
        return f"{width} numbers"
    texts = [own for own in fields if own.values is not None]
    of_texts = f", {len(texts)} of them texts with {sum(own.width for own in texts)} values" if texts else ""
    return f"{len(fields)} by name{of_texts}"


def _outputs(traffic: PlainTraffic) -> str:
    form, why = traffic.form, traffic.why
    classes = len(form.classes) if form.classes is not None else 0
    of_classes = f", of {classes} classes by name" if classes else ""
    others = [kind for kind in ("probability", "label", "score") if kind != form.outputs]
    reason = f": {why}; --outputs {' or '.join(others)} to say otherwise" if why else ""
    return _OUTPUTS[form.outputs] + of_classes + reason
