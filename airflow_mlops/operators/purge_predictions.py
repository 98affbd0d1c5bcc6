"""``PurgePredictionsOperator``, which deletes old predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_mlops.operators.base import StepOperator

if TYPE_CHECKING:
    from datetime import timedelta


class PurgePredictionsOperator(StepOperator):
    """Deletes the rows of old predictions and old labelled predictions of a model.

    The manifests of the datasets are kept as a record.

    :param model: name of the registered model
    :param older_than: the age from which datasets are deleted, such as ``90D`` or a ``timedelta``. The age of a dataset
        is the time since the end of its window or since its creation, whichever is shorter
    :param predictions: name of the dataset of predictions; by default ``MODEL_predictions``
    :param outcomes: name of the dataset of labelled predictions; by default ``MODEL_outcomes``
    """

    step = "purge_predictions"

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
        self.assign_parameters(locals())
