"""The files in schemas/ and the codecs say the same."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from detector.contracts.errors import InvalidRecord
from tests.schemas.forms import FORMS, ROOT, packed_from_json, packed_to_json

EXAMPLES = sorted((ROOT / "examples").glob("*/*.json"))
INVALID = sorted((ROOT / "invalid").glob("*/*.json"))
PACKED_NAMES = {"packed-queries", "loose-queries", "judged-queries"}
PACKED = sorted((ROOT / "examples").glob("*/*.msgpack"))


def _id(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


@cache
def _validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads((ROOT / f"weirguard.{name}.v1.schema.json").read_text()))


def test_every_schema_has_a_codec_and_every_codec_a_schema_examples_and_invalid_files() -> None:
    names = set(FORMS)
    assert {path.name for path in ROOT.glob("*.json")} == {f"weirguard.{name}.v1.schema.json" for name in names}
    assert {path.name for path in (ROOT / "examples").iterdir()} == names
    assert {path.name for path in (ROOT / "invalid").iterdir()} == names


@pytest.mark.parametrize("name", FORMS)
def test_every_schema_is_valid_and_names_its_record_and_version(name: str) -> None:
    schema: dict[str, Any] = dict(_validator(name).schema)  # type: ignore[arg-type]  # a schema may be a bare bool
    Draft202012Validator.check_schema(schema)
    assert schema["properties"]["schema"] == {"const": f"weirguard.{name}/1"}
    assert schema["$id"] == f"urn:weirguard:schema:{name}:1"


@pytest.mark.parametrize("name", FORMS)
def test_the_readme_speaks_of_every_schema(name: str) -> None:
    assert f"weirguard.{name}.v1.schema.json" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", EXAMPLES, ids=_id)
def test_an_example_passes_the_schema_and_the_codec_and_comes_back_the_same(path: Path) -> None:
    name, text = path.parent.name, path.read_text(encoding="utf-8")
    _validator(name).validate(json.loads(text))
    form = FORMS[name]
    record = form.read(form.wire(text))
    assert not getattr(record, "bad_rows", None)
    written = form.write(record)
    assert form.write(form.read(written)) == written
    _validator(name).validate(packed_to_json(written) if name in PACKED_NAMES else json.loads(written))


@pytest.mark.parametrize("path", [path for path in EXAMPLES if "quer" not in path.parent.name], ids=_id)
def test_a_record_is_written_as_its_example_shows(path: Path) -> None:
    form, text = FORMS[path.parent.name], path.read_text(encoding="utf-8")
    assert json.loads(form.write(form.read(text.encode()))) == json.loads(text)


@pytest.mark.parametrize("path", INVALID, ids=_id)
def test_an_invalid_file_is_refused_by_the_schema_and_by_the_codec(path: Path) -> None:
    name, text = path.parent.name, path.read_text(encoding="utf-8")
    assert not _validator(name).is_valid(json.loads(text))
    with pytest.raises(InvalidRecord):
        _refused(name, text)


def _refused(name: str, text: str) -> None:
    form = FORMS[name]
    record = form.read(form.wire(text))
    for fault in getattr(record, "bad_rows", ()):
        raise InvalidRecord(fault.reason, fault.detail)


@pytest.mark.parametrize("path", PACKED, ids=_id)
def test_the_bytes_of_a_packed_example_hold_what_its_json_shows(path: Path) -> None:
    text = path.with_suffix(".json").read_text()
    assert packed_to_json(path.read_bytes()) == json.loads(text)
    assert path.read_bytes() == packed_from_json(text)


def test_every_packed_example_has_its_bytes() -> None:
    assert {path.stem for path in PACKED} == {path.stem for path in EXAMPLES if path.parent.name in PACKED_NAMES}
