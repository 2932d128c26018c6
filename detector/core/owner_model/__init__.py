"""The owner's model as arrays: a decision tree, a linear model or an ensemble of trees. It is read from JSON in a
documented form (docs/margins.md, schemas/weirguard.model.v1.schema.json), never from a pickle."""

from __future__ import annotations

from typing import Any

from detector.contracts.errors import ConfigurationError
from detector.core.owner_model.ensemble import Ensemble
from detector.core.owner_model.features import Features
from detector.core.owner_model.json_form import OwnerModel, from_json, to_json
from detector.core.owner_model.linear import Linear
from detector.core.owner_model.tree import Tree

__all__ = ["Ensemble", "Features", "Linear", "OwnerModel", "Tree", "from_json", "from_record", "to_json"]

_KINDS: dict[str, type[Tree] | type[Linear] | type[Ensemble]] = {
    "tree": Tree,
    "linear": Linear,
    "ensemble": Ensemble,
}


def from_record(record: dict[str, Any]) -> OwnerModel:
    """What ``to_record`` of a model gave. Raises ConfigurationError for a kind that this version does not know."""
    if record["kind"] not in _KINDS:
        raise ConfigurationError(f"kind is {record['kind']!r}; it must be one of {', '.join(_KINDS)}")
    return _KINDS[record["kind"]].from_record(record)
