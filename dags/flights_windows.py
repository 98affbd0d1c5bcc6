"""Triggered by hand: compare training windows of different lengths, and promote the best model after a fit on all rows."""

from __future__ import annotations

from airflow.sdk import DAG, Param
from flights import GATES, JOIN, LABEL, TAGS, default_args

from airflow_mlops.operators import (
    BuildTrainingSetOperator,
    Decay,
    EvaluateOperator,
    Expanding,
    PromoteOperator,
    RefitOperator,
    Rolling,
    TrainOperator,
)
from airflow_mlops.trainers import SklearnTrainer

with DAG(
    "flights_windows",
    description="The same trainer on three windows, judged on the same days",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    tags=TAGS,
    default_args=default_args,
    params={
        "month": Param("2013-06", type="string", pattern=r"^\d{4}-\d{2}$", description="The last month of the data"),
        "held_out": Param("14D", type="string", description="Hold out the last days of the month"),
    },
    doc_md=f"""
### {__doc__}

1. **training_set** builds three training sets that end with the month: its last three months, everything since January,
   and everything with weights that halve every 60 days. The held-out days are the same.
2. **train** fits one challenger to each. **evaluate** measures them and the champion on the held-out days.
3. **refit** fits the winner again on all rows, held-out days included, and checks it. **promote** promotes this version.
""",
):
    data = BuildTrainingSetOperator.partial(
        task_id="training_set",
        name="flight_delays_windows",
        entities={"name": "flights_valid", "window": "{{ params.month }}"},
        label=LABEL,
        split={"method": "time", "test_size": "{{ params.held_out }}"},
        **JOIN,
    ).expand(window=[Rolling("P3M"), Expanding("2013-01"), Decay("P60D")])
    challengers = TrainOperator.partial(
        task_id="train",
        trainer=SklearnTrainer(
            "sklearn.ensemble.HistGradientBoostingClassifier",
            params={"max_iter": 80, "learning_rate": 0.05, "max_leaf_nodes": 15},
        ),
    ).expand(dataset=data.output)
    verdict = EvaluateOperator(task_id="evaluate", candidates=challengers.output, gates=GATES)
    refit = RefitOperator(task_id="refit", verdict=verdict.output)
    PromoteOperator(task_id="promote", verdict=refit.output)
