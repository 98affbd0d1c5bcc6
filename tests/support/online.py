"""Compare the scores of the online server with those of batch scoring."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from airflow_mlops.serving.rows.request import InputColumns

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_mlops.models.onnx.scorer import OnnxModel

# Rows that are also requested one by one.
_SINGLE = 20


def assert_online_equals_batch(model: OnnxModel, table: pa.Table) -> None:
    """Check that requests with the rows of ``table``, together and one by one, get the scores of the batch bit for bit."""
    rows = json.loads(json.dumps(table.select([feature.name for feature in model.contract.features]).to_pylist()))
    columns, batch = InputColumns(model.contract), model.predict(table)
    for start, end in ((0, len(rows)), *((row, row + 1) for row in range(min(_SINGLE, len(rows))))):
        request = columns.rows(rows[start:end])
        found = model.predict_values(request.features, request.count)
        np.testing.assert_array_equal(found.score, batch.score[start:end])
        np.testing.assert_array_equal(found.prediction, batch.prediction[start:end])
    # A dataset may have a single row, too.
    np.testing.assert_array_equal(model.predict(table.slice(3, 1)).score, batch.score[3:4])
