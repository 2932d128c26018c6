"""Metrics for Prometheus: the one place that knows prometheus_client."""

# ruff: noqa: E402 - the environment is set before prometheus_client reads it

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import product

# One process has one registry. In multiprocess mode, which a serving process nearby may need, values would go to files,
# and without that folder there would be none at all. The library reads its mode as it is imported.
for _name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
    os.environ.pop(_name, None)

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics import MetricWrapperBase

import detector
from detector.runtime.metric_defs import BUILD_INFO, METRICS, OTHER, PREFIX, Component, Label, Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The metrics of one process, a ``component``, in ``registry``. Safe to use from several threads.

    ``models``: the number of models with a label value of their own.
    """

    def __init__(self, registry: CollectorRegistry, models: int = 50, component: Component = "detector") -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry
        self._models = models
        self._seen: dict[str, set[str]] = {}
        self._families = {metric.name: _family(metric, registry) for metric in METRICS if metric.component == component}
        ProcessCollector(registry=registry)
        if BUILD_INFO.component == component:
            self.set(BUILD_INFO, 1, version=detector.__version__)

    def add(self, metric: Metric, amount: float = 1, **labels: str) -> None:
        """Adds ``amount``, at least 0, to a counter."""
        family = self._family(metric, labels)
        assert isinstance(family, Counter), f"{metric.name} is no counter"
        family.inc(amount)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Sets a gauge."""
        family = self._family(metric, labels)
        assert isinstance(family, Gauge), f"{metric.name} is no gauge"
        family.set(value)

    def replace(self, metric: Metric, values: Mapping[tuple[str, ...], float]) -> None:
        """Sets all values of a gauge, by label values in order; other label values are removed."""
        sums: dict[tuple[str, ...], float] = {}
        for key, value in values.items():
            checked = self._checked(metric, dict(zip((label.name for label in metric.labels), key, strict=True)))
            sums[tuple(checked.values())] = sums.get(tuple(checked.values()), 0.0) + value
        family = self._families[metric.name]
        assert isinstance(family, Gauge), f"{metric.name} is no gauge"
        family.clear()
        for key, value in sums.items():
            family.labels(*key).set(value)

    def observe(self, metric: Metric, values: Iterable[float], **labels: str) -> None:
        """Adds ``values`` to a histogram."""
        family = self._family(metric, labels)
        assert isinstance(family, Histogram), f"{metric.name} is no histogram"
        for value in values:
            family.observe(value)

    def render(self) -> bytes:
        """Prometheus text format of everything in the registry; its type is CONTENT_TYPE."""
        return generate_latest(self._registry)

    def _family(self, metric: Metric, labels: Mapping[str, str]) -> MetricWrapperBase:
        family = self._families[metric.name]
        checked = self._checked(metric, labels)
        child: MetricWrapperBase = family.labels(**checked) if checked else family
        return child

    def _checked(self, metric: Metric, labels: Mapping[str, str]) -> dict[str, str]:
        if labels.keys() != {label.name for label in metric.labels}:
            raise ValueError(f"{metric.name} has the labels {[label.name for label in metric.labels]}, not {[*labels]}")
        return {label.name: self._value(label, labels[label.name]) for label in metric.labels}

    def _value(self, label: Label, value: str) -> str:
        if label.values:
            if value not in label.values:
                raise ValueError(f"the label {label.name} has no value {value!r}; there are {', '.join(label.values)}")
            return value
        seen = self._seen.setdefault(label.name, set())
        if value not in seen and len(seen) >= (label.most or self._models):
            return OTHER
        seen.add(value)
        return value


def new_metrics(models: int, component: Component = "detector") -> Metrics:
    """Returns metrics in a registry of their own."""
    return Metrics(CollectorRegistry(), models, component)


def _family(metric: Metric, registry: CollectorRegistry) -> MetricWrapperBase:
    names = [label.name for label in metric.labels]
    name = PREFIX + metric.name.removesuffix("_total")
    if metric.kind == "histogram":
        return Histogram(name, metric.help, names, registry=registry, buckets=metric.buckets)
    if metric.kind == "gauge":
        return Gauge(name, metric.help, names, registry=registry)
    counter = Counter(name, metric.help, names, registry=registry)
    if names and all(label.values for label in metric.labels):
        for values in product(*(label.values for label in metric.labels)):
            counter.labels(*values)  # present from the start, so that the first count is an increase
    return counter
