"""Names of the topics. They share a prefix, which is a setting."""

from __future__ import annotations

from dataclasses import dataclass

STATE_TABLE = "state"


@dataclass(frozen=True, slots=True)
class Topics:
    """Topic names under ``prefix``; the prefix is also the application id."""

    prefix: str = "weirguard"

    @property
    def application(self) -> str:
        return self.prefix

    @property
    def queries(self) -> str:
        return f"{self.prefix}.queries"

    @property
    def rekeyed(self) -> str:
        """Strays: queries that a producer wrote to another partition than their principal's."""
        return f"{self.prefix}.rekeyed"

    @property
    def commands(self) -> str:
        return f"{self.prefix}.commands"

    @property
    def alerts(self) -> str:
        return f"{self.prefix}.alerts"

    @property
    def decisions(self) -> str:
        return f"{self.prefix}.decisions"

    @property
    def audit(self) -> str:
        return f"{self.prefix}.audit"

    @property
    def scores(self) -> str:
        return f"{self.prefix}.scores"

    @property
    def dead_letters(self) -> str:
        return f"{self.prefix}.dead-letters"

    @property
    def state_log(self) -> str:
        """The changelog topic of the Faust table that holds the state log; Faust sets the form of its name."""
        return f"{self.prefix}-{STATE_TABLE}-changelog"
