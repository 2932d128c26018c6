"""Repeats the checks of the topics while the worker runs."""

from __future__ import annotations

from collections.abc import Mapping

from detector.contracts.errors import ConfigurationError
from detector.contracts.topics import Topics
from detector.runtime.sections import KafkaSettings
from detector.stream.topics import Found, misfit, shapes


class TopicWatch:
    """Compares the topics with those of the check before. Pure."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._topics = kafka.topics
        self._shapes = shapes(kafka)
        self._needed = {self._topics.state_log, self._topics.queries, self._topics.rekeyed, self._topics.commands}
        self._identities: dict[str, str] = {}
        self._absent: set[str] = set()

    def check(self, found: Mapping[str, Found]) -> set[str]:
        """Returns the topics that only we write, of ``found``, that are gone or were made again: no state depends on
        them.

        Raises ConfigurationError for one with another number of partitions, and for a source or state log that is gone
        or was made again. Gone means absent twice in a row: a broker that has just started may not know it yet.
        """
        absent = {shape.name for shape in self._shapes if shape.name not in found}
        gone, self._absent = absent & self._absent, absent
        changed = {name for name, one in found.items() if self._identities.get(name, one.identity) != one.identity}
        self._identities |= {name: one.identity for name, one in found.items()}
        for shape in self._shapes:
            trouble = misfit(shape, found[shape.name]) if shape.name in found else None
            if trouble:
                raise ConfigurationError(trouble)
        for name in sorted((gone | changed) & self._needed):
            raise ConfigurationError(made_again(self._topics, name, gone=name in gone))
        return gone | changed


def made_again(topics: Topics, name: str, gone: bool = False) -> str:
    """Returns what to say, and to do, about a topic that is not the one that the state belongs to."""
    return f"topic {name} was deleted{'' if gone else ' and made again'}; {_anew(topics, name)}"


def cut_short(topics: Topics, name: str, partition: int, end: int, due: int) -> str:
    """Returns the same about a topic that ends at ``end``, before ``due``, where reading continues."""
    return (
        f"{name}[{partition}] ends at {end} and all below {due} is applied already: the topic was deleted and made "
        f"again, or its log was cut; {_anew(topics, name)}"
    )


def _anew(topics: Topics, name: str) -> str:
    others = f"{topics.state_log}, {topics.decisions} and {topics.scores}"
    lost = (
        "what is known of the accounts is lost with it"
        if name == topics.state_log
        else "its records would be taken for those that were applied, and left out"
    )
    return (
        f"{lost}. Bring it back as it was. Or begin anew, knowing nothing of the accounts: stop all workers, delete "
        f"the topics {others} and start; or use another kafka.prefix"
    )
