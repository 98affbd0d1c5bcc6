"""``UndeployOperator``, which removes an online endpoint from Kubernetes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_mlops.operators.base import StepOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.core.calls import StepCall
    from airflow_mlops.stages.undeploy.spec import UndeploySpec


class UndeployOperator(StepOperator):
    """Removes an endpoint that DeployOperator has created, and writes an entry to the ledger.

    Before the servers end, they answer the requests that they have received, and upload their predictions. If there is
    no endpoint, nothing is done.

    :param model: name of the registered model
    :param name: name of the endpoint's objects; by default derived from the name of the model
    :param namespace: namespace of the objects; by default the namespace of the Airflow connection
    :param kubernetes_conn_id: id of the Airflow connection to the cluster
    """

    step = "undeploy"

    model: str
    name: str | None
    namespace: str | None
    kubernetes_conn_id: str

    def __init__(
        self,
        *,
        model: str,
        name: str | None = None,
        namespace: str | None = None,
        kubernetes_conn_id: str = "kubernetes_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.assign_parameters(locals())

    def before_step(self, spec: UndeploySpec, context: Context, *, resumed: bool) -> UndeploySpec:
        from airflow_mlops.compute.kubernetes.serving.removal import find

        found = find(self.name, spec.model, self.namespace, self.kubernetes_conn_id)
        return spec.model_copy(update={"endpoint": found})

    def after_step(self, result: dict[str, Any], call: StepCall, context: Context) -> dict[str, Any]:
        from airflow_mlops.compute.kubernetes.serving.removal import remove_endpoint
        from airflow_mlops.stages.undeploy.spec import UndeployResult

        endpoint = UndeployResult.model_validate(result).endpoint
        if endpoint is not None:
            remove_endpoint(endpoint, self.kubernetes_conn_id)
        return result

    def decision(self, result: dict[str, Any]) -> str:
        return f"removed v{result['endpoint']['version']['version']}" if result["removed"] else "nothing to remove"
