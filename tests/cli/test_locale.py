"""Files are UTF-8 and output never fails, whatever the locale."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from detector.contracts.principals import PrincipalHasher
from tests.core.honest import thief
from tests.sources.logs import write_jsonl

NAME = "müller-gmbh ≤ 名"
ALLOWED = f'[[allow]]\nprincipal = "{NAME}"\nowner = "Vertrieb"\nreason = "Prüfung"\nexpires = 2036-01-01\n'
LATIN = "de_DE.ISO-8859-1"


@pytest.fixture(scope="module", params=["C", "C.UTF-8", LATIN])
def locale(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment with this locale: C as it was before Python took it for UTF-8."""
    if request.param != LATIN:
        return {"LC_ALL": request.param, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    if shutil.which("localedef") is None:
        pytest.skip("makes the locale with localedef")
    folder = tmp_path_factory.mktemp("locales")
    made = ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(folder / LATIN)]
    if subprocess.run(made, capture_output=True, check=False).returncode:
        pytest.skip("localedef has no source of this locale")
    return {"LC_ALL": LATIN, "LOCPATH": str(folder)}


def _weirguard(locale: dict[str, str], *arguments: object, **variables: str) -> subprocess.CompletedProcess[bytes]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WEIRGUARD_", "LC_", "LANG"))}
    command = [sys.executable, "-m", "detector.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=120, env=clean | locale | variables, check=False)


def test_an_allowlisted_account_is_known_by_its_name(locale: dict[str, str], tmp_path: Path) -> None:
    allowlist, log, settings = tmp_path / "allow.toml", tmp_path / "log.jsonl", tmp_path / "settings.yaml"
    write_jsonl(log, replace(thief(rows=400), principals=[NAME]))
    settings.write_bytes(b"\xef\xbb\xbfpolicy: {mode: enforce}\ndetection: {mode: compatible, prada: {delta: 0.999}}")
    allowlist.write_bytes(b"\xef\xbb\xbf" + ALLOWED.encode())
    counts = {}
    for allowed in (True, False):
        out = tmp_path / str(allowed)
        named = {"WEIRGUARD_POLICY__ALLOWLIST": str(allowlist)} if allowed else {}
        done = _weirguard(locale, "replay", log, "--out", out, "--settings", settings, **named)
        assert done.returncode == 0, done.stderr
        counts[allowed] = json.loads((out / "summary.json").read_bytes())
    assert counts[False]["decisions"] > 0
    assert counts[True]["decisions"] == 0
    assert counts[True]["alerts"] > 0
    assert counts[True]["principals"][0]["principal"] == NAME


def test_what_the_encoding_has_no_character_for_is_printed_as_an_escape(locale: dict[str, str], tmp_path: Path) -> None:
    log = write_jsonl(tmp_path / "log.jsonl", replace(thief(rows=60), principals=["ana"], model=NAME))
    settings = tmp_path / "settings.yaml"
    settings.write_text(f"policy: {{model_modes: {{'{NAME}': enforce}}}}", encoding="utf-8")
    for arguments in (
        ("config", "show", "--settings", settings),
        ("explain", "ana", "--log", log, "--out", tmp_path / "why"),
        ("--help",),
        ("explain", "--help"),
        ("replay", "名.jsonl", "--out", tmp_path / "out"),
    ):
        done = _weirguard(locale, *arguments)
        assert b"Traceback" not in done.stderr
        assert b"Unicode" not in done.stderr
        assert done.returncode == (2 if arguments[0] == "replay" else 0), done.stderr
    assert "müller" in (tmp_path / "why" / "explanation.html").read_text(encoding="utf-8")


def test_a_hash_key_with_such_letters_gives_the_same_hash(locale: dict[str, str], tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("schlüssel\n", encoding="utf-8")
    program = (
        "from detector.runtime.settings import load_settings; print(load_settings().principals.hasher().api_key('k'))"
    )
    variables = {"WEIRGUARD_PRINCIPALS__HASH_KEY_FILE": str(key)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | locale | variables, check=True
    )
    assert done.stdout.strip() == PrincipalHasher("schlüssel".encode()).api_key("k")
