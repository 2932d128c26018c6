"""One request to a model: its principal, the gate's verdict, and whether its answer is accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from detector.contracts.errors import Unjudged
from detector.contracts.queries import OutputKind
from detector.serving.calls import count_rows
from detector.serving.gate import Gate, Verdict
from detector.serving.logger import QueryLogger
from detector.serving.responder import Answer
from detector.serving.rows import OptionalColumns
from detector.serving.targets import Target

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(slots=True)
class Exchange:
    """``logged``: rows were logged, by the extractor if ``extracted``. ``accounted``: they were logged or counted as
    unjudged. ``fault``: why they could not be read so far. ``settled``: the answer is counted."""

    logger: QueryLogger
    gate: Gate
    target: Target
    principal: str
    verdict: Verdict
    logged: bool = False
    accounted: bool = False
    fault: Unjudged | None = None
    extracted: bool = False
    settled: bool = False

    def check(self) -> bool:
        """Checks the gate again. Returns whether the principal may query now."""
        self.verdict = self.gate.check(self.target.model, self.principal)
        return self.verdict.allowed

    def log(self, features: ArrayLike, outputs: ArrayLike, output_kind: OutputKind, columns: OptionalColumns) -> None:
        """Logs the rows; those after the first are charged to a slowed principal."""
        self.logged = self.accounted = True
        model, model_version = self.target
        self.logger.log(self.principal, model, model_version, features, outputs, output_kind=output_kind, **columns)
        if self.verdict.queries_per_second is not None:
            self._charge(count_rows(features) - 1)

    def answer(self, features: ArrayLike, outputs: Any, output_kind: OutputKind) -> Answer:
        """Returns what to answer, and the served mode for the log."""
        model = self.target.model
        return self.gate.answer(self.verdict, model, self.principal, features, outputs, output_kind=output_kind)

    def specification(self, features: ArrayLike, requested: ArrayLike, offered: ArrayLike | None) -> ArrayLike:
        """Returns the specification by which to choose a model of a zoo."""
        model = self.target.model
        return self.gate.specification(self.verdict, model, self.principal, features, requested, offered)

    def unjudged(self, counts: Mapping[str, int]) -> None:
        """Counts rows that were answered and cannot be logged, by reason."""
        self.accounted = True
        for reason, queries in counts.items():
            self.logger.unjudged(self.principal, self.target.model, queries, reason=reason)
        if self.verdict.queries_per_second is not None:
            self._charge(sum(counts.values()) - (not self.logged))

    def _charge(self, queries: int) -> None:
        self.gate.charge(self.target.model, self.principal, queries)
