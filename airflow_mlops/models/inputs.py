"""Convert Arrow columns to a model's inputs, in the same way for training and for scoring.

Numbers are rounded to single precision, in which most ONNX models compute. Integers and decimals that double precision
cannot represent are rounded to it first. The same number in a request, whose numbers may be integers or doubles, then
has the same value. A null number becomes NaN, and a null text becomes the empty text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import FeatureColumn
from airflow_mlops.core.errors import SchemaError
from airflow_mlops.data.types import as_doubles

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


def feature_columns(schema: pa.Schema, names: Iterable[str]) -> list[FeatureColumn]:
    """Return the features with their kind (number or text), in the order of ``names``.

    :param schema: schema of the data
    :param names: names of the features
    :raises SchemaError: a column is absent, or is neither numeric nor text
    """
    columns = []
    for name in names:
        kind = schema.field(_index(schema, name)).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if _is_text(kind):
            columns.append(FeatureColumn(name=name, kind="string"))
        elif _is_number(kind):
            columns.append(FeatureColumn(name=name, kind="number"))
        else:
            raise SchemaError(
                f"Feature {name!r} has the type {kind}, which no model supports. Convert it to numbers or text."
            )
    return columns


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_number(kind: pa.DataType) -> bool:
    checks = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
        pa.types.is_decimal,
        pa.types.is_null,
    )
    return any(check(kind) for check in checks)


def _index(schema: pa.Schema, name: str) -> int:
    index = schema.get_field_index(name)
    if index < 0:
        raise SchemaError(
            f"The data has no column {name!r}, which is a feature of the model. The data has the "
            f"columns {', '.join(map(repr, schema.names))}. Add the feature to the data."
        )
    return int(index)


def column(data: pa.Table | pa.RecordBatch, name: str) -> pa.Array:
    """Return a column as one contiguous array.

    :raises SchemaError: the data has no such column
    """
    found = data.column(_index(data.schema, name))
    if isinstance(found, pa.ChunkedArray):
        return found.chunk(0) if found.num_chunks == 1 else found.combine_chunks()
    return found


def numbers(values: pa.Array, name: str) -> NDArray[np.float32]:
    """Convert a numeric column to float32. Nulls become NaN.

    :raises SchemaError: the column is not numeric
    """
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if not _is_number(kind):
        raise SchemaError(
            f"Feature {name!r} was numeric in training, but has the type {kind} in this data. Convert it to numbers."
        )
    if pa.types.is_boolean(kind):
        values = pc.cast(values, pa.uint8())
    elif pa.types.is_decimal(kind):
        values = as_doubles(values)
    elif pa.types.is_int64(kind) or pa.types.is_uint64(kind):
        values = pc.cast(values, pa.float64(), safe=False)
    # With safe=False, large integers are rounded as in NumPy, and do not raise an error.
    found: NDArray[np.float32] = pc.cast(values, pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    return found


def texts(values: pa.Array, name: str) -> pa.DictionaryArray:
    """Convert a text column to a dictionary array. Nulls become the empty text.

    :raises SchemaError: the column is not text
    """
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if pa.types.is_null(kind):
        values = values.cast(pa.string())
    elif not _is_text(kind):
        raise SchemaError(
            f"Feature {name!r} was text in training, but has the type {kind} in this data. Convert it to text."
        )
    if not pa.types.is_dictionary(values.type):
        values = (pc.fill_null(values, "") if values.null_count else values).dictionary_encode()
    elif values.null_count or values.dictionary.null_count:
        values = pc.fill_null(values.cast(kind), "").dictionary_encode()
    return values


def frame(data: pa.Table | pa.RecordBatch, features: Sequence[FeatureColumn]) -> pd.DataFrame:
    """Convert the features to a DataFrame for estimators. Numeric columns are float64, text columns are objects."""
    import pandas as pd

    columns = {}
    for feature in features:
        values = column(data, feature.name)
        if feature.kind == "string":
            encoded = texts(values, feature.name)
            known = encoded.dictionary.to_numpy(zero_copy_only=False).astype(object)
            columns[feature.name] = known[encoded.indices.to_numpy()] if len(known) else [""] * len(encoded)
        else:
            columns[feature.name] = numbers(values, feature.name).astype("float64")
    return pd.DataFrame(columns, columns=[feature.name for feature in features])
