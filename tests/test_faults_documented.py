"""Each fault in docs/faults.md names its tests, and the tests that any page of the docs names exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| (.+) \| (.+) \| (.+) \|$", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def _rows() -> list[str]:
    """The last column of each fault."""
    text = (ROOT / "docs" / "faults.md").read_text("utf-8")
    return [tests for *_, tests in ROW.findall(text) if tests != "test"]


def _functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_each_fault_has_a_test_or_says_why_not() -> None:
    rows = _rows()
    assert len(rows) > 80
    assert [row for row in rows if not TEST.search(row)] == ["by design"]
    assert all(TEST.sub("", row).strip(", ") in ("", "by design") for row in rows)


def test_the_tests_that_the_docs_name_exist() -> None:
    named = {found for page in (ROOT / "docs").glob("*.md") for found in TEST.findall(page.read_text("utf-8"))}
    assert len(named) > 80
    assert [path for path, _ in sorted(named) if not (ROOT / path).is_file()] == []
    assert [f"{path}::{name}" for path, name in sorted(named) if name and name not in _functions(path)] == []
