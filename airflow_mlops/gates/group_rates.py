"""Count positive predictions in groups of rows, for the fairness metrics of gates and monitoring."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from airflow_mlops.gates.slice_search import by_column
from airflow_mlops.metrics.fairness_rule import FairnessRule
from airflow_mlops.registry.records.fairness import GroupRates

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


def group_rates(
    rule: FairnessRule, values: pa.Array, predicted: NDArray[np.bool_], truth: NDArray[np.bool_] | None = None
) -> list[GroupRates]:
    """Return the rates whose largest difference between two groups is the fairness metric. Each row counts once.

    :param rule: the fairness metric, and the column that defines the groups
    :param values: values of this column, shape (n,)
    :param predicted: whether the positive class is predicted, shape (n,)
    :param truth: whether the label is the positive class, shape (n,); needed for ``equalized_odds``
    """
    if not rule.needs_labels:
        among = {"share of positive predictions": np.ones(len(predicted), bool)}
    else:
        assert truth is not None
        among = {"true positive rate": truth, "false positive rate": ~truth}
    groups = list(by_column(rule.sensitive, values))
    return [
        GroupRates(
            of=of,
            groups={
                part.name: (int((predicted & counted)[part.index].sum()), int(counted[part.index].sum()))
                for part in groups
            },
        )
        for of, counted in among.items()
    ]
