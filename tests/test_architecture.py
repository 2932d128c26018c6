"""The layers hold, and the rules that say so bite."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "detector"
MODULES = sorted(PACKAGE.rglob("*.py"))

LAYERS = "Each layer imports only what stands below it"


def _lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"]
    wide = os.environ | {"COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=wide, capture_output=True, text=True, timeout=120, check=False)


def test_the_import_contracts_hold() -> None:
    done = _lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "planted", "broken"),
    [
        ("core/planted.py", "import faust", "Only stream imports Faust"),
        ("core/planted.py", "import kafka", "Detection, policy and contracts know neither Kafka nor metrics"),
        ("core/planted.py", "import detector.policy", LAYERS),
        ("core/state/planted.py", "import detector.core.engine", "Within core"),
        ("policy/planted.py", "import detector.stream", LAYERS),
        ("contracts/planted.py", "import detector.core", LAYERS),
        ("runtime/planted.py", "import prometheus_client", "prometheus_client is imported in one place"),
        ("serving/planted.py", "import detector.core", LAYERS),
        ("serving/planted.py", "def later():\n    import scipy", "What serving processes import stays light"),
        ("stray/__init__.py", "", LAYERS),
    ],
)
def test_an_import_that_breaks_a_contract_is_found(module: str, planted: str, broken: str, tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "detector", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    target = tmp_path / "detector" / module
    target.parent.mkdir(exist_ok=True)
    target.write_text(planted + "\n")
    done = _lint_imports(tmp_path)
    assert done.returncode == 1
    report = [line for line in done.stdout.splitlines() if line.startswith(broken)]
    assert "BROKEN" in report[0], done.stdout


@pytest.mark.parametrize("package", ["contracts", "serving"])
def test_contracts_and_serving_load_the_standard_library_alone(package: str) -> None:
    names = [_dotted(path) for path in MODULES if path.is_relative_to(PACKAGE / package)]
    source = f"import sys; before = set(sys.modules)\nimport {', '.join(names)}\nprint(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded - sys.stdlib_module_names == {"detector"}


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_no_class_name_stands_for_two_classes() -> None:
    where: dict[str, list[str]] = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                where.setdefault(node.name, []).append(_dotted(path))
    assert {name: modules for name, modules in where.items() if len(modules) > 1} == {}


def test_no_file_of_the_package_is_named_like_a_test() -> None:
    assert [path.name for path in MODULES if path.stem.startswith("test_") or path.stem.endswith("_test")] == []


PURE = [path for path in MODULES if path.relative_to(PACKAGE).parts[0] in ("core", "groups", "policy")]


def _impurities(tree: ast.AST) -> list[str]:
    """Returns imports and calls by which a module could read a clock or draw unseeded random numbers."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
            found += [name for name in names if name in ("time", "random", "secrets", "uuid")]
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and (
                node.func.attr in ("now", "today", "utcnow", "urandom")
                or ast.unparse(node) == "np.random.default_rng()"
            )
        ):
            found.append(ast.unparse(node.func))
    return found


@pytest.mark.parametrize("path", PURE, ids=_dotted)
def test_detection_and_policy_read_no_clock_and_draw_nothing_without_a_seed(path: Path) -> None:
    assert _impurities(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source", ["import time", "from random import choice", "datetime.now(UTC)", "rng = np.random.default_rng()"]
)
def test_a_clock_or_an_unseeded_draw_is_found(source: str) -> None:
    assert len(_impurities(ast.parse(source))) == 1


_NEEDED = {"read_text": 1, "write_text": 2, "open": 3}
"""How many positional arguments of a Path's method make the encoding one of them."""


@pytest.mark.parametrize("path", MODULES, ids=_dotted)
def test_text_files_name_their_encoding(path: Path) -> None:
    """ruff's PLW1514 holds this where it can tell that something is a path; here whatever is called so counts."""
    wrong = [
        f"line {node.lineno}: {node.func.attr}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _NEEDED
        if ast.unparse(node.func) != "os.open"
        if len(node.args) < _NEEDED[node.func.attr] and "encoding" not in {one.arg for one in node.keywords}
        if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "os")
        if not any(isinstance(one, ast.Constant) and "b" in str(one.value) for one in node.args)
    ]
    assert wrong == []
