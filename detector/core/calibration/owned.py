"""Optional input of the owner: a model, and rows like its training data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from detector.core.calibration.crossfit import CrossFit, Fold
from detector.core.owner_model import OwnerModel
from detector.core.owner_model.margins import Margins
from detector.core.profile.profile import Profile
from detector.core.profile.reference import Honest
from detector.core.profile.standards import Standards
from detector.core.profile.validation import Validation

_ROWS = 10_000
"""Maximum number of honest rows for margins."""


@dataclass(frozen=True)
class Owned:
    """The owner's ``model`` and ``validation`` set, or None."""

    model: OwnerModel | None = None
    validation: Validation | None = None

    def profile(self, fit: CrossFit, standards: Standards, fold: Fold | None = None, part: int = 0) -> Profile:
        """Of what the accounts outside ``fold`` asked. Margins are those of the model, made from the validation set or
        else from the honest rows; without a model, those between the probabilities that honest rows were told."""
        first = fit.accounts[0]
        margins = self._validated
        if margins is None and (self.model is not None or first.output_kind == "probabilities"):
            margins = self._margins(fit.sample(_ROWS, fold, part))
        reference = fit.reference(fold, part)
        return Profile(first.model, first.model_version, reference, standards, self.model, margins, self.validation)

    @cached_property
    def _validated(self) -> Margins | None:
        """The same whoever is honest, so that the folds of a calibration share them."""
        if self.model is None or self.validation is None:
            return None
        return Margins.of(self.model, self.validation.features)

    def _margins(self, honest: Honest) -> Margins | None:
        twice = 2 if len(honest.features) < 2 else 1
        features, outputs = (np.tile(column, (twice, 1)) for column in (honest.features, honest.outputs))
        return Margins.of(self.model, features, None if self.model is not None else outputs)
