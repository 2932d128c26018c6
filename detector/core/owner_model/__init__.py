"""The owner's model: a decision tree, a linear model or an ensemble of trees, and the margins of its answers."""

from detector.core.owner_model.models import (
    Ensemble,
    Features,
    Linear,
    OwnerModel,
    Tree,
    from_json,
    from_record,
    to_json,
)

__all__ = ["Ensemble", "Features", "Linear", "OwnerModel", "Tree", "from_json", "from_record", "to_json"]
