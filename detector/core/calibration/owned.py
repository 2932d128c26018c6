"""What the owner may give beside honest traffic: his model, and rows like those that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import QueryBatch
from detector.core.owner_model import OwnerModel
from detector.core.owner_model.margins import Margins
from detector.core.profile import Profile
from detector.core.reference import Reference
from detector.core.standards import Standards
from detector.core.validation import Validation


@dataclass(frozen=True, slots=True)
class Owned:
    """His ``model``, and his ``validation`` set; None where he gave none."""

    model: OwnerModel | None = None
    validation: Validation | None = None

    def profile(self, honest: Sequence[QueryBatch], reference: Reference, standards: Standards) -> Profile:
        """For the model version of ``honest`` accounts. Margins are those of the model, made from the validation set or
        else from the honest rows; without a model, those between the probabilities that honest rows were told."""
        first = honest[0]
        margins = self._told(honest) if self.model is None else Margins.of(self.model, self._rows(honest))
        return Profile(first.model, first.model_version, reference, standards, self.model, margins, self.validation)

    def _told(self, honest: Sequence[QueryBatch]) -> Margins | None:
        if honest[0].output_kind != "probabilities":
            return None
        features, outputs = (np.concatenate([getattr(own, name) for own in honest]) for name in ("features", "outputs"))
        return Margins.of(None, features, outputs)

    def _rows(self, honest: Sequence[QueryBatch]) -> NDArray[np.float32]:
        if self.validation is not None:
            return self.validation.features
        return np.concatenate([account.features for account in honest])
