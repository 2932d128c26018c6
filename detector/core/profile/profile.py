"""The profile of one model version, the artefact of a calibration: honest traffic and the threshold."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

from detector.contracts.errors import ConfigurationError, StateLogError
from detector.core import owner_model
from detector.core.forms import Form, Outputs
from detector.core.owner_model import OwnerModel
from detector.core.owner_model.margins import Margins
from detector.core.profile.reference import Reference
from detector.core.profile.standards import Standards
from detector.core.profile.validation import Validation
from detector.core.state.arrays import pack, unpack

VERSION = 4
_WITHOUT_FORM = 3
"""The format of a profile without a form, for unnamed numbers and outputs of a known kind."""

_PARTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "reference": Reference.from_record,
    "standards": Standards.from_record,
    "owner_model": owner_model.from_record,
    "margins": Margins.from_record,
    "validation": Validation.from_record,
    "stored_form": Form.from_record,
}


@dataclass(frozen=True, eq=False)
class Profile:
    """``reference``: honest queries to compare with. ``standards``: how honest accounts vary, and the threshold.
    Optional: the ``owner_model`` with its ``margins``, and the ``validation`` set. ``made``: provenance and
    reliability, for readers; it changes no verdict. ``stored_form``: the form of queries, or None for plain numbers
    with outputs as in ``reference``."""

    model: str
    model_version: str
    reference: Reference
    standards: Standards
    owner_model: OwnerModel | None = None
    margins: Margins | None = None
    validation: Validation | None = None
    made: Mapping[str, Any] = field(default_factory=dict)
    stored_form: Form | None = None

    @cached_property
    def form(self) -> Form:
        if self.stored_form is not None:
            return self.stored_form
        kind, width = self.reference.output_kind, self.reference.outputs.shape[1]
        two = kind == "probabilities" and width == 2
        return Form(None, "probability" if two else cast("Outputs", kind))

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits, a hash of the whole content."""
        return hashlib.blake2b(self.to_bytes(), digest_size=8).hexdigest()

    def to_bytes(self) -> bytes:
        """Returns the file content, as msgpack."""
        parts = {name: None if (part := getattr(self, name)) is None else part.to_record() for name in _PARTS}
        if self.stored_form is None:
            del parts["stored_form"]
        return pack(
            {
                "profile": _WITHOUT_FORM if self.stored_form is None else VERSION,
                "model": self.model,
                "model_version": self.model_version,
                "made": dict(self.made),
                **parts,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Profile:
        """Returns the profile that ``to_bytes`` wrote. Raises ConfigurationError for anything else."""
        try:
            body: dict[str, Any] = unpack(data)
            if body["profile"] not in (_WITHOUT_FORM, VERSION):
                raise ConfigurationError(f"profile format {body['profile']} is not {VERSION}; calibrate again")
            parts: dict[str, Any] = {
                name: None if body.get(name) is None else read(body[name]) for name, read in _PARTS.items()
            }
            if parts["reference"] is None or parts["standards"] is None:
                raise ValueError("it has no reference or no standards")
            return cls(body["model"], body["model_version"], **parts, made=body["made"])
        except (StateLogError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise ConfigurationError(f"not a profile ({error}); write one with `weirguard calibrate`") from error
