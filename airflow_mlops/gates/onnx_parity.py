"""How near the ONNX export must be to the model it was made from."""

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

    Judges what TrainOperator measured on held-out rows when it made the export, see
    :class:`airflow_mlops.core.contract.Parity`. A model from elsewhere has no export, and passes.

    :param max_onnx_difference: by how much probabilities, or the value, may differ
    :param quantile: of which of the rows' differences: the largest, or the one that 99% of the rows keep
    :param label_flips: in which share of the rows the predicted label may differ; any unless given
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
            raise SpecError(f"Gate {self.name!r} has label_flips, and a regression has no labels: leave it out.")

    def check(self, evidence: Evidence) -> GateResult:
        from airflow_mlops.models.pyfunc.scorer import PyfuncModel

        model, asked = self._model(evidence), self.max_onnx_difference
        if isinstance(model, PyfuncModel):
            return self._answer(
                None, asked, True, "The model came from elsewhere: it has no ONNX export, and answers as it is."
            )
        parity = model.contract.parity
        if parity is None:
            return self._answer(
                None,
                asked,
                False,
                "Nobody knows how near the ONNX export is to the model, which was trained before that was kept: train it "
                "again.",
            )
        measured = parity.max_difference if self.quantile == "max" else parity.p99_difference
        kept = {f"{asked:g} ({self.quantile})": measured <= asked}
        if self.label_flips is not None:
            flips = (parity.label_flips or 0) / parity.rows
            kept[f"{self.label_flips:.4g} of the labels"] = flips <= self.label_flips
        missed = [what for what, is_kept in kept.items() if not is_kept]
        return self._answer(
            measured,
            asked,
            not missed,
            f"The ONNX export {parity}, {'but' if missed else 'and'} at most {' and '.join(missed or kept)} were asked.",
            rows=parity.rows,
        )
