"""How large a model may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops.gates.base import Gate, Positive
from airflow_mlops.registry.verdict import GateResult

if TYPE_CHECKING:
    from airflow_mlops.gates.evidence import Evidence


class Size(Gate):
    """``{"max_size_mb": 50}``: the ONNX file, or all the files of a model from
    elsewhere, have at most so many megabytes (of 1,000,000 bytes)."""

    max_size_mb: Positive

    @property
    def name(self) -> str:
        return f"model of at most {self.max_size_mb:g} MB"

    def check(self, evidence: Evidence) -> GateResult:
        size = self._model(evidence).size_bytes / 1e6
        passed = size <= self.max_size_mb
        return self._answer(
            size,
            self.max_size_mb,
            passed,
            f"The model has {size:.3g} MB, {'and' if passed else 'but'} at most {self.max_size_mb:g} MB were asked.",
        )
