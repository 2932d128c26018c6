"""What a compressed record is read with: packages that the extras bring, and that a bare kafka-python lacks."""

from __future__ import annotations

from detector.contracts.errors import BrokerError

_PACKAGES = {"lz4": "lz4", "snappy": "python-snappy", "zstd": "zstandard"}


def not_read(where: str, error: Exception) -> BrokerError:
    """What kafka-python's ``error`` means for reading ``where``; of a compression that it cannot read, with the package
    to install."""
    if type(error).__name__ != "UnsupportedCodecError":
        return BrokerError(f"{where}: {error}")
    package = next((package for codec, package in _PACKAGES.items() if codec in str(error)), None)
    what = f"pip install {package}" if package else "it is unknown to this version of kafka-python"
    return BrokerError(f"{where}: the compression cannot be read here ({error}): {what}")
