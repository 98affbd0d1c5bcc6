"""``TransferModelOperator``, which copies a model version with its evidence to another registered model."""

from __future__ import annotations

from typing import Any

from airflow_mlops.operators.base import StepOperator


class TransferModelOperator(StepOperator):
    """Copies a model version with its evidence from one MLflow registry to another, for example to production.

    The evidence is the results of the version's evaluation and the hashes of the files that were evaluated. The files
    are copied unchanged, and nothing is trained. The operator registers a version in the target registry, and writes an
    entry with the decision ``received`` to the ledger of the target model. The champion of the target model does not
    change. The version must have passed an evaluation in the source registry. A version that was transferred before is
    not copied again.

    The extra ``artifacts`` of a connection is the URL of the artifact store with the ledgers of this registry. By
    default, it is the store of the task. Source and target need different stores or different names of the model.

    :param model: name of the registered model to copy from
    :param target_conn_id: id of the Airflow connection to the MLflow server to copy to
    :param version: number or alias of the version to copy
    :param target_model: name of the registered model to copy to; by default ``model``
    :param mlflow_conn_id: id of the Airflow connection to the MLflow server to copy from
    """

    step = "transfer"

    def __init__(
        self,
        *,
        model: str,
        target_conn_id: str,
        version: int | str = "champion",
        target_model: str | None = None,
        mlflow_conn_id: str = "mlflow_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.assign_parameters(locals())

    def decision(self, result: dict[str, Any]) -> str:
        version = result["candidate"]["version"]
        return f"copied as v{version}" if result["transferred"] else f"unchanged: v{version}"
