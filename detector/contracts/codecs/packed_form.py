"""The form of a packed record. ``schemas/weirguard.packed-queries.v1.schema.json``.

The value is a msgpack map. Numeric columns are binary, little-endian and row by row: float32, but for
``occurred_at`` (float64), ``principal_index`` (int32), ``leaf`` (int64) and ``missing`` (one bit an
entry, lowest bit first). The names and texts of loose queries are lists of texts: ``feature_names``, first of the
``dimension`` numbers, then of the texts; ``texts`` row by row; ``output_names`` row by row, or once for all rows. Every
such length must follow from the number of event ids and the widths, so nothing is ever allocated on a claim.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from detector.contracts.codecs.mending import TEXT_COLUMNS
from detector.contracts.queries import CountKind, OutputKind

SCHEMA: Final = "weirguard.packed-queries/1"
LOOSE_SCHEMA: Final = "weirguard.loose-queries/1"
"""Of records with names, texts or outputs of which not all is said, so that a reader of the first version refuses them
whole and does not take some of their columns for all."""
PACKED_CONTENT_TYPE: Final = "application/vnd.weirguard.queries+msgpack"


@dataclass(slots=True)
class PackedCount:
    """Queries without features, as they are written; the model is the record's."""

    principal: str
    kind: CountKind
    queries: int
    occurred_at: float
    reason: str = ""


@dataclass(slots=True)
class PackedQueries:
    """The record as it is written."""

    schema: str
    model: str
    model_version: str
    output_kind: OutputKind
    dimension: int
    output_width: int
    event_ids: list[str]
    occurred_at: bytes
    principals: list[str]
    principal_index: bytes
    features: bytes
    outputs: bytes
    missing: bytes | None = None
    hardness: bytes | None = None
    leaf: bytes | None = None
    specification: bytes | None = None
    served_mode: list[str] | None = None
    network_prefix: list[str] | None = None
    organisation: list[str] | None = None
    user_agent_hash: list[str] | None = None
    feature_names: list[str] | None = None
    texts: list[str | None] | None = None
    output_names: list[str] | None = None
    counts: list[PackedCount] = field(default_factory=list)


DTYPES: Final = {
    "occurred_at": "<f8",
    "principal_index": "<i4",
    "features": "<f4",
    "outputs": "<f4",
    "hardness": "<f4",
    "leaf": "<i8",
    "specification": "<f4",
}
ENTRY_BYTES: Final = {name: int(dtype[2:]) for name, dtype in DTYPES.items()}
MATRICES: Final = ("features", "outputs", "specification")
BINARY_OPTIONAL: Final = ("missing", "hardness", "leaf", "specification")
LOOSE: Final = ("feature_names", "texts", "output_names")
OPTIONAL: Final = (*BINARY_OPTIONAL, *TEXT_COLUMNS)


def width(packed: PackedQueries, name: str) -> int:
    """Entries a row of a numeric column."""
    if name == "features":
        return packed.dimension
    if name == "outputs":
        return packed.output_width
    return 2 if name == "specification" else 1
