"""The calibration artefact of one model version, as far as the views need it: reference rows and their hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import ConfigurationError, StateLogError
from detector.core.arrays import pack, unpack

VERSION = 1
REFERENCE_BYTES = 2_000_000
"""Cap on the reference rows of a model version."""


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """``reference`` float32 (m, d): rows of the owner's validation set, at most about 2 MB of them."""

    model: str
    model_version: str
    reference: NDArray[np.float32]

    def __post_init__(self) -> None:
        rows = self.reference
        if rows.ndim != 2 or rows.dtype != np.float32 or rows.nbytes > REFERENCE_BYTES:
            raise ConfigurationError(
                f"the profile of {self.model} {self.model_version} has reference rows of shape {rows.shape}, dtype "
                f"{rows.dtype}, {rows.nbytes} bytes; give float32 (rows, features) of at most {REFERENCE_BYTES} bytes"
            )

    @property
    def hash(self) -> str:
        """16 hexadecimal digits of all it holds."""
        return hashlib.blake2b(self.to_bytes(), digest_size=8).hexdigest()

    def to_bytes(self) -> bytes:
        """The artefact's file content: msgpack, no pickle."""
        return pack(
            {
                "profile": VERSION,
                "model": self.model,
                "model_version": self.model_version,
                "reference": self.reference,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Profile:
        """What ``to_bytes`` wrote. Raises ConfigurationError for anything else."""
        try:
            body: dict[str, Any] = unpack(data)
            if body["profile"] != VERSION:
                raise ConfigurationError(f"profile format {body['profile']} is not {VERSION}; calibrate again")
            return cls(body["model"], body["model_version"], body["reference"])
        except (StateLogError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(f"not a profile ({error}); write one with `weirguard calibrate`") from error
