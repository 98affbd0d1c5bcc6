"""What really happened, as a column whose drift can be measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.data.columns import LABEL
from airflow_mlops.profiles.columns.base import decoded
from airflow_mlops.profiles.columns.numeric import is_numeric


def labels(batches: Iterable[pa.RecordBatch], contract: ModelContract) -> Iterator[pa.RecordBatch]:
    """The column :data:`~airflow_mlops.data.columns.LABEL` alone, of the rows that have one: text for classes,
    which may be true in one dataset and 1 in another, and float64 for a regression.

    :param batches: with that column
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
    # As in Python, true is 1 is 1.0.
    names = {value: str(value) for value in contract.classes}
    texts = [names.get(value, str(value)) for value in encoded.dictionary.to_pylist()]
    return pa.array(texts, pa.string()).take(encoded.indices)
