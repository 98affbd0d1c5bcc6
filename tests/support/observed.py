"""Complete results of steps, their samples, and the expressions of the alerts and the dashboard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from airflow_mlops.core.references import DatasetRef, ModelVersionRef
from airflow_mlops.observability.samples import Sample, decided, monitored, scored
from airflow_mlops.stages.monitor.spec import MonitorResult
from airflow_mlops.stages.promote.spec import PromoteResult
from airflow_mlops.stages.rollback.spec import RollbackResult
from airflow_mlops.stages.score.spec import ScoreResult

FOLDER = Path(__file__).parents[2] / "docs" / "metrics"
ALERTS, DASHBOARD = FOLDER / "alerts.yaml", FOLDER / "dashboard.json"


def version(number: int = 3, model: str = "delays") -> ModelVersionRef:
    return ModelVersionRef(model=model, version=number, run_id="")


def performance(prefix: str = "", metric: str = "roc_auc", value: float = 0.85) -> dict[str, float]:
    ends = {"": value, "_low": value - 0.01, "_high": value + 0.01, "_reference": 0.86}
    return {f"{prefix}{metric}{end}": number for end, number in ends.items()}


def monitor_result(decision: str = "healthy", **metrics: float) -> dict[str, Any]:
    counted = {
        "rows": 2_000,
        "labelled": 1_500,
        "coverage": 0.75,
        "features_drifted": 1,
        "feature_drift": 0.1,
        "prediction_drift": 0.05,
        "label_drift": 0.04,
        "multivariate_drift": 0.03,
        "newest_row_behind_days": 1.5,
    }
    delays = {"label_delay_median": 1.0, "label_delay_p90": 2.5, "label_delay_p99": 7.0}
    others = {**performance(metric="bias", value=0.02), **performance(metric="positive_rate", value=0.3)}
    others |= performance(metric="demographic_parity_over_sex", value=0.2)
    result = MonitorResult(
        decision=decision, reason="", model="delays", window="2013-04", champion=version(4), scored_by=version(),
        metrics={**counted, **delays, **performance(), **performance("estimated_"), **others, **metrics}, metric="roc_auc",
        most_drifted=None, report_url="", summary="",
    )  # fmt: skip
    return result.model_dump(mode="json")


def score_result(rows: int = 2_000, model: str = "delays", number: int = 3) -> dict[str, Any]:
    dataset, by = DatasetRef(name="predictions", id="0", rows=rows), version(number, model)
    return ScoreResult(dataset=dataset, scored_by=by, rows_per_second=1e5, summary="").model_dump(mode="json")


def promote_result(promoted: bool = True, ledger_url: str | None = "file:///1.json") -> dict[str, Any]:
    result = PromoteResult(
        promoted=promoted, model="delays", winner=version(), champion=version(), reason="", ledger_url=ledger_url,
        dataset_id="0", summary="",
    )  # fmt: skip
    return result.model_dump(mode="json")


def rollback_result() -> dict[str, Any]:
    result = RollbackResult(
        rolled_back=True, model="delays", champion=version(2), reason="", ledger_url="file:///2.json", summary=""
    )
    return result.model_dump(mode="json")


def groups() -> dict[str, list[Sample]]:
    """All exported samples of one model, by group."""
    return {
        "monitor": monitored(monitor_result()),
        "score": scored(score_result()),
        "champion": decided(promote_result(), "promoted"),
    }


def alerts() -> list[dict[str, Any]]:
    return yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]


def dashboard() -> list[tuple[str, str]]:
    """Panel title and expression, for each expression of the dashboard."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]
