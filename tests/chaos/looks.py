"""Looks at a worker's memory, and at what its metrics say that it holds, while it works."""

from __future__ import annotations

import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event, Thread

import psutil
from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True, slots=True)
class Look:
    """When ``share`` of the records was sent. In megabytes the process was ``resident`` and counted its ``state``;
    ``waiting``: the records that it had not applied. Both counts are as of its last survey, every five seconds."""

    share: float
    resident: float
    state: float
    waiting: int


def metric(url: str, name: str) -> Counter[str]:
    """The series of a metric at ``url``, by their first label."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        page = answer.read().decode()
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == name:
                found[next(iter(sample.labels.values()), "")] += int(sample.value)
    return found


def look(process: psutil.Process, url: str, share: float) -> Look:
    """One look at ``process``, whose metrics are at ``url``."""
    state = metric(url, "weirguard_state_bytes").total() / 1e6
    waiting = metric(url, "weirguard_records_behind").total()
    return Look(share, process.memory_info().rss / 1e6, state, waiting)


@contextmanager
def looking(process: psutil.Process, url: str, share: Callable[[], float], into: list[Look]) -> Iterator[None]:
    """A thread that looks every second."""
    done = Event()

    def keep_looking() -> None:
        while not done.wait(1.0):
            with suppress(psutil.NoSuchProcess, OSError):
                into.append(look(process, url, share()))

    thread = Thread(target=keep_looking, name="memory", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
