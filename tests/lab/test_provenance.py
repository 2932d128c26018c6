"""The digest of what made a result changes with the source of its making, and with no other."""

from __future__ import annotations

from pathlib import Path

import pytest

import detector
from detector.lab.attackers import ATTACKS
from detector.lab.evaluation import judging
from detector.lab.experiment import code_version
from detector.lab.provenance import digest_of, imported

SOURCE = {
    "__init__": "",
    "lab/__init__": "",
    "lab/making": "import numpy\nfrom detector.lab import answers\nfrom detector.lab.attackers import ATTACKS\n",
    "lab/answers": "import detector.contracts.errors as errors\n",
    "contracts/__init__": "",
    "contracts/errors": "def late():\n    from detector.lab.data import rows\n",
    "lab/data": "rows = 1\n",
    "lab/attackers/__init__": "from detector.lab.attackers import near, wide\nATTACKS = {}\n",
    "lab/attackers/near": "from detector.lab.attackers.lines import line\n",
    "lab/attackers/lines": "line = 1\n",
    "lab/attackers/wide": "",
    "lab/report": "from detector.lab import making\n",
}
ROOTS = ("detector.lab.making", "detector.lab.attackers.near")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name, text in SOURCE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", ["lab/making", "lab/answers", "contracts/errors", "lab/data", "lab/attackers/lines"])
def test_an_edit_of_what_is_imported_changes_it_wherever_the_import_stands(source: Path, name: str) -> None:
    before = digest_of(ROOTS, source)
    with (source / f"{name}.py").open("a") as file:
        file.write("# edited\n")
    assert digest_of(ROOTS, source) != before


@pytest.mark.parametrize("name", ["lab/report", "lab/attackers/wide"])
def test_an_edit_of_what_only_uses_it_or_of_another_attack_does_not(source: Path, name: str) -> None:
    before = digest_of(ROOTS, source)
    (source / f"{name}.py").write_text("# edited\n")
    assert digest_of(ROOTS, source) == before


def test_a_module_from_elsewhere_is_left_out(source: Path) -> None:
    assert digest_of([*ROOTS, "tests.lab.thieves"], source) == digest_of(ROOTS, source)


def test_the_registry_of_attacks_counts_but_not_its_entries(source: Path) -> None:
    assert imported(ROOTS, source) >= {"detector.lab.attackers", "detector.lab.attackers.lines"}
    assert "detector.lab.attackers.wide" not in imported(ROOTS, source)
    assert "detector.lab.attackers.wide" in imported(["detector.lab.attackers"], source)


def test_logs_do_not_depend_on_judging_reporting_demo_or_http() -> None:
    folder = Path(detector.__file__).parent
    making = imported(["detector.lab.experiment", ATTACKS["jbda"].__module__], folder)
    apart = ("evaluation", "demo", "endpoint", "mappings", "over_http", "server", "report")
    assert not [name for name in making if name.startswith(tuple(f"detector.lab.{part}" for part in apart))]
    assert making >= {
        "detector.lab.attackers.augmentation",
        "detector.lab.victims.neural",
        "detector.lab.wrappers.disguises",
    }
    assert "detector.lab.attackers.public_pool" not in making


def test_judging_depends_on_all_of_the_engine() -> None:
    folder = Path(detector.__file__).parent
    judges = imported([judging.__name__], folder)
    core = folder / "core"
    files = [
        path for part in ("", "pipeline", "signals", "measures", "profile") for path in (core / part).glob("[!_]*.py")
    ]
    named = {".".join(("detector", *path.relative_to(folder).with_suffix("").parts)) for path in files}
    assert judges >= named - {"detector.core.warm"}


def test_attacks_have_versions_of_their_own() -> None:
    assert len({code_version(attack) for attack in ("jbda", "copycat", "lowd-meek")}) == 3
    assert code_version("jbda").startswith(f"{detector.__version__}+")
    assert code_version("no such attack")
