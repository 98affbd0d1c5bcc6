"""Convert labels to a column that can be profiled, to measure label drift."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.data.columns import LABEL
from airflow_mlops.profiles.columns.base import decoded
from airflow_mlops.profiles.columns.numeric import is_numeric


def labels(batches: Iterable[pa.RecordBatch], contract: ModelContract) -> Iterator[pa.RecordBatch]:
    """Yield the column :data:`~airflow_mlops.data.columns.LABEL` of the rows that have a label.

    Numeric labels of a regression become float64. Class labels become text, because the same class may be ``true`` in
    one dataset and 1 in another dataset.

    :param batches: rows with the label column
    :param contract: model contract with the ML task and the classes
    """
    for batch in batches:
        values = batch.column(LABEL)
        known = decoded(values.filter(pc.invert(pc.is_null(values, nan_is_null=True))))
        if contract.task != "regression":
            known = _named(known, contract)
        elif is_numeric(known.type):
            known = known.cast(pa.float64(), safe=False)
        yield pa.RecordBatch.from_arrays([known], [LABEL])


def _named(values: pa.Array, contract: ModelContract) -> pa.Array:
    encoded = values.dictionary_encode()
    # In Python, True == 1 == 1.0, so these three labels get the name of the same class.
    names = {value: str(value) for value in contract.classes}
    texts = [names.get(value, str(value)) for value in encoded.dictionary.to_pylist()]
    return pa.array(texts, pa.string()).take(encoded.indices)
