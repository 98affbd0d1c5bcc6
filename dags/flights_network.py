"""Triggered by hand: train a network on a GPU and compare it with the champion."""

from __future__ import annotations

from airflow.sdk import DAG, Param
from flights import GATES, JOIN, LABEL, TAGS, default_args

from airflow_mlops import __version__
from airflow_mlops.compute import Pod
from airflow_mlops.operators import BuildTrainingSetOperator, EvaluateOperator, PromoteOperator, TrainOperator
from airflow_mlops.trainers import TorchTrainer

GPU = Pod(
    image=f"{{{{ var.value.get('flights_gpu_image', 'airflow-mlops-runner:{__version__}-cuda') }}}}",
    pod_template_file="pods/gpu.yaml",
    gpus=1,
    memory="8Gi",
    grow_memory=2,
    # Time to write a checkpoint when Kubernetes stops the pod.
    termination_grace=60,
)

with DAG(
    "flights_network",
    description="A network for flight delays, trained on a GPU pod",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    tags=[*TAGS, "gpu"],
    default_args=default_args,
    params={
        "window": Param("2013-01..2013-12", type="string", description="Months of the training set"),
        "held_out": Param("14D", type="string", description="Hold out the last days of the window (14D), or a share"),
    },
    doc_md=f"""
### {__doc__}

Requires a Kubernetes cluster (the Airflow connection `kubernetes_default`), the CUDA image (the Variable
`flights_gpu_image`), and an artifact store and an MLflow server that pods can reach. `pods/gpu.yaml` holds the settings
of your cluster. Only the training runs in the pod. Remove `run_on` to run it on the worker.
""",
):
    data = BuildTrainingSetOperator(
        task_id="training_set",
        name="flight_delays_network",
        entities={"name": "flights_valid", "window": "{{ params.window }}"},
        label=LABEL,
        split={"method": "time", "test_size": "{{ params.held_out }}"},
        **JOIN,
    )
    network = TrainOperator(
        task_id="train",
        dataset=data.output,
        trainer=TorchTrainer(epochs=20, batch_size=4096, learning_rate=2e-3, checkpoint_every=100),
        run_on=GPU,
    )
    verdict = EvaluateOperator(task_id="evaluate", dataset=data.output, candidates=network.output, gates=GATES)
    PromoteOperator(task_id="promote", verdict=verdict.output)
