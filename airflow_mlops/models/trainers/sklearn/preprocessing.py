"""The transformer that prepares features for an estimator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core.errors import TrainingError
from airflow_mlops.models.trainers.base import TrainingData

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

MAX_CATEGORIES = 100


def by_column_type(estimator: Any, data: TrainingData, counts: Mapping[str, Mapping[str, int]] | None = None) -> Any:
    """Create a transformer from the types of the features and the kind of ``estimator``.

    For tree-based estimators, text features become category codes, with -1 for a text that does not occur in the
    training data. For all other estimators, numeric features are standardised, and text features become one-hot columns
    of their :data:`MAX_CATEGORIES` most frequent texts. NaN in numeric features is replaced by the median, unless the
    estimator supports NaN.

    :param estimator: the estimator that follows the transformer
    :param data: the training data
    :param counts: number of training rows with each value of each text feature; by default they are counted in ``data``
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler

    trees = _is_tree(estimator)
    numeric, categorical = feature_names(data)
    steps: list[Any] = []
    if not _supports_nan(estimator):
        steps.append(SimpleImputer(strategy="median"))
    if not trees:
        steps.append(StandardScaler())
    parts: list[tuple[str, Any, list[str]]] = []
    if numeric:
        # With "passthrough", the ONNX export would not concatenate the columns.
        parts.append(("numbers", make_pipeline(*steps) if steps else FunctionTransformer(), numeric))
    for place, name in enumerate(categorical):
        # skl2onnx concatenates all columns of an encoder before it encodes them, so each column gets a separate
        # encoder.
        encoder = (
            OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
            if trees
            else OneHotEncoder(
                categories=[most_frequent(data.frame[name].value_counts() if counts is None else counts[name])],
                handle_unknown="ignore",
            )
        )
        # The step is not named after its column, because scikit-learn does not accept every text as the name of a step.
        parts.append((f"text {place}", encoder, [name]))
    return ColumnTransformer(parts, sparse_threshold=0.3 if _supports_sparse(estimator) else 0)


def by_user(make: Any, path: str, data: TrainingData) -> Any:
    """Call the user's function ``(numeric, categorical) -> transformer``.

    :param make: the function, which takes the names of the numeric and of the text features
    :param path: import path of the function
    :param data: the training data
    :raises TrainingError: the function raises an exception
    """
    numeric, categorical = feature_names(data)
    try:
        return make(numeric, categorical)
    except Exception as error:
        raise TrainingError(f"Preprocessing function {path!r} raised {type(error).__name__}: {error}") from error


def nearest_neighbours() -> tuple[type, ...]:
    """Return scikit-learn's nearest-neighbour classes."""
    from sklearn import neighbors

    return (
        neighbors.KNeighborsClassifier,
        neighbors.KNeighborsRegressor,
        neighbors.RadiusNeighborsClassifier,
        neighbors.RadiusNeighborsRegressor,
    )


def feature_names(data: TrainingData) -> tuple[list[str], list[str]]:
    """Return the names of the numeric features and of the text features."""
    numeric = [feature.name for feature in data.features if feature.kind != "string"]
    return numeric, [feature.name for feature in data.features if feature.kind == "string"]


def most_frequent(counts: Mapping[str, int] | pd.Series[int]) -> NDArray[Any]:
    """Return the :data:`MAX_CATEGORIES` most frequent values in alphabetical order.

    They are chosen here, because OneHotEncoder's own ``max_categories`` cannot be exported to ONNX. Ties are broken by
    name, so the result is reproducible.

    :param counts: number of rows with each value
    """
    chosen = sorted(counts.keys(), key=lambda value: (-counts[value], value))[:MAX_CATEGORIES]
    return np.array(sorted(chosen), dtype=object)


def _is_tree(estimator: Any) -> bool:
    from sklearn import ensemble, tree

    families = (
        "BaggingClassifier BaggingRegressor ExtraTreesClassifier ExtraTreesRegressor GradientBoostingClassifier "
        "GradientBoostingRegressor HistGradientBoostingClassifier HistGradientBoostingRegressor "
        "RandomForestClassifier RandomForestRegressor"
    )
    kinds = (tree.BaseDecisionTree, *(getattr(ensemble, name) for name in families.split()))
    if isinstance(estimator, (ensemble.BaggingClassifier, ensemble.BaggingRegressor)):
        return estimator.estimator is None or _is_tree(estimator.estimator)
    return isinstance(estimator, kinds)


def _supports_nan(estimator: Any) -> bool:
    # Other trees of scikit-learn support NaN too, but their ONNX export does not.
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    return isinstance(estimator, (HistGradientBoostingClassifier, HistGradientBoostingRegressor))


def _supports_sparse(estimator: Any) -> bool:
    from sklearn.utils import get_tags

    # A nearest-neighbour model stores its training rows, and skl2onnx cannot export sparse rows.
    return bool(get_tags(estimator).input_tags.sparse) and not isinstance(estimator, nearest_neighbours())
