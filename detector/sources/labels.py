"""Labels in logs of the lab: whether each row is honest. Other logs have none, whatever their columns are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import ConfigurationError

MARK = b"weirguard.lab"
"""Key in the metadata of a labelled Parquet log."""


def honest_rows(path: Path) -> NDArray[np.bool_] | None:
    """Returns which rows of the log at ``path`` are honest, bool (n,), or None for an unlabelled log. Raises
    ConfigurationError for a Parquet file that cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix.lower() != ".parquet":
        return None
    try:
        if MARK not in (pq.read_schema(path).metadata or {}):
            return None
        labels = pq.read_table(path, columns=["label"])["label"].to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ConfigurationError(f"{path}: cannot read it as Parquet: {error}") from error
    return np.array([label == "honest" for label in labels], np.bool_)
