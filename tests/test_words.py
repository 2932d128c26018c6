"""Plain technical English: words that code and docs do without, names of variables, and the order of the glossary."""

from __future__ import annotations

import ast
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

NAMED = (
    *("cli", "contracts", "explain", "gateway", "lab", "notify", "replay", "runtime", "serving", "sources", "stream"),
    *("policy/" + name for name in ("accounting", "activity", "allowlist", "causes", "config", "entry", "ladder")),
    *("policy/" + name for name in ("ledger", "principal", "records", "timeline")),
    *("core/" + name for name in ("configuration", "engine", "exposure", "forms", "profile", "warm")),
    *("core/" + name for name in ("loops", "owner_model", "pipeline", "reference", "state")),
    *("core/neighbours/" + name for name in ("blends", "search", "store")),
)
"""The packages and modules whose variables have no pronouns for names."""
PRONOUNS = frozenset({"own", "one", "told", "said", "mine", "theirs", "each", "such", "ones"})

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
    assert {path: words for path, text in texts if (words := _found(text))} == {}


def test_a_forbidden_word_is_found_alone_and_across_a_line_end() -> None:
    text = "Chen (Bhagoji, He, Li and Song)\nthe other; He\nsays\nof this, history"
    assert _found(text) == ["2: He", "3: says\nof"]


def _variables(source: str) -> set[str]:
    """Returns the names that ``source`` gives to variables, attributes and parameters, without underscores around."""
    names = set[str]()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.arg):
            names.add(node.arg.strip("_"))
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add((node.id if isinstance(node, ast.Name) else node.attr).strip("_"))
    return names


def _modules(named: Path) -> list[Path]:
    """Returns the modules of a package, or the one module."""
    return sorted(named.rglob("*.py")) if named.is_dir() else [named.with_suffix(".py")]


def test_a_variable_is_named_by_what_it_holds() -> None:
    files = [path for name in NAMED for path in _modules(ROOT / "detector" / name)]
    assert len(files) > 200
    assert {str(path): names for path in files if (names := _variables(path.read_text("utf-8")) & PRONOUNS)} == {}
    assert _variables("for own in accounts: rows = [one for one in own]") == {"own", "rows", "one"}
    assert _variables("lambda each, *, such: each") | _variables("self._own = 1") == {"each", "such", "own"}


def test_the_glossary_is_in_order_and_each_term_is_one_sentence() -> None:
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", (ROOT / "docs" / "glossary.md").read_text("utf-8"), re.MULTILINE)[1:]
    terms = [term for term, _ in rows]
    assert len(terms) > 40
    assert terms == sorted(terms, key=str.lower)
    assert len(set(terms)) == len(terms)
    assert [term for term, meaning in rows if not re.fullmatch(r"[^.].*[^.]\.", meaning)] == []
