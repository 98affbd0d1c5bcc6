"""After each promotion: deploy the champion as an online endpoint on Kubernetes, and verify it."""

from __future__ import annotations

from airflow.sdk import DAG, Param
from flights import TAGS, champion_changed, default_args

from airflow_mlops import __version__
from airflow_mlops.compute import Deployment, Pod
from airflow_mlops.operators import DeployOperator

SERVER = Pod(
    image=f"{{{{ var.value.get('flights_image', 'airflow-mlops-runner:{__version__}-cpu') }}}}",
    cpu=1,
    memory="1Gi",
    # A Secret with the connection to MLflow and the credentials of the artifact store.
    env_from=["airflow-mlops"],
    deferrable=True,
)
# A run that a person starts has no event.
CHAMPION = "(triggering_asset_events.values() | list)[0][-1].extra.version"

with DAG(
    "flights_deploy",
    description="The champion as an online endpoint",
    schedule=[champion_changed],
    # Most machines have no cluster: without one, serve the champion by `airflow mlops serve flight_delays`.
    is_paused_upon_creation=True,
    catchup=False,
    max_active_runs=1,
    tags=TAGS,
    default_args=default_args,
    params={
        "version": Param(
            None, type=["null", "integer"], description="Version to serve; without one, follow the champion"
        ),
    },
    doc_md=f"""
### {__doc__}

Requires a Kubernetes cluster (the Airflow connection `kubernetes_default`), the runner image (the Variable
`flights_image`), and an artifact store and an MLflow server that pods can reach by the settings in the Secret
`airflow-mlops`. The DAG is paused until you unpause it. Each new champion replaces the one before only after it has
answered with the right scores; otherwise the previous endpoint is restored. A run that is triggered by hand deploys the
version of the parameter or, without one, an endpoint that follows the champion.
""",
):
    DeployOperator(
        task_id="deploy",
        version="{{ " + CHAMPION + " if triggering_asset_events else params.version }}",
        target=Deployment(pod=SERVER, replicas=2),
    )
