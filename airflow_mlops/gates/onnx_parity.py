"""A gate that limits the difference between the predictions of a model and of its ONNX export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, FiniteFloat

from airflow_mlops.core.contract import Task
from airflow_mlops.core.errors import SpecError
from airflow_mlops.gates.base import Gate
from airflow_mlops.registry.records.verdict import GateResult

if TYPE_CHECKING:
    from airflow_mlops.gates.evidence import Evidence


class OnnxParity(Gate):
    """A gate that limits the difference between the predictions of a model and of its ONNX export.

    Examples: ``{"max_onnx_difference": 1e-5}``,
    ``{"max_onnx_difference": 1e-6, "quantile": "p99", "label_flips": 0.001}``.

    TrainOperator measured the difference on held-out rows during the export of the model, see
    :class:`airflow_mlops.core.contract.Parity`. A model that TrainOperator did not train has no ONNX export and passes.

    :param max_onnx_difference: the largest allowed difference of the probabilities, or of the predicted value
    :param quantile: ``max`` limits the largest difference over the rows, ``p99`` the 99th percentile
    :param label_flips: the largest allowed share of rows with a different predicted label, from 0 to 1; unlimited by
        default
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
            raise SpecError(
                f"Gate {self.name!r} sets `label_flips`, but regression models predict no class labels. Remove `label_flips`."
            )

    def check(self, evidence: Evidence) -> GateResult:
        from airflow_mlops.models.pyfunc.scorer import PyfuncModel

        model, limit = self._model(evidence), self.max_onnx_difference
        if isinstance(model, PyfuncModel):
            return self._result(
                None, limit, True, "The model has no ONNX export, because TrainOperator did not train it."
            )
        parity = model.contract.parity
        if parity is None:
            return self._result(
                None,
                limit,
                False,
                "The difference between the ONNX export and the model was not recorded. Train the model again.",
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
            f"The ONNX export {parity}. {'Exceeded limit' if exceeded else 'Limit'}: {' and '.join(exceeded or limits)}.",
            rows=parity.rows,
        )
