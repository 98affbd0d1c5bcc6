"""Compute the attributions of rows in a separate process: ``python -m airflow_mlops.serving.processes.explain``.

The process reads messages from standard input (:mod:`airflow_mlops.serving.sending.explanations`) and writes one message to
standard output for each. It ends when standard input is closed. The libraries of boosted trees take time and memory to
load, and could crash when they read a stored model. Because they run in a separate process, requests without
attributions are not affected.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from airflow_mlops.core.errors import EvaluationError, MLOpsError, ModelFormatError, SchemaError
from airflow_mlops.data.columns import ATTRIBUTION_COLUMNS
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.models.attributions import Explainer, load, sorted_lists
from airflow_mlops.models.contract_file import read_contract
from airflow_mlops.serving.processes.frames import packed, unpacked

# Number of versions that stay loaded: the champion, the version before it, and the canary.
_KEPT = 3
# Errors that are answered with status 422, because another request can avoid them.
_REFUSED = (ModelFormatError, EvaluationError, SchemaError)


class Explainers:
    """The loaded versions."""

    def __init__(self) -> None:
        self._loaded: OrderedDict[str, Explainer] = OrderedDict()

    def find(self, folder: str, name: str) -> Explainer:
        """Return the explainer of a version, which is loaded if necessary.

        :param folder: the downloaded files of the version
        :param name: name of the version, for error messages
        :raises ModelFormatError: there are no exact attributions for the version, or its files cannot be read
        :raises SpecError: the library of the model is not installed
        """
        if folder not in self._loaded:
            self._loaded[folder] = load(Path(folder), read_contract(Path(folder)), name)
        self._loaded.move_to_end(folder)
        while len(self._loaded) > _KEPT:
            self._loaded.popitem(last=False)
        return self._loaded[folder]


def answer(explainers: Explainers, head: dict[str, Any], rows: pa.Table) -> tuple[dict[str, Any], pa.RecordBatch]:
    """Return the attributions of rows, in the columns in which batch scoring writes them.

    :param explainers: the loaded versions
    :param head: folder and name of the version, and the probabilities of each row for a multiclass model
    :param rows: the rows, with a column for each feature
    :return: the scale of the attributions, and a batch with the columns
        :data:`~airflow_mlops.data.columns.ATTRIBUTION_COLUMNS`; or the error, and an empty batch
    """
    try:
        explainer = explainers.find(head["folder"], head["name"])
        probabilities = head["probabilities"]
        found = Predictions(
            np.empty(0), np.empty(0), None if probabilities is None else np.array(probabilities, np.float64)
        )
        batch = pa.RecordBatch.from_arrays(
            [rows[name].combine_chunks() for name in rows.column_names], names=rows.column_names
        )
        values, base = explainer.attribute(batch, found)
    except MLOpsError as error:
        return {"error": str(error), "refused": isinstance(error, _REFUSED)}, pa.RecordBatch.from_pydict({})
    columns = [sorted_lists(explainer.features, values), pa.array(base)]
    return {"scale": explainer.scale}, pa.RecordBatch.from_arrays(columns, names=list(ATTRIBUTION_COLUMNS))


def main() -> None:
    """Answer messages until standard input is closed, which happens when the server ends."""
    # Ctrl-C is handled by the server, which then closes standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What a library prints must not be mixed with the messages.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    explainers = Explainers()
    while (message := unpacked(sys.stdin.buffer)) is not None:
        out.write(packed(*answer(explainers, *message)))
        out.flush()


if __name__ == "__main__":
    main()
