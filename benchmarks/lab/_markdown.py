"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("| --- ", "|---").replace("--- |", "---|")


def percent(share: float, decimals: int = 1) -> str:
    """``share``, 0 to 1, in percent; 100 without decimals only where nothing is missing."""
    if share == 1:
        return "100"
    return f"{min(100 * share, 100 - 10.0**-decimals):.{decimals}f}"


def percents(*shares: float) -> str:
    return " / ".join(percent(share) for share in shares)
