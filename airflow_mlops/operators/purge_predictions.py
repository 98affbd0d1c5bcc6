"""Retention of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_mlops.operators.base import StepOperator
from airflow_mlops.stages.purge_predictions.spec import PurgePredictionsSpec

if TYPE_CHECKING:
    from airflow.sdk import Context


class PurgePredictionsOperator(StepOperator):
    """Deletes the rows of a model's old predictions, and of what labels were joined to; their manifests stay as a record.

    :param model: the registered model's name
    :param older_than: how old they must be, as in ``90D`` or a ``timedelta``: since the end of their window, or since they
        were made if that was later
    :param predictions: the name of the predictions' dataset; ``MODEL_predictions`` unless given
    :param outcomes: the name of the joined dataset; ``MODEL_outcomes`` unless given
    """

    step = "purge_predictions"
    spec = PurgePredictionsSpec
    template_fields: Sequence[str] = (
        *StepOperator.template_fields, "model", "older_than", "predictions", "outcomes",
    )  # fmt: skip

    def __init__(
        self,
        *,
        model: str,
        older_than: str | timedelta,
        predictions: str | None = None,
        outcomes: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.older_than = older_than
        self.predictions = predictions
        self.outcomes = outcomes

    def build_spec(self, context: Context) -> dict[str, Any]:
        return {
            "model": self.model,
            "older_than": self.older_than,
            "predictions": self.predictions,
            "outcomes": self.outcomes,
        }
