"""A gate that limits the size of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops.core.numbers import rounded
from airflow_mlops.gates.base import Gate, Positive
from airflow_mlops.registry.records.verdict import GateResult

if TYPE_CHECKING:
    from airflow_mlops.gates.evidence import Evidence


class Size(Gate):
    """A gate that limits the size of the stored model.

    Example: ``{"max_size_mb": 50}``. The gate measures the ONNX file. If TrainOperator did not train the model,
    the gate measures all files of the model.

    :param max_size_mb: the largest allowed size, in megabytes (1,000,000 bytes)
    """

    max_size_mb: Positive

    @property
    def name(self) -> str:
        return f"model of at most {self.max_size_mb:g} MB"

    def check(self, evidence: Evidence) -> GateResult:
        size = self._model(evidence).size_bytes / 1e6
        passed = size <= self.max_size_mb
        return self._result(
            size,
            self.max_size_mb,
            passed,
            f"The size of the model is {rounded(size, 3)} MB (limit: {self.max_size_mb:g} MB).",
        )
