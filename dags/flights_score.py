"""When a month's features are ready: predict for each flight the probability that it arrives late."""

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

The asset `mlops://flights/features` starts this DAG, and its partition key is the month. The features come from the same
point-in-time join as in training, the scores from the champion's ONNX model. Without a champion, the month is skipped.
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
