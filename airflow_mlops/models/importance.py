"""Permutation importance: how much worse a model gets when one of its features is shuffled (L. Breiman, "Random
Forests", 2001). Features that say the same share it between them, and either may look unimportant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from airflow_mlops.core.errors import EvaluationError
from airflow_mlops.metrics.catalog import METRICS
from airflow_mlops.metrics.rows import predicted
from airflow_mlops.metrics.statistics import statistic
from airflow_mlops.models.scorer import Scorer

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS, SEED = 5_000, 0


def measure(
    model: Scorer,
    truth: NDArray[Any],
    take: Callable[[Sequence[str], NDArray[np.int64]], pa.Table],
    metric: str,
) -> dict[str, float]:
    """How much worse ``metric`` gets when one feature is shuffled, on a sample of at most :data:`ROWS` rows.

    :param truth: the labels, shape (n,)
    :param take: columns by name, of the rows at ascending positions
    :return: by feature; empty where it cannot be measured
    """
    contract, random = model.contract, np.random.default_rng(SEED)
    rows = np.sort(random.permutation(len(truth))[:ROWS])
    truth, sample = truth[rows], take([item.name for item in contract.features], rows)
    sign = 1 if METRICS[metric].higher_is_better else -1
    try:
        whole = statistic(metric, known := predicted(truth, model.predict(sample), contract)).of(known)
        worse = {}
        for position, feature in enumerate(contract.features):
            shuffled = sample.column(position).take(pa.array(random.permutation(len(rows))))
            predictions = model.predict(sample.set_column(position, feature.name, shuffled))
            known = predicted(truth, predictions, contract)
            worse[feature.name] = sign * (whole - statistic(metric, known).of(known))
    except EvaluationError:
        # A small sample may hold one class only.
        return {}
    return worse


def shares(worse: Mapping[str, float]) -> dict[str, float]:
    """Each feature's share of the total, from 0 to 1; one that does better shuffled has none.

    :param worse: what :func:`measure` returns
    :return: by feature; empty where nothing matters, or nothing is known
    """
    counted = {name: value if value > 0 else 0.0 for name, value in worse.items()}
    total = sum(counted.values())
    return {name: value / total for name, value in counted.items()} if 0 < total < np.inf else {}
