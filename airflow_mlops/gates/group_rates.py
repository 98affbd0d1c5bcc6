"""Count positive predictions in groups of rows, for the fairness metrics of gates and monitoring."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.gates.slice_search import by_column
from airflow_mlops.metrics.clusters import design_of_share
from airflow_mlops.metrics.fairness_rule import FairnessRule
from airflow_mlops.registry.records.fairness import GroupRates

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


def group_rates(
    rule: FairnessRule,
    values: pa.Array,
    predicted: NDArray[np.bool_],
    truth: NDArray[np.bool_] | None = None,
    clusters: NDArray[np.int64] | None = None,
) -> list[GroupRates]:
    """Return the rates whose largest difference between two groups is the fairness metric. Each row counts once.

    :param rule: the fairness metric, and the column that defines the groups
    :param values: values of this column, shape (n,)
    :param predicted: whether the positive class is predicted, shape (n,)
    :param truth: whether the label is the positive class, shape (n,); needed for ``equalized_odds``
    :param clusters: number of the cluster of each row, shape (n,); ``None`` for independent rows
    """
    if not rule.needs_labels:
        among = {"share of positive predictions": np.ones(len(predicted), bool)}
    else:
        assert truth is not None
        among = {"true positive rate": truth, "false positive rate": ~truth}
    groups = list(by_column(rule.sensitive, values))
    return [
        _rates(of, {part.name: part.index[counted[part.index]] for part in groups}, predicted, clusters)
        for of, counted in among.items()
    ]


def _rates(
    of: str,
    rows: dict[str, NDArray[np.integer[Any]]],
    predicted: NDArray[np.bool_],
    clusters: NDArray[np.int64] | None,
) -> GroupRates:
    """Count the positive predictions among the rows of each group."""
    designs: dict[str, tuple[float | None, float]] = {}
    for name, index in rows.items():
        if clusters is not None and len(index):
            found = design_of_share(predicted[index].astype(float), clusters[index])
            designs[name] = (found.effect if math.isfinite(found.effect) else None, found.clusters)
    counts = {name: (int(predicted[index].sum()), len(index)) for name, index in rows.items()}
    return GroupRates(of=of, groups=counts, designs=designs)
