"""``DeployOperator``, which deploys a model version on Kubernetes as an online endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetAlias

from airflow_mlops.links import EndpointLink, MLflowRunLink
from airflow_mlops.operators.base import StepOperator
from airflow_mlops.operators.rendering import is_known_text

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.compute.kubernetes.serving.rollout import Rollout
    from airflow_mlops.compute.kubernetes.serving.target import Target
    from airflow_mlops.core.calls import StepCall


class DeployOperator(StepOperator):
    """Deploys a version of a model on Kubernetes as an online endpoint.

    The operator applies the Kubernetes objects, waits until they are ready, and requests from each server the
    predictions for the version's input example. If a server does not become ready, or answers with another version or
    other scores, the operator restores the previous objects, and the task fails. Otherwise it writes an entry to the
    ledger and emits an event of the asset ``mlops://MODEL/deployed``.

    :param model: name of the registered model
    :param target: the Kubernetes objects: ``Deployment(pod=Pod(...))`` or ``KServe(pod=Pod(...))``
    :param version: number of the version to serve. By default the endpoint follows the champion: a promotion or
        rollback reaches it within seconds, without another deployment
    :param predictions: name of the datasets of predictions; by default ``MODEL_predictions``
    :param window: length of the time windows of the predictions: ``day`` or ``hour``
    :param log_predictions: whether the endpoint logs its predictions
    :param hash_columns: columns to log as keyed hashes (pseudonyms) instead of their values
    :param drop_columns: columns that are not logged
    :param hash_conn_id: id of the Airflow connection with the secret key for the hashes as password; required with
        ``hash_columns``
    :param sample: share of the requests that are logged, 0 to 1; by default 1
    :param shadow: number or alias of a version that scores the same rows. Its predictions are logged but not returned
    :param canary: number or alias of a version that answers a share of the requests
    :param canary_share: share of the requests that the canary answers, 0 to 1, until CanaryOperator sets another share;
        by default 0.1
    :param canary_key: field of the rows whose value decides whether the canary answers; by default the id of the
        request
    :param feast_repo: path, in the pods, of the folder of a Feast repository. The servers look up features in its
        online store
    :param token_conn_id: id of the Airflow connection whose password is the token of the endpoint; needed if the
        servers have the environment variable ``MLOPS_SERVE_TOKEN``
    :param mlflow_conn_id: id of the Airflow connection to MLflow. The servers use it, too
    """

    step = "deploy"
    operator_extra_links = (EndpointLink(), MLflowRunLink())

    model: str
    target: Target
    token_conn_id: str | None
    # Payload of the event that resumed the task.
    _event: dict[str, Any] | None = None
    _rollout: Rollout | None = None

    def __init__(
        self,
        *,
        model: str,
        target: Target,
        version: int | str | None = None,
        predictions: str | None = None,
        window: str = "day",
        log_predictions: bool = True,
        hash_columns: Sequence[str] = (),
        drop_columns: Sequence[str] = (),
        hash_conn_id: str | None = None,
        sample: float | str | None = None,
        shadow: str | None = None,
        canary: str | None = None,
        canary_share: float | str | None = None,
        canary_key: str | None = None,
        feast_repo: str | None = None,
        token_conn_id: str | None = None,
        mlflow_conn_id: str = "mlflow_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.assign_parameters(locals())
        self.deployed_alias = AssetAlias(f"mlops-{model}-deployed" if is_known_text(model) else "mlops-deployed")
        self.add_outlets([self.deployed_alias])

    def build_spec(self, context: Context) -> dict[str, Any]:
        fields = super().build_spec(context)
        # Templates render to text, so an undefined or None parameter of the DAG run is rendered to text, too.
        return fields | {"version": None} if fields.get("version") in ("", "None") else fields

    def after_step(self, result: dict[str, Any], call: StepCall, context: Context) -> dict[str, Any]:
        from airflow_mlops.compute.connections import airflow_connection
        from airflow_mlops.compute.kubernetes.serving.rollout import Rollout
        from airflow_mlops.data.store import ArtifactStore
        from airflow_mlops.stages.deploy.record import record
        from airflow_mlops.stages.deploy.spec import Check, DeployResult

        chosen, store = DeployResult.model_validate(result), ArtifactStore(call.store)
        check = Check.model_validate_json(store.read_bytes(chosen.check_key))
        token = airflow_connection(self.token_conn_id).secret if self.token_conn_id else None
        self._rollout = rollout = Rollout(self.target, call, chosen, context, self.log)
        endpoint = rollout.run(self._event, check, token)
        self._rollout = None
        summary = f"Deployed {chosen.version} as {endpoint}{', which follows the champion' if chosen.follows else ''}."
        url = record(store, call.key, call.provenance, "deployed", endpoint, summary)
        return {**result, "endpoint": endpoint.model_dump(mode="json"), "ledger_url": url, "summary": summary}

    def rollout_ended(
        self, context: Context, event: dict[str, Any], begun: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Continue a task that was deferred until the endpoint is ready.

        :param event: payload of the event that resumes the task
        :param begun: location of the stored step call with which the task began
        """
        self._event = event
        return self._run(context, None, begun)

    def decision(self, result: dict[str, Any]) -> str:
        return f"deployed v{result['version']['version']}"

    def finish(self, result: dict[str, Any], context: Context) -> None:
        endpoint, version = result["endpoint"], result["version"]
        extra = {"version": version["version"], "run_id": version["run_id"], "follows": result["follows"]}
        extra |= {name: endpoint[name] for name in ("kind", "namespace", "name", "url", "image", "before")}
        context["outlet_events"][self.deployed_alias].add(Asset(f"mlops://{result['model']}/deployed"), extra=extra)

    def on_kill(self) -> None:
        super().on_kill()
        if self._rollout is not None:
            self._rollout.put_back()
            # Without this exception, Airflow would continue the task.
            raise SystemExit(143)
