"""Baselines of the candidates: a small decision tree, and the statistical models whose forecasts are in the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.sample_weights import as_weights, numbers
from airflow_mlops.gates.evidence import HeldOut, take
from airflow_mlops.metrics.forecasts import statistical_of
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.metrics.rows import encode
from airflow_mlops.models import inputs

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

TRAIN, ROWS, DEPTH, SEED = "train", 100_000, 3, 0


def small_tree(data: HeldOut, contract: ModelContract) -> Predictions | None:
    """Fit a decision tree of depth 3, and return the tree's predictions for the held-out rows.

    The tree is fitted to a random sample of at most 100,000 rows of the split part ``train`` of the same dataset. If
    the held-out rows have weights, the rows of the sample are weighted as well.

    :param data: the held-out rows
    :param contract: a candidate's model contract, which names the features and the classes
    :return: ``None`` if the dataset has no split part ``train``, if the held-out rows are the split part ``train``, or
        if the sample has no two different labels or no positive weight
    """
    if data.part == TRAIN or TRAIN not in data.dataset.ref.parts:
        return None
    from sklearn.compose import make_column_transformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    names = [feature.name for feature in contract.features]
    weighted = [data.weight_column] if data.weight_column else []
    table = _sample(data.dataset, [*dict.fromkeys([*names, *weighted, data.label])])
    labels = table.column(data.label).combine_chunks()
    if pa.types.is_dictionary(labels.type):
        labels = labels.dictionary_decode()
    regression = contract.task == "regression"
    target = labels.to_numpy(zero_copy_only=False)
    target = target.astype(np.float64) if regression else encode(target, contract.classes)
    if not len(target) or np.ptp(target) == 0:
        return None
    weight = None
    if data.weight_column:
        column = table.column(data.weight_column)
        # All sampled rows may have a weight of 0. Nulls are NaN here, which is not 0, so as_weights refuses them.
        if not numbers(column).any():
            return None
        weight = as_weights(
            column, data.weight_column, f"split part {TRAIN!r} of dataset {data.dataset.manifest.name!r}"
        )
    tree = (DecisionTreeRegressor if regression else DecisionTreeClassifier)(max_depth=DEPTH, random_state=SEED)
    texts = [feature.name for feature in contract.features if feature.kind == "string"]
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    fitted = make_pipeline(make_column_transformer((codes, texts), remainder="passthrough"), tree)
    fitted.fit(_frame(table, contract), target, **{f"{fitted.steps[-1][0]}__sample_weight": weight})
    outputs = [_predict(fitted, _frame(batch, contract), regression) for batch in data.batches(names)]
    return _predictions(np.concatenate(outputs), tree, contract)


def untrainable(data: HeldOut) -> str:
    """Return why :func:`small_tree` fits no tree, as a clause. Call this function only if it returned ``None``."""
    if data.part == TRAIN:
        return f"they are evaluated on the split part {TRAIN!r}, to which the tree would be fitted"
    name = f"dataset {data.dataset.manifest.name!r}"
    if TRAIN not in data.dataset.ref.parts:
        return f"{name} has no split part {TRAIN!r}"
    labels = f"fewer than two different values of the label {data.label!r}"
    weights = f", or only the weight 0 in column {data.weight_column!r}" if data.weight_column else ""
    return f"the sampled rows of the split part {TRAIN!r} of {name} have {labels}{weights}"


def statistical_columns(data: HeldOut) -> list[str]:
    """Return the columns with the forecasts of statistical models (``models`` of BuildForecastRowsOperator)."""
    manifest = data.dataset.manifest
    if data.task != "regression":
        return []
    return [name for name in statistical_of(manifest.details) if name in manifest.column_names]


def _sample(dataset: Dataset, columns: Sequence[str]) -> pa.Table:
    """Read a random sample of the rows with a label, in the order of the dataset."""
    rows = dataset.ref.parts[TRAIN]
    index = np.sort(np.random.default_rng(SEED).permutation(rows)[:ROWS])
    table = take(dataset.batches(TRAIN, columns), index)
    return table.filter(pc.invert(pc.is_null(table.column(columns[-1]), nan_is_null=True)))


def _frame(data: pa.Table | pa.RecordBatch, contract: ModelContract) -> pd.DataFrame:
    return inputs.frame(data, contract.features).replace([np.inf, -np.inf], np.nan)


def _predict(fitted: Any, frame: pd.DataFrame, regression: bool) -> NDArray[np.float64]:
    return np.asarray(fitted.predict(frame) if regression else fitted.predict_proba(frame), dtype=np.float64)


def _predictions(outputs: NDArray[np.float64], tree: Any, contract: ModelContract) -> Predictions:
    if contract.task == "regression":
        return Predictions(outputs, outputs, None)
    probabilities = np.zeros((len(outputs), len(contract.classes)))
    valid = tree.classes_ >= 0
    probabilities[:, tree.classes_[valid]] = outputs[:, valid]
    classes = np.asarray(contract.classes, dtype=object)
    if contract.task == "multiclass":
        return Predictions(classes[probabilities.argmax(axis=1)], probabilities.max(axis=1), probabilities)
    column = contract.classes.index(contract.classes[-1] if contract.positive is None else contract.positive)
    score = probabilities[:, column]
    return Predictions(classes[np.where(score >= contract.threshold, column, 1 - column)], score, probabilities)
