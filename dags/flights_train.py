"""When monitoring requests it: train challengers on all months so far, and promote the best one if it is better."""

from __future__ import annotations

from airflow.sdk import DAG, Param, PartitionedAssetTimetable
from flights import GATES, JOIN, LABEL, TAGS, default_args, retrain_wanted

from airflow_mlops.operators import BuildTrainingSetOperator, EvaluateOperator, PromoteOperator, TrainOperator
from airflow_mlops.trainers import SklearnTrainer

with DAG(
    "flights_train",
    description="Point-in-time training set, challengers, gates, promotion",
    schedule=PartitionedAssetTimetable(assets=retrain_wanted),
    catchup=False,
    max_active_runs=1,
    tags=TAGS,
    default_args=default_args,
    params={
        "first_month": Param(
            "2013-01", type="string", pattern=r"^\d{4}-\d{2}$", description="Train on the months from this one on"
        ),
        "held_out": Param(
            "14D", type="string", description="Hold out the last days of the window (14D), or a share of it (0.3)"
        ),
    },
    doc_md=f"""
### {__doc__}

The asset `mlops://flight_delays/retrain` starts this DAG. The reason is in the event, in the tags of the MLflow runs
(`mlops.retrain.reason`) and in the ledger. The monitored month is the last month of the training set, and the partition
key of the run. To train by hand, enter a month as partition key. The challengers and the champion are measured on the
same held-out days. The gates decide, and the ledger records the decision with its numbers.
""",
):
    data = BuildTrainingSetOperator(
        task_id="training_set",
        name="flight_delays_training",
        entities={
            "name": "flights_valid",
            "window": "{{ params.first_month }}..{{ mlops_request.window or partition_key }}",
        },
        label=LABEL,
        split={"method": "time", "test_size": "{{ params.held_out }}"},
        **JOIN,
    )
    challengers = TrainOperator.partial(task_id="train", dataset=data.output).expand(
        trainer=[
            SklearnTrainer(
                "sklearn.ensemble.HistGradientBoostingClassifier",
                params={"max_iter": 80, "learning_rate": 0.05, "max_leaf_nodes": 15},
            ),
            SklearnTrainer("sklearn.linear_model.LogisticRegression", params={"C": 0.1, "max_iter": 300}),
        ]
    )
    verdict = EvaluateOperator(task_id="evaluate", dataset=data.output, candidates=challengers.output, gates=GATES)
    PromoteOperator(task_id="promote", verdict=verdict.output)
