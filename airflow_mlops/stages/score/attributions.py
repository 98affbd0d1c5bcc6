"""The columns of attributions that scoring adds to the predictions with ``explain``."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import pyarrow as pa

from airflow_mlops.data.columns import ATTRIBUTION_COLUMNS

if TYPE_CHECKING:
    from airflow_mlops.metrics.predictions import Predictions
    from airflow_mlops.models.attributions import Explainer


def with_attributions(
    scored: pa.RecordBatch, rows: pa.RecordBatch, found: Predictions, explainer: Explainer, private: Collection[str]
) -> pa.RecordBatch:
    """Return ``scored`` with the columns :data:`~airflow_mlops.data.columns.ATTRIBUTION_COLUMNS`.

    The attributions of a row are sorted by their absolute value in descending order.

    :param scored: the output rows, with the columns of the predictions
    :param rows: the same rows as input, with a column for each feature
    :param found: the predictions of these rows
    :param explainer: computes the attributions
    :param private: names of hashed and dropped features, whose attributions are left out
    """
    # This module imports libraries of models, which the executors of Spark lack.
    from airflow_mlops.models.attributions import sorted_lists

    values, base = explainer.attribute(rows, found)
    kept = [place for place, name in enumerate(explainer.features) if name not in private]
    added = (sorted_lists([explainer.features[place] for place in kept], values[:, kept]), pa.array(base))
    for name, column in zip(ATTRIBUTION_COLUMNS, added, strict=True):
        scored = scored.append_column(name, column)
    return scored
