"""A package that is missing is named, whatever reads."""

from __future__ import annotations

import pytest
from kafka import codec
from kafka.errors import KafkaTimeoutError, UnsupportedCodecError
from kafka.record.default_records import DefaultRecordBase

from detector.contracts.errors import read_error


@pytest.mark.parametrize(
    ("module", "number", "package"),
    [("snappy", 2, "python-snappy"), ("lz4", 3, "lz4"), ("zstd", 4, "zstandard")],
)
def test_the_package_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, module: str, number: int, package: str
) -> None:
    monkeypatch.setattr(codec, module, None)
    with pytest.raises(UnsupportedCodecError) as raised:
        DefaultRecordBase()._assert_has_codec(number)
    text = str(read_error("cannot read alerts", raised.value))
    assert text.startswith("cannot read alerts: ")
    assert text.endswith(f": pip install {package}")


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_the_extras_bring_them_all(number: int) -> None:
    DefaultRecordBase()._assert_has_codec(number)


def test_a_codec_of_the_future_is_said_to_be_unknown() -> None:
    assert "unknown to this version" in str(read_error("it", UnsupportedCodecError("Unrecognized compression type: 7")))


def test_other_errors_say_what_they_say() -> None:
    assert str(read_error("it", KafkaTimeoutError("silent"))) == f"it: {KafkaTimeoutError('silent')}"
