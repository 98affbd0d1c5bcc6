"""The lifecycle of a model, month by month, as a sequence of step calls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.csv

from airflow_mlops import __version__
from airflow_mlops.core.calls import Provenance, StepCall
from airflow_mlops.core.windows import Window
from tests.support.months import orders

MODEL = "late"
MONTHS = ("2013-01", "2013-02", "2013-03")
STEPS = ("ingest", "validate", "training_set", "train", "evaluate", "promote", "score", "join_labels", "monitor")


class Lifecycle:
    """Ingest, validate, build a training set, train, evaluate, promote, score, join labels, and monitor.

    :param url: URL of the artifact store
    :param folder: folder for the files that are ingested
    :param run: function that runs a step call, and returns the result of the step
    :param rows: number of rows in each month
    """

    def __init__(
        self, url: str, folder: Path, run: Callable[[StepCall], dict[str, Any]], *, model: str = MODEL, rows: int = 1500
    ) -> None:
        self.url = url
        self.folder = folder
        self.run = run
        self.model = model
        self.rows = rows

    def month(self, month: str) -> None:
        """Run all steps for one month. The training set has all months until then."""
        sold = orders(Window.model_validate(month), self.rows)
        data = self.folder / f"{month}.csv"
        pyarrow.csv.write_csv(sold, data)
        raw = self._step(
            "ingest", month, {"name": "orders", "files": [str(data)], "window": month, "time_column": "at"}
        )["dataset"]
        suite = {
            "name": "orders",
            "expectations": [
                {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": name}}
                for name in sold.column_names
            ],
        }
        self._step("validate", month, {"dataset": raw, "suite": suite})
        training = {
            "name": "late_training",
            "entities": {"name": "orders", "window": f"{MONTHS[0]}..{month}"},
            "timestamp": "at",
            "columns": ["amount", "hour"],
            "keys": ["order"],
            "label": "late",
            "task": "binary",
            "split": {"method": "time", "test_size": 0.3},
        }
        training_set = self._step("training_set", month, training)["dataset"]
        trainer = {"kind": "sklearn", "estimator": "sklearn.linear_model.LogisticRegression", "params": {}}
        asked = {"dataset": training_set, "model": self.model, "trainer": trainer, "seed": int(month[-2:])}
        candidate = self._step("train", month, asked)["candidate"]
        gates = [{"metric": "roc_auc", "min": 0.5}]
        asked = {"dataset": training_set, "candidates": [candidate], "gates": gates}
        verdict = self._step("evaluate", month, asked)["verdict"]
        self._step("promote", month, {"verdict": verdict})
        scored = self._step("score", month, {"model": self.model, "dataset": raw})["dataset"]
        asked = {"predictions": scored, "labels": raw, "on": ["order"], "label": "late", "name": "outcomes"}
        outcomes = self._step("join_labels", month, asked)["dataset"]
        self._step("monitor", month, {"model": self.model, "dataset": outcomes, "window": month})

    def _step(self, step: str, month: str, spec: dict[str, Any]) -> dict[str, Any]:
        call = StepCall(
            step=step,
            spec=spec,
            store=self.url,
            key=f"results/orders/{month}/{step}/0.json",
            version=__version__,
            provenance=Provenance(dag_id="orders", run_id=month, task_id=step),
        )
        return self.run(call)
