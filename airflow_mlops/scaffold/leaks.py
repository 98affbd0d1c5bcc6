"""Find columns that are known only when the label is known: such a column must not be a feature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_mlops.core.contract import Task
from airflow_mlops.data.types import as_numbers
from airflow_mlops.scaffold.columns import Column
from airflow_mlops.stages.training_set.spec import MAX_SINGLE_FEATURE_SCORE

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_mlops.gates.single_features import Numbers

# If the probability of nulls in all rows without a label is below this, the nulls are not a coincidence.
_CHANCE = 1e-6


def known_with(column: Column, label: Column) -> bool:
    """Return whether a column is null in all rows without a label, and this is not a coincidence.

    It is not a coincidence in two cases. The column has hardly any other nulls. Or the share of nulls in the labelled rows
    makes it very unlikely that the column is null in every unlabelled row by chance.
    """
    import pyarrow.compute as pc

    if not label.nulls or not column.nulls:
        return False
    without = pc.is_null(label.values)
    null = pc.is_null(column.values)
    both = pc.sum(pc.and_(without, null)).as_py() or 0
    if both < label.nulls:
        return False
    others = len(column.values) - label.nulls
    share = (column.nulls - both) / others if others else 1.0
    few = column.nulls <= 1.1 * label.nulls
    return bool(few or (share < 1 and (share == 0 or label.nulls * math.log(share) < math.log(_CHANCE))))


def find(label: Column, columns: Sequence[Column], task: Task) -> dict[str, str]:
    """Return the columns that alone predict the label too well for BuildTrainingSetOperator, and their scores as text.

    :param label: the label. Rows in which it is null are not used
    :param columns: the columns that could be features
    :param task: the ML task
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from airflow_mlops.gates.single_features import single_features

    if not columns:
        return {}
    known = pc.is_valid(label.values)
    table = pa.table({column.name: as_numbers(column.values) for column in columns}).filter(known)
    # The order of the rows is often related to the label, and neighbours are compared with each other.
    ids = np.random.default_rng(0).permutation(table.num_rows)

    def take(names: Sequence[str], index: Numbers) -> pa.Table:
        return table.select(list(names)).take(pa.array(index))

    target = as_numbers(label.values.filter(known))
    found = single_features(target, table.column_names, task, ids, take)
    scores = {name: score for name, score in found.scores.items() if score > MAX_SINGLE_FEATURE_SCORE}
    measure = "R²" if found.measure == "R2" else found.measure
    return {name: f"{measure} {score:.4f}" for name, score in scores.items()}
