"""What a compressed record is read with: packages that the extras bring, and that a bare kafka-python lacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from detector.contracts.errors import BrokerError

_PACKAGES = {"lz4": "lz4", "snappy": "python-snappy", "zstd": "zstandard"}


@contextmanager
def readable(where: str) -> Iterator[None]:
    """Turn kafka-python's "unsupported codec" into a BrokerError that names the package, after ``where``."""
    from kafka.errors import UnsupportedCodecError

    try:
        yield
    except UnsupportedCodecError as error:
        package = next((package for codec, package in _PACKAGES.items() if codec in str(error)), None)
        what = f"pip install {package}" if package else "it is unknown to this version of kafka-python"
        raise BrokerError(f"{where}: the compression cannot be read here ({error}): {what}") from error
