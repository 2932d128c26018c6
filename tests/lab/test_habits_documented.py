"""Every honest habit has an entry in the docs."""

from __future__ import annotations

import re
from pathlib import Path

from detector.lab.data import Dataset
from detector.lab.honest import habits_of

DOCS = Path(__file__).parents[2] / "docs" / "habits.md"


def test_each_habit_has_an_entry_and_a_measured_line(split: Dataset) -> None:
    text = DOCS.read_text()
    entries, measured = text.split("## Measured")
    habits = set(habits_of(split))
    assert habits <= set(re.findall(r"\*\*([a-z -]+)\*\*", entries))
    assert habits == set(re.findall(r"^\| ([a-z -]+) \| \**\d+ of", measured.split("### Tables")[0], re.MULTILINE))
