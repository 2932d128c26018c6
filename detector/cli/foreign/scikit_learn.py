"""Fitted models of scikit-learn: decision trees, random forests, linear classifiers."""

from __future__ import annotations

from typing import Any

import numpy as np

from detector.contracts.errors import ConfigurationError
from detector.core.owner_model import Ensemble, Features, Linear, OwnerModel, Tree
from detector.core.owner_model.models import LEAF, Link


def model_of(fitted: Any) -> OwnerModel:
    """The arrays of a ``fitted`` model. Raises ConfigurationError for one that is not fitted, or of another kind."""
    from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

    if hasattr(fitted, "tree_"):
        return _tree(fitted, _features(fitted), 1.0)
    if isinstance(fitted, RandomForestClassifier | ExtraTreesClassifier) and hasattr(fitted, "estimators_"):
        share = 1.0 / len(fitted.estimators_)
        trees = tuple(_tree(each, _features(fitted), share) for each in fitted.estimators_)
        return Ensemble(trees, np.zeros(trees[0].values.shape[1]), "identity")
    if all(hasattr(fitted, name) for name in ("coef_", "intercept_", "classes_")):
        return _linear(fitted)
    raise ConfigurationError(
        f"a {type(fitted).__name__} is not fitted, or of a kind that cannot be read here: give a fitted decision tree, "
        "random forest or linear classifier itself, not a pipeline around it; others by way of ONNX or treelite"
    )


def _tree(fitted: Any, features: Features, share: float) -> Tree:
    """With class shares, or a regressor's one number, times ``share`` in its leaves."""
    tree = fitted.tree_
    if tree.value.shape[1] != 1:
        raise ConfigurationError(f"the tree gives {tree.value.shape[1]} outputs at once; give one for a single output")
    inner = tree.children_left >= 0
    values = tree.value[~inner, 0].astype(np.float64)
    if hasattr(fitted, "classes_"):
        values = values / values.sum(axis=1, keepdims=True)
    return Tree(
        features,
        np.where(inner, tree.feature, LEAF).astype(np.int32),
        np.where(inner, tree.threshold, 0.0),
        np.where(inner[:, None], np.stack((tree.children_left, tree.children_right), axis=1), 0).astype(np.int32),
        values * share,
    )


def _linear(fitted: Any) -> Linear:
    weights = np.atleast_2d(np.ascontiguousarray(fitted.coef_, np.float64))
    link: Link = "identity"
    if hasattr(fitted, "predict_proba"):
        link = "logistic" if len(weights) == 1 else "softmax"
    intercepts = np.broadcast_to(np.asarray(fitted.intercept_, np.float64), len(weights))
    return Linear(_features(fitted), weights, intercepts.copy(), link)


def _features(fitted: Any) -> Features:
    if hasattr(fitted, "feature_names_in_"):
        return Features.named([str(name) for name in fitted.feature_names_in_])
    return Features.unnamed(int(fitted.n_features_in_))
