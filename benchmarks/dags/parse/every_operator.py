"""A DAG with all operators, connected as a lifecycle. The benchmark only parses it."""

from __future__ import annotations

from airflow.sdk import DAG, Asset, PartitionedAtRuntime

from airflow_mlops.compute import Deployment, Pod, Process
from airflow_mlops.operators import (
    BuildForecastRowsOperator,
    BuildTrainingSetOperator,
    CanaryOperator,
    CompareFeaturesOperator,
    DeployOperator,
    EvaluateOperator,
    IngestOperator,
    JoinLabelsOperator,
    MaterializeFeaturesOperator,
    MonitorOperator,
    ProfileOperator,
    PromoteOperator,
    PurgePredictionsOperator,
    RefitOperator,
    RollbackOperator,
    Rolling,
    ScoreOperator,
    SearchOperator,
    TrainOperator,
    TransferModelOperator,
    UndeployOperator,
    ValidateOperator,
)
from airflow_mlops.trainers import Float, Search, SklearnTrainer

with DAG(
    "every_operator",
    schedule=PartitionedAtRuntime(),
    catchup=False,
    default_args={"model": "delays", "run_on": Process(python="/opt/ml/bin/python")},
):
    raw = IngestOperator(task_id="ingest", name="flights", conn_id="db", sql="SELECT 1", window="{{ partition_key }}")
    valid = ValidateOperator(task_id="validate", dataset=raw.output, suite="suite.json", on_failure="quarantine")
    features = MaterializeFeaturesOperator(task_id="features", repo="features", window="{{ partition_key }}")
    BuildForecastRowsOperator(
        task_id="forecast_rows",
        name="delays_by_airport",
        entities={"name": "flights_valid"},
        window=Rolling("P6M"),
        series="origin_airport",
        time="time_hour",
        value="delay",
        every="PT1H",
        horizon=24,
        season=24,
        lags=[1, 24],
    )
    data = BuildTrainingSetOperator(
        task_id="training_set",
        name="delays_training",
        repo="features",
        entities={"name": "flights_valid"},
        window=Rolling("P6M"),
        timestamp="time_hour",
        feature_service="delays",
        label={"name": "late", "expression": "arr_delay > 15"},
        outlets=[Asset("mlops://delays/training_set")],
    )
    search = SearchOperator.partial(
        task_id="search",
        dataset=data.output,
        search=Search(
            SklearnTrainer("sklearn.ensemble.HistGradientBoostingClassifier"),
            {"learning_rate": Float(0.01, 0.3, log=True)},
            trials=40,
        ),
    ).expand(worker=[0, 1])
    fits = TrainOperator(task_id="train", dataset=data.output, trainer=search.output)
    verdict = EvaluateOperator(
        task_id="evaluate", dataset=data.output, candidates=fits.output, gates=[{"metric": "roc_auc", "min": 0.6}]
    )
    refit = RefitOperator(task_id="refit", verdict=verdict.output)
    promote = PromoteOperator(task_id="promote", verdict=refit.output)
    score = ScoreOperator(task_id="score", dataset=data.output, window="{{ partition_key }}")
    compare = CompareFeaturesOperator(task_id="compare", dataset={"name": "delays_predictions"}, repo="features")
    joined = JoinLabelsOperator(
        task_id="join_labels", predictions=score.output, labels=valid.output, on=["flight"], label="late"
    )
    profiles = ProfileOperator.partial(task_id="profile", dataset=joined.output, shards=2).expand(shard=[0, 1])
    monitor = MonitorOperator(
        task_id="monitor", dataset=joined.output, profiles=profiles.output, window="{{ partition_key }}"
    )
    purge = PurgePredictionsOperator(task_id="purge", older_than="365D")
    rollback = RollbackOperator(task_id="rollback", reason="{{ params.reason }}", params={"reason": "manual"})
    transfer = TransferModelOperator(task_id="transfer", target_conn_id="mlflow_production")
    deploy = DeployOperator(task_id="deploy", target=Deployment(pod=Pod(image="runner"), replicas=2))
    canary = CanaryOperator(task_id="canary", version="challenger")
    undeploy = UndeployOperator(task_id="undeploy")
    [features, valid] >> data
    promote >> [score, deploy, transfer]
    deploy >> canary >> undeploy
    monitor >> rollback
    monitor >> [purge, compare]
