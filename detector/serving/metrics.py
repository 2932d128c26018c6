"""Rate-limited warnings, counters that need no metrics library, and their export to an installed one."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any, Protocol

from detector.contracts.errors import ConfigurationError
from detector.serving.isolation import not_forking, renew_in_children, suppress_errors

_GAUGE_SECONDS = 1.0
_GAUGE_MODES = {"ready": "livemin", **dict.fromkeys(("age_seconds", "silence_seconds", "decisions"), "livemax")}
"""How the gauges of several processes are combined; other gauges are added up."""


class RateLimitedLogger:
    """Warnings through ``logger``, each kind at most once in ``seconds``; a log handler that raises has no effect."""

    def __init__(self, logger: logging.Logger, seconds: float = 60.0) -> None:
        self._logger = logger
        self._seconds = seconds
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Starts again in a forked process."""
        self._logged: dict[str, float] = {}
        self._lock = threading.Lock()

    def warning(self, kind: str, message: str, *arguments: object, error: BaseException | None = None) -> None:
        """Logs ``message`` unless this ``kind`` (one of a few fixed words) was logged less than ``seconds`` ago."""
        now = time.monotonic()
        with self._lock:
            if now - self._logged.get(kind, -self._seconds) < self._seconds:
                return
            self._logged[kind] = now
        with suppress_errors():
            self._logger.warning(message, *arguments, exc_info=error)


class Counters:
    """Named totals since the start of this process, safe to add to from any thread.

    ``mirror``, if set, is called with every name and amount as well; it must not raise.
    """

    def __init__(self, *names: str) -> None:
        self._names = names
        self.mirror: Callable[[str, int], None] | None = None
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Starts from zero in a forked process: the counts so far belong to the parent."""
        self._lock = threading.Lock()
        self._totals: dict[str, int] = dict.fromkeys(self._names, 0)

    def add(self, name: str, amount: int = 1) -> None:
        self._lock.acquire()  # `with` costs more than all the rest, and a request waits for this
        try:
            self._totals[name] += amount
        finally:
            self._lock.release()
        if self.mirror is not None:
            self.mirror(name, amount)

    def snapshot(self) -> dict[str, int]:
        with self._lock:
            return self._totals.copy()


class OpenCounters(Counters):
    """Counters whose names are not known before."""

    def renew(self) -> None:
        super().renew()
        self._totals = defaultdict(int)

    def snapshot(self) -> dict[str, int]:
        return dict(super().snapshot())


class MetricSource(Protocol):
    """A logger, a gate, an identity or a middleware."""

    NAME: str

    @property
    def counters(self) -> Counters: ...

    def gauges(self) -> Mapping[str, float]: ...


def export_metrics(*sources: MetricSource, registry: Any = None) -> None:
    """Registers ``sources`` with prometheus_client, which reads them at each scrape.

    Metrics are ``weirguard_sdk_NAME_COUNTER_total`` and ``weirguard_sdk_NAME_GAUGE``. ``registry``: a
    CollectorRegistry, the default one if None. In prometheus_client's multiprocess mode its MultiProcessCollector finds
    them with any ``registry``. Raises ImportError without prometheus_client, and ConfigurationError when the folder of
    the multiprocess mode cannot be written.
    """
    from prometheus_client import REGISTRY, values

    if values.ValueClass is values.MutexValue:
        (registry or REGISTRY).register(_Collector(sources))
    else:
        _MultiprocessMirror(sources)


def render_metrics(*sources: MetricSource) -> bytes:
    """Returns counters and gauges of ``sources`` in the text format of Prometheus. Needs prometheus_client."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(sources))
    return generate_latest(registry)


def _described(source: MetricSource, name: str) -> tuple[str, str]:
    """Returns name and help text of a metric."""
    return f"weirguard_sdk_{source.NAME}_{name}", f"{name} of the {source.NAME}"


class _Collector:
    def __init__(self, sources: tuple[MetricSource, ...]) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for source in self._sources:
            for name, total in source.counters.snapshot().items():
                label, text = _described(source, name)
                yield CounterMetricFamily(label, f"{text}, since the start", value=total)
            for name, level in source.gauges().items():
                yield GaugeMetricFamily(*_described(source, name), value=level)


class _MultiprocessMirror:
    """Mirrors the counters of ``sources`` in real ones, and sets real gauges by a thread that starts with the first
    count of each process.

    prometheus_client's multiprocess mode calls no collector: it reads only its files.
    """

    def __init__(self, sources: tuple[MetricSource, ...]) -> None:
        self._sources = sources
        self._started = False
        try:
            self._set_gauges()
            for source in sources:
                for name, total in source.counters.snapshot().items():
                    _counter(*_described(source, name)).inc(total)
                source.counters.mirror = partial(self._count, source)
        except OSError as error:
            raise ConfigurationError(
                f"cannot write prometheus_client's files, correct PROMETHEUS_MULTIPROC_DIR: {error}"
            ) from None
        renew_in_children(self)

    def renew(self) -> None:
        self._started = False

    def _count(self, source: MetricSource, name: str, amount: int) -> None:
        with contextlib.suppress(Exception), not_forking():  # prometheus_client's lock is one that a fork would break
            _counter(*_described(source, name)).inc(amount)
            if not self._started:
                self._started = True
                threading.Thread(target=self._run, name="weirguard-metrics", daemon=True).start()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            with contextlib.suppress(Exception):
                self._set_gauges()
            pause.wait(_GAUGE_SECONDS)

    def _set_gauges(self) -> None:
        with not_forking():
            for source in self._sources:
                for name, level in source.gauges().items():
                    _gauge(*_described(source, name), _GAUGE_MODES.get(name, "livesum")).set(level)


@cache
def _counter(name: str, text: str) -> Any:
    """Returns the counter of that name. It is in no registry, because its file is read."""
    from prometheus_client import Counter

    return Counter(name, f"{text}, since the start", registry=None)


@cache
def _gauge(name: str, text: str, mode: Any) -> Any:
    from prometheus_client import Gauge

    return Gauge(name, text, registry=None, multiprocess_mode=mode)
