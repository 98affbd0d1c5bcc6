"""``CompareFeaturesOperator``, which compares the features that a server looked up with the point-in-time join."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_mlops.operators.base import StepOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class CompareFeaturesOperator(StepOperator):
    """Compares the features that servers looked up online with Feast's point-in-time join for the time of each answer.

    Unequal values mean that the online store was stale when the server answered, or that rows of the source arrived
    later. The dataset ``MODEL_feature_differences`` names each unequal value.

    :param model: name of the registered model
    :param dataset: the predictions that servers have logged: ``{"name": ..., "window": ...}``
    :param repo: path of the folder with ``feature_store.yaml``, on the machine on which the step runs
    :param min_equal: smallest share of rows whose features are all equal, 0 to 1. If fewer rows are equal, the task
        fails
    :param mlflow_conn_id: id of the Airflow connection to MLflow
    """

    step = "compare_features"

    def __init__(
        self,
        *,
        model: str,
        dataset: Any,
        repo: str,
        min_equal: float | str = 1.0,
        mlflow_conn_id: str = "mlflow_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.assign_parameters(locals())

    def finish(self, result: dict[str, Any], context: Context) -> None:
        self.describe_outlets(context, {name: result[name] for name in ("compared", "equal", "features")})
