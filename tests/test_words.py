"""Plain technical English: words that code and docs do without, and the order of the glossary."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACES = ("detector", "tests", "benchmarks", "docs", "deploy", "schemas", "README.md", "CONTRIBUTING.md")
SUFFIXES = {".py", ".md", ".yaml", ".yml"}

FORBIDDEN = (
    *("he", "him", "his", "himself", "she", "her", "whom"),  # a principal is the principal, the account, or they
    *("lest", "whence", "heir", "heirs", "kin", "thereof"),
    *("so many", "says of", "said of", "in other digits"),
)
NAMES = ("Bhagoji, He, Li and Song",)
"""Authors whose names look like forbidden words."""

NOT_YET = (
    "detector/cli/explain.py",
    "detector/cli/explanation/__init__.py",
    "detector/cli/explanation/account.py",
    "detector/cli/explanation/plots.py",
    "detector/cli/explanation/service.py",
    "detector/cli/explanation/tables.py",
    "detector/cli/explanation/weighing.py",
    "detector/cli/explanation/words.py",
    "detector/core/calibration/recording.py",
    "detector/core/calibration/suspects.py",
    "detector/core/observing.py",
    "detector/core/profile.py",
    "detector/core/segment.py",
    "docs/detection.md",
    "docs/explain.md",
    "docs/habits.md",
    "tests/cli/test_explain.py",
    "tests/cli/test_explanation.py",
    "tests/cli/test_replay.py",
)
"""Files that still hold such words. A clean file must leave this list."""

WORD = re.compile(rf"\b(?:{'|'.join(FORBIDDEN)})\b".replace(" ", r"\s+"), re.IGNORECASE)


def _texts() -> Iterator[tuple[str, str]]:
    """Yields (path, text) of each text file but this one."""
    for place in PLACES:
        top = ROOT / place
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.suffix in SUFFIXES and path != Path(__file__):
                yield path.relative_to(ROOT).as_posix(), path.read_text("utf-8")


def _found(text: str) -> list[str]:
    """Returns ``line: word`` for each forbidden word."""
    for name in NAMES:
        text = text.replace(name, "")
    return [f"{text.count(chr(10), 0, hit.start()) + 1}: {hit[0]}" for hit in WORD.finditer(text)]


def test_texts_do_without_the_forbidden_words() -> None:
    texts = list(_texts())
    assert len(texts) > 400
    found = {path: words for path, text in texts if (words := _found(text))}
    assert {path: words for path, words in found.items() if path not in NOT_YET} == {}
    assert sorted(set(NOT_YET) - found.keys()) == [], "these are clean now: take them off NOT_YET"


def test_a_forbidden_word_is_found_alone_and_across_a_line_end() -> None:
    text = "Chen (Bhagoji, He, Li and Song)\nthe other; He\nsays\nof this, history"
    assert _found(text) == ["2: He", "3: says\nof"]


def test_the_glossary_is_in_order_and_each_term_is_one_sentence() -> None:
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", (ROOT / "docs" / "glossary.md").read_text("utf-8"), re.MULTILINE)[1:]
    terms = [term for term, _ in rows]
    assert len(terms) > 40
    assert terms == sorted(terms, key=str.lower)
    assert len(set(terms)) == len(terms)
    assert [term for term, meaning in rows if not re.fullmatch(r"[^.].*[^.]\.", meaning)] == []
