"""Every month, when the arrivals are known: measure drift and performance, and decide whether to retrain."""

from __future__ import annotations

from airflow.sdk import DAG, CronPartitionTimetable
from flights import KEYS, LABEL, MODEL, TAGS, default_args

from airflow_mlops.operators import JoinLabelsOperator, MonitorOperator

with DAG(
    "flights_monitor",
    description="Joins late labels, measures drift and realised performance, requests retraining",
    schedule=CronPartitionTimetable("0 6 5 * *", timezone="UTC", run_offset=-1, key_format="%Y-%m"),
    catchup=False,
    max_active_runs=1,
    tags=TAGS,
    default_args=default_args,
    doc_md=f"""
### {__doc__}

**join_labels** joins the arrivals to the logged predictions. **monitor** compares the month with the profile and the
performance at training, writes the drift report (the button on the task), and decides: `healthy`, `watch` or `retrain`.
Only `retrain` sends an event of the asset `mlops://{MODEL}/retrain`, which starts `flights_train`. The event holds the
reason, and its partition key is the month. If the gates refuse the new model, retraining is requested again with the
next month of data, and one month later after two refusals in a row.
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
        # Retrain if performance is much worse than at training, or after two months. Drift alone is not a
        # reason to retrain.
        policy={"tolerance": 0.02, "max_age": "P60D"},
        trigger_rule="none_failed",
    )
