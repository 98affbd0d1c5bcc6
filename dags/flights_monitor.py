"""Every month, when the arrivals are known: how good were the predictions, and is it time to train again?"""

from __future__ import annotations

from airflow.sdk import DAG, CronPartitionTimetable
from flights import KEYS, LABEL, MODEL, TAGS, default_args

from airflow_mlops.operators import JoinLabelsOperator, MonitorOperator

with DAG(
    "flights_monitor",
    description="Late labels, drift and realised performance; asks for retraining",
    schedule=CronPartitionTimetable("0 6 5 * *", timezone="UTC", run_offset=-1, key_format="%Y-%m"),
    catchup=False,
    max_active_runs=1,
    tags=TAGS,
    default_args=default_args,
    doc_md=f"""
### {__doc__}

**join_labels** joins the arrivals to the logged predictions. **monitor** compares the month with the profile stored at
training and with the performance measured then, writes the drift report (the button on the task), and decides:
`healthy`, `watch` or `retrain`. Only `retrain` emits `mlops://{MODEL}/retrain`, which starts `flights_train` and tells it why.
What the gates refuse is asked for again when there is another month to learn from, and after two refusals in a row one
month later still.
""",
):
    outcomes = JoinLabelsOperator(
        task_id="join_labels",
        predictions={"name": f"{MODEL}_predictions", "window": "{{ partition_key }}"},
        labels={"name": "flights_valid", "window": "{{ partition_key }}"},
        on=KEYS,
        label=LABEL,
        on_missing="skip",
    )
    MonitorOperator(
        task_id="monitor",
        dataset=outcomes.output,
        window="{{ partition_key }}",
        # Much worse than at training, or not retrained for over two months: drift alone is a poor reason.
        policy={"tolerance": 0.02, "max_age": "P70D"},
        trigger_rule="none_failed",
    )
