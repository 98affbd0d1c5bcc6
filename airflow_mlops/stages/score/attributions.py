"""The columns of attributions that scoring adds to the predictions with ``explain``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from airflow_mlops.data.columns import ATTRIBUTION_COLUMNS

if TYPE_CHECKING:
    from airflow_mlops.metrics.predictions import Predictions
    from airflow_mlops.models.attributions import Explainer

# The type is the same for all models, so that predictions of several versions can be read together.
_TYPE = pa.list_(pa.struct([("feature", pa.string()), ("value", pa.float64())]))


def with_attributions(
    scored: pa.RecordBatch, rows: pa.RecordBatch, found: Predictions, explainer: Explainer, private: Collection[str]
) -> pa.RecordBatch:
    """Return ``scored`` with the columns :data:`~airflow_mlops.data.columns.ATTRIBUTION_COLUMNS`.

    The attributions of a row are sorted by their absolute value in descending order.

    :param scored: the rows with their predictions
    :param rows: the rows, with a column for each feature
    :param found: the predictions
    :param explainer: computes the attributions
    :param private: names of hashed and dropped features, whose attributions are left out
    """
    values, base = explainer.attribute(rows, found)
    kept = [place for place, name in enumerate(explainer.features) if name not in private]
    added = (_lists([explainer.features[place] for place in kept], values[:, kept]), pa.array(base))
    for name, column in zip(ATTRIBUTION_COLUMNS, added, strict=True):
        scored = scored.append_column(name, column)
    return scored


def _lists(features: Sequence[str], values: np.ndarray) -> pa.Array:
    rows, width = values.shape
    order = np.argsort(-np.abs(values), axis=1, kind="stable")
    names = pa.array(features, pa.string()).take(pa.array(order.ravel()))
    numbers = pa.array(np.take_along_axis(values, order, axis=1).ravel())
    items = pa.StructArray.from_arrays([names, numbers], fields=list(_TYPE.value_type))
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1) * width, pa.int32()), items, type=_TYPE)
