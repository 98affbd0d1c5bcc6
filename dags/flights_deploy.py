"""After each promotion: bring the champion to its online endpoint, and verify it."""

from __future__ import annotations

import logging

from airflow.sdk import DAG, Param, PokeReturnValue, Variable, task
from flights import MODEL, TAGS, champion_changed, default_args

from airflow_mlops.compute import Deployment, Pod
from airflow_mlops.operators import DeployOperator

log = logging.getLogger(__name__)
SERVER = Pod(
    image="{{ var.value.flights_image }}",
    cpu=1,
    memory="1Gi",
    # A Secret with the connection to MLflow and the credentials of the artifact store.
    env_from=["airflow-mlops"],
    deferrable=True,
)
# A run that a person starts has no event.
CHAMPION = "(triggering_asset_events.values() | list)[0][-1].extra.version"
VERSION = "{{ " + CHAMPION + " if triggering_asset_events else params.version }}"

with DAG(
    "flights_deploy",
    description="The champion as an online endpoint",
    schedule=[champion_changed],
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

**places** chooses where, by two Variables. Without any, both other tasks are skipped.

- `flights_image`, the runner image: **deploy** deploys the version on Kubernetes. It requires the connection
  `kubernetes_default`, and an artifact store and an MLflow server that pods can reach by the settings in the Secret
  `airflow-mlops`. Each new champion replaces the one before only after it has answered with the right scores; otherwise the
  previous endpoint is restored.
- `flights_server`, the address of a server on this machine (`airflow mlops serve {MODEL}`), which `make demo` starts: the
  server follows the champion by itself, and **follow** waits until it has loaded the version.

A run that is triggered by hand deploys the version of the parameter or, without one, an endpoint that follows the champion.
""",
):

    @task.branch
    def places() -> list[str]:
        """The tasks for the places that are set up."""
        tasks = {"flights_image": "deploy", "flights_server": "follow"}
        chosen = [task_id for name, task_id in tasks.items() if Variable.get(name, default=None)]
        if not chosen:
            log.info("No Variable %s is set, so there is no endpoint.", " or ".join(tasks))
        return chosen

    @task.sensor(poke_interval=2, timeout=120)
    def follow(version: str) -> PokeReturnValue:
        """Wait until the local server has loaded the version; without a version, until it is ready."""
        import requests

        url = f"{Variable.get('flights_server')}/v2/models/{MODEL}"
        try:
            answer = requests.get(url, timeout=10)
            answer.raise_for_status()
        except requests.RequestException as error:
            log.info("The server is not ready: %s", error)
            return PokeReturnValue(is_done=False)
        loaded = answer.json()["versions"]
        log.info("%s serves version %s.", url, loaded[0])
        found = {"url": url, "version": int(loaded[0])}
        # A later promotion may have replaced the version of the event. The server then still has it loaded.
        return PokeReturnValue(is_done=version in ("None", *loaded), xcom_value=found)

    deploy = DeployOperator(task_id="deploy", version=VERSION, target=Deployment(pod=SERVER, replicas=2))
    places() >> [deploy, follow(VERSION)]
