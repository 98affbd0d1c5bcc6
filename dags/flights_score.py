"""As soon as a month's features are ready: predict, for each flight, how likely it is to arrive late."""

from __future__ import annotations

from airflow.sdk import DAG, PartitionedAssetTimetable
from flights import JOIN, TAGS, default_args, flights_ready, predictions_ready

from airflow_mlops.operators import BuildTrainingSetOperator, ScoreOperator

with DAG(
    "flights_score",
    description="Batch scoring of a month of flights with the champion",
    schedule=PartitionedAssetTimetable(assets=flights_ready),
    catchup=False,
    tags=TAGS,
    default_args=default_args,
    doc_md=f"""
### {__doc__}

Started by the asset `mlops://flights/features`; the month is the asset's partition key. The same point-in-time join
as in training gives the features; the champion's ONNX model gives the scores. While there is no champion yet, the
month is skipped.
""",
):
    rows = BuildTrainingSetOperator(
        task_id="scoring_set",
        name="flight_delays_scoring",
        entities={"name": "flights_valid", "window": "{{ partition_key }}"},
        label=None,
        split=None,
        **JOIN,
    )
    ScoreOperator(
        task_id="score",
        dataset=rows.output,
        window="{{ partition_key }}",
        on_missing="skip",
        outlets=[predictions_ready],
    )
