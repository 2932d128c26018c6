"""Counters that need no metrics library, and their export to one that is there anyway."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any, Protocol


class Counters:
    """Named totals since the start, safe to add to from any thread."""

    def __init__(self, *names: str) -> None:
        self._lock = threading.Lock()
        self._totals = dict.fromkeys(names, 0)

    def add(self, name: str, amount: int = 1) -> None:
        self._lock.acquire()  # `with` costs more than all the rest, and a request waits for this
        try:
            self._totals[name] += amount
        finally:
            self._lock.release()

    def snapshot(self) -> dict[str, int]:
        with self._lock:
            return self._totals.copy()


class Measured(Protocol):
    """A logger, a gate, an identity or a middleware."""

    NAME: str

    @property
    def counters(self) -> Counters: ...

    def gauges(self) -> Mapping[str, float]: ...


def export_metrics(*measured: Measured, registry: Any = None) -> None:
    """Register ``measured`` with prometheus_client, read at each scrape.

    Metrics are ``weirguard_sdk_NAME_COUNTER_total`` and ``weirguard_sdk_NAME_GAUGE``. ``registry``: a
    CollectorRegistry, the default one if None. Raises ImportError without prometheus_client.
    """
    from prometheus_client import REGISTRY

    (registry or REGISTRY).register(_Collector(measured))


class _Collector:
    def __init__(self, measured: tuple[Measured, ...]) -> None:
        self._measured = measured

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for one in self._measured:
            for name, total in one.counters.snapshot().items():
                label = f"weirguard_sdk_{one.NAME}_{name}"
                yield CounterMetricFamily(label, f"{name} of the {one.NAME}, since the start", value=total)
            for name, level in one.gauges().items():
                yield GaugeMetricFamily(f"weirguard_sdk_{one.NAME}_{name}", f"{name} of the {one.NAME}", value=level)
