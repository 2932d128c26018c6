"""A package that is missing is named, whatever reads."""

from __future__ import annotations

import pytest
from kafka import codec
from kafka.errors import KafkaTimeoutError, UnsupportedCodecError
from kafka.record.default_records import DefaultRecordBase

from detector.contracts.errors import BrokerError
from detector.runtime.compression import readable


@pytest.mark.parametrize(
    ("module", "number", "package"),
    [("snappy", 2, "python-snappy"), ("lz4", 3, "lz4"), ("zstd", 4, "zstandard")],
)
def test_the_package_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, module: str, number: int, package: str
) -> None:
    monkeypatch.setattr(codec, module, None)
    with (
        pytest.raises(BrokerError, match=rf"cannot read alerts: .*: pip install {package}$"),
        readable("cannot read alerts"),
    ):
        DefaultRecordBase()._assert_has_codec(number)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_the_extras_bring_them_all(number: int) -> None:
    DefaultRecordBase()._assert_has_codec(number)


def test_a_codec_of_the_future_is_said_to_be_unknown() -> None:
    with pytest.raises(BrokerError, match="unknown to this version"), readable("it"):
        raise UnsupportedCodecError("Unrecognized compression type: 7")


def test_other_errors_pass() -> None:
    with pytest.raises(KafkaTimeoutError), readable("it"):
        raise KafkaTimeoutError("silent")
