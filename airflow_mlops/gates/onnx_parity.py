"""The difference between the ONNX export and the model it was made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, FiniteFloat

from airflow_mlops.core.contract import Task
from airflow_mlops.core.errors import SpecError
from airflow_mlops.gates.base import Gate
from airflow_mlops.registry.verdict import GateResult

if TYPE_CHECKING:
    from airflow_mlops.gates.evidence import Evidence


class OnnxParity(Gate):
    """``{"max_onnx_difference": 1e-5}``, ``{"max_onnx_difference": 1e-6, "quantile": "p99", "label_flips": 0.001}``.

    The gate reads what TrainOperator measured on held-out rows when it made the export, see
    :class:`airflow_mlops.core.contract.Parity`. A model that was not made by TrainOperator has no export and passes.

    :param max_onnx_difference: the largest allowed difference of the probabilities, or of the value
    :param quantile: ``max`` limits the largest difference, ``p99`` the 99th percentile over the rows
    :param label_flips: the largest allowed share of rows whose predicted label differs; unlimited by default
    """

    max_onnx_difference: Annotated[FiniteFloat, Field(ge=0)]
    quantile: Literal["max", "p99"] = "max"
    label_flips: Annotated[FiniteFloat, Field(ge=0, le=1)] | None = None

    @property
    def name(self) -> str:
        flips = "" if self.label_flips is None else f", labels in at most {self.label_flips:.4g} of the rows"
        return f"ONNX export within {self.max_onnx_difference:g} of the model ({self.quantile}){flips}"

    def suits(self, task: Task) -> None:
        super().suits(task)
        if task == "regression" and self.label_flips is not None:
            raise SpecError(f"Gate {self.name!r} has label_flips, and a regression predicts no labels: leave it out.")

    def check(self, evidence: Evidence) -> GateResult:
        from airflow_mlops.models.pyfunc.scorer import PyfuncModel

        model, limit = self._model(evidence), self.max_onnx_difference
        if isinstance(model, PyfuncModel):
            return self._result(
                None, limit, True, "The model was not made by TrainOperator, so it is scored without an ONNX export."
            )
        parity = model.contract.parity
        if parity is None:
            return self._result(
                None,
                limit,
                False,
                "The difference between the ONNX export and the model was not recorded: train the model again.",
            )
        measured = parity.max_difference if self.quantile == "max" else parity.p99_difference
        limits = {f"{limit:g} ({self.quantile})": measured <= limit}
        if self.label_flips is not None:
            flips = (parity.label_flips or 0) / parity.rows
            limits[f"{self.label_flips:.4g} of the labels"] = flips <= self.label_flips
        exceeded = [text for text, is_kept in limits.items() if not is_kept]
        return self._result(
            measured,
            limit,
            not exceeded,
            f"The ONNX export {parity}; {'exceeded' if exceeded else 'allowed'}: at most "
            f"{' and '.join(exceeded or limits)}.",
            rows=parity.rows,
        )
