"""The DAG of ``every_operator.py`` with EmptyOperators, to measure the time of Airflow itself."""

from __future__ import annotations

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, PartitionedAtRuntime

with DAG("empty_operators", schedule=PartitionedAtRuntime(), catchup=False, default_args={"owner": "me"}):
    ingest = EmptyOperator(task_id="ingest")
    validate = EmptyOperator(task_id="validate")
    features = EmptyOperator(task_id="features")
    training_set = EmptyOperator(task_id="training_set", outlets=[Asset("mlops://delays/training_set")])
    search = EmptyOperator.partial(task_id="search").expand(doc=["one", "two"])
    train = EmptyOperator(task_id="train")
    evaluate = EmptyOperator(task_id="evaluate")
    promote = EmptyOperator(task_id="promote")
    score = EmptyOperator(task_id="score")
    join_labels = EmptyOperator(task_id="join_labels")
    profile = EmptyOperator.partial(task_id="profile").expand(doc=["one", "two"])
    monitor = EmptyOperator(task_id="monitor")
    purge = EmptyOperator(task_id="purge")
    rollback = EmptyOperator(task_id="rollback", params={"reason": "manual"})
    ingest >> validate >> training_set >> [search, train, evaluate, score]
    search >> train >> evaluate >> promote >> score >> join_labels >> profile >> monitor >> rollback
    validate >> join_labels >> monitor
    monitor >> purge
    features >> training_set
