"""What the owner may give beside honest traffic: his model, and rows like those that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from detector.contracts.queries import QueryBatch
from detector.core.owner_model import OwnerModel
from detector.core.owner_model.margins import Margins
from detector.core.profile import Profile
from detector.core.reference import Reference
from detector.core.standards import Standards
from detector.core.validation import Validation


@dataclass(frozen=True)
class Owned:
    """His ``model``, and his ``validation`` set; None where he gave none."""

    model: OwnerModel | None = None
    validation: Validation | None = None

    def profile(self, honest: Sequence[QueryBatch], reference: Reference, standards: Standards) -> Profile:
        """For the model version of ``honest`` accounts. Margins are those of the model, made from the validation set or
        else from the honest rows; without a model, those between the probabilities that honest rows were told."""
        first = honest[0]
        margins = self._validated or self._margins(honest)
        return Profile(first.model, first.model_version, reference, standards, self.model, margins, self.validation)

    @cached_property
    def _validated(self) -> Margins | None:
        """The same whoever is honest, so that the folds of a calibration share them."""
        if self.model is None or self.validation is None:
            return None
        return Margins.of(self.model, self.validation.features)

    def _margins(self, honest: Sequence[QueryBatch]) -> Margins | None:
        features = np.concatenate([own.features for own in honest])
        if self.model is not None:
            return Margins.of(self.model, features)
        if honest[0].output_kind != "probabilities":
            return None
        return Margins.of(None, features, np.concatenate([own.outputs for own in honest]))
