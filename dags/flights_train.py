"""When monitoring requests it: train challengers on all months so far, and promote the winner after a fit on all rows."""

from __future__ import annotations

from airflow.sdk import DAG, Param, PartitionedAssetTimetable
from flights import GATES, JOIN, LABEL, TAGS, default_args, retrain_wanted

from airflow_mlops.operators import (
    BuildTrainingSetOperator,
    EvaluateOperator,
    PromoteOperator,
    RefitOperator,
    TrainOperator,
)
from airflow_mlops.trainers import LightGBMTrainer, SklearnTrainer

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
            "0.25", type="string", description="Hold out the last share of the window (0.25), or its last days (28D)"
        ),
    },
    doc_md=f"""
### {__doc__}

The asset `mlops://flight_delays/retrain` starts this DAG. The reason is in the event, in the tags of the MLflow runs
(`mlops.retrain.reason`) and in the ledger. The monitored month is the last month of the training set, and the partition
key of the run. To train by hand, enter a month as partition key. The challengers and the champion are measured on the
same held-out days. The gates decide, and the ledger records the decision with its numbers. A fortnight can favour the
worse model, so the last quarter of the window is held out. **refit** fits the winner again on all rows, so that the
promoted model has learned from these days, too.
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
        # The first challenger wins if another one is better by no more than one standard error.
        trainer=[
            SklearnTrainer(
                "sklearn.ensemble.HistGradientBoostingClassifier",
                params={"max_iter": 80, "learning_rate": 0.05, "max_leaf_nodes": 15},
            ),
            SklearnTrainer("sklearn.linear_model.LogisticRegression", params={"C": 0.1, "max_iter": 300}),
            LightGBMTrainer({"learning_rate": 0.05, "num_leaves": 15, "num_threads": 1}, rounds=150, patience=20),
        ]
    )
    verdict = EvaluateOperator(task_id="evaluate", dataset=data.output, candidates=challengers.output, gates=GATES)
    refit = RefitOperator(task_id="refit", verdict=verdict.output)
    PromoteOperator(task_id="promote", verdict=refit.output)
