"""The size of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops.gates.base import Gate, Positive
from airflow_mlops.registry.verdict import GateResult

if TYPE_CHECKING:
    from airflow_mlops.gates.evidence import Evidence


class Size(Gate):
    """``{"max_size_mb": 50}``: the largest size in megabytes (1,000,000 bytes) of the ONNX file, or of all files of a
    model that was not made by TrainOperator.
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
            f"The model has {size:.3g} MB; allowed: at most {self.max_size_mb:g} MB.",
        )
