"""The profile of one model version, which a calibration makes, and the choice of the one that judges a query."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, cast

from detector.contracts.errors import ConfigurationError, StateLogError
from detector.contracts.principals import EVERYONE
from detector.contracts.queries import MisfitReason, QueryBatch
from detector.core import owner_model
from detector.core.exposure import Validation
from detector.core.forms import Form, Outputs, listed, plain_without_profile
from detector.core.owner_model import OwnerModel
from detector.core.owner_model.margins import Margins
from detector.core.reference.reference import Reference
from detector.core.reference.standards import Crowd, Standards
from detector.core.state.arrays import pack, unpack
from detector.core.state.principals import ANY

VERSION = 4
_WITHOUT_FORM = 3
"""The format of a profile without a form, for unnamed numbers and outputs of a known kind."""

_PARTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "reference": Reference.from_record,
    "standards": Standards.from_record,
    "owner_model": owner_model.from_record,
    "margins": lambda record: Margins(**record),
    "validation": Validation.from_record,
    "stored_form": Form.from_record,
    "crowd": Crowd.from_record,
}


@dataclass(frozen=True, eq=False)
class Profile:
    """``reference``: honest queries to compare with. ``standards``: how honest accounts vary, and the threshold.
    Optional: the ``owner_model`` with its ``margins``, and the ``validation`` set. ``provenance``: its data and
    its reliability, for readers; it changes no verdict. ``stored_form``: the form of queries, or None for plain numbers
    with outputs as in ``reference``."""

    model: str
    model_version: str
    reference: Reference
    standards: Standards
    owner_model: OwnerModel | None = None
    margins: Margins | None = None
    validation: Validation | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    stored_form: Form | None = None
    crowd: Crowd | None = None

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
        parts = {name: getattr(self, name) for name in _PARTS}
        parts |= {"reference": self.reference.to_record(), "standards": self.standards.to_record()}
        for name in ("stored_form", "crowd"):
            if parts[name] is None:
                del parts[name]
        return pack(
            {
                "profile": _WITHOUT_FORM if self.stored_form is None else VERSION,
                "model": self.model,
                "model_version": self.model_version,
                "made": dict(self.provenance),
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
            return cls(body["model"], body["model_version"], **parts, provenance=body["made"])
        except (StateLogError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise ConfigurationError(f"not a profile ({error}); write one with `weirguard calibrate`") from error


_ADVICE = "write one for it with `weirguard calibrate`"


@dataclass(frozen=True, slots=True)
class ProfileMismatch:
    """``queries`` to ``model`` match no profile. ``reason``: what does not match. ``detail``: a sentence on the
    difference, the consequence and the remedy."""

    model: str
    queries: int
    reason: MisfitReason
    detail: str


class ProfileMatcher:
    """Matches queries with ``profiles``, oldest first, at most one per model version. ``outputs``: kind of outputs
    of models without a profile, ``*`` for all other models."""

    def __init__(self, profiles: Sequence[Profile], outputs: Mapping[str, Outputs] = MappingProxyType({})) -> None:
        self._given = outputs
        self._profiles = {(profile.model, profile.model_version): profile for profile in profiles}
        self._newest_first: dict[str, list[Profile]] = {}
        for profile in reversed(profiles):
            self._newest_first.setdefault(profile.model, []).append(profile)

    def judged_as(self, queries: QueryBatch) -> str | None:
        """Returns the version whose profile judges ``queries``: their own, else the newest match of the model. Returns
        ``ANY`` if the model has no profile, and None if no profile of it matches."""
        if queries.model not in self._newest_first:
            return ANY
        profile = self._judging(queries)
        return None if profile is None else profile.model_version

    def plain(self, queries: QueryBatch, repaired: Counter[str]) -> QueryBatch:
        """Returns ``queries`` as plain numbers, by the form of the profile that judges them. They have no features if
        the profile knows none of them. Counts repaired rows in ``repaired``, by a word of ``limits.REPAIRS``."""
        if queries.model not in self._newest_first:
            outputs = self._given.get(queries.model, self._given.get(EVERYONE))
            return plain_without_profile(queries, outputs) if queries.is_loose or outputs else queries
        profile = self._judging(queries)
        if profile is not None and profile.form.accepts(queries):
            return profile.form.plain(queries, repaired)
        if not queries.is_loose:
            return queries
        nothing = queries.features[:, :0]
        return plain_without_profile(replace(queries, features=nothing, missing=None, feature_names=None, texts=None))

    def _judging(self, queries: QueryBatch) -> Profile | None:
        profile = self._profiles.get((queries.model, queries.model_version))
        matches = (profile for profile in self._newest_first[queries.model] if _difference(profile, queries) is None)
        return profile or next(matches, None)

    def dimension(self, model: str, version: str) -> int:
        """Returns the number of features of the profile of ``version``, or 0 without a profile."""
        profile = self._profiles.get((model, version))
        return 0 if profile is None else profile.reference.dimension

    def hash_of(self, model: str, version: str) -> str | None:
        """Returns the hash of the profile of ``version``, or None without a profile."""
        profile = self._profiles.get((model, version))
        return None if profile is None else profile.hash

    def mismatch(self, queries: QueryBatch) -> ProfileMismatch | None:
        """Returns why ``queries`` do not match the profile of their version, or None if they do."""
        profile = self._profiles.get((queries.model, queries.model_version))
        if profile is None:
            return self._unknown(queries)
        difference = _difference(profile, queries)
        if difference is None:
            return None
        reason, detail = difference
        advice = f"log them as when it was calibrated, or {_ADVICE}"
        return ProfileMismatch(queries.model, len(queries), reason, f"{_name(queries)}: {detail}; {advice}")

    def mismatches(self, pieces: Sequence[QueryBatch]) -> list[ProfileMismatch]:
        """Returns the mismatches of those ``pieces`` that match no profile; nothing if there are no profiles."""
        found = [self.mismatch(piece) for piece in pieces] if self._profiles else []
        return [mismatch for mismatch in found if mismatch is not None]

    def _unknown(self, queries: QueryBatch) -> ProfileMismatch:
        versions = [version for model, version in self._profiles if model == queries.model]
        models = sorted({model for model, _ in self._profiles})
        known = f"version {', '.join(versions)}" if versions else ", ".join(models) or "nothing"
        detail = f"there is no profile for {_name(queries)}, only for {known}; {_ADVICE}{self._until_then(queries)}"
        return ProfileMismatch(queries.model, len(queries), "model_version" if versions else "model", detail)

    def _until_then(self, queries: QueryBatch) -> str:
        version = self.judged_as(queries)
        if version is None:
            return ". Until then its queries are unjudged, as they have the form of none of these"
        return f". Until then its queries are judged by the profile of version {version}" if version else ""


def _difference(profile: Profile, queries: QueryBatch) -> tuple[MisfitReason, str] | None:
    """Returns how the form of ``queries`` differs from that of ``profile``, or None if it does not."""
    reference = profile.reference
    if not profile.form.accepts(queries):
        names = listed(queries.feature_names or (), 4) or f"of a list of {queries.dimension}"
        return "features", f"queries have the features {names}, and its profile none of them"
    queries = profile.form.plain(queries)
    logged = queries.output_kind, queries.outputs.shape[1]
    known = reference.output_kind, reference.outputs.shape[1]
    if queries.dimension != reference.dimension:
        return "features", f"queries have {queries.dimension} features, and in its profile {reference.dimension}"
    if logged != known:
        return "outputs", f"outputs are {_outputs_text(*logged)}, and in its profile {_outputs_text(*known)}"
    return None


def _name(queries: QueryBatch) -> str:
    return f"{queries.model} {queries.model_version}"


def _outputs_text(kind: str, count: int) -> str:
    return f"{kind} of {count} column{'s' if count != 1 else ''}"
