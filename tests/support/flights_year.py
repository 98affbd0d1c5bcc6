"""Generate the artifact store that the lifecycle writes in the year of flights, without running the lifecycle.

It has twelve monitored months, 19 features with distributions, six decisions, and scored and ingested months. Formulas
give numbers close to those of the example.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any
from uuid import uuid4

import pyarrow as pa

from airflow_mlops.core.calls import Provenance, Request
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.data.predictions.log import slot
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.drift.findings import Bin, Drift
from airflow_mlops.overview import candidates, index
from airflow_mlops.overview.sections import Kind
from airflow_mlops.performance.findings import Performance
from airflow_mlops.policy import archive
from airflow_mlops.policy.findings import Decision as Decided
from airflow_mlops.policy.findings import Report, Verdict
from airflow_mlops.policy.spec import Policy
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.records.entry import Decision, Origin
from airflow_mlops.registry.records.verdict import CandidateVerdict, GateResult

Version = Callable[[int], ModelVersionRef]

VERSIONS = 5
MONTHS = [f"2013-{month:02}" for month in range(1, 13)]
# Realised ROC AUC of the example from April on, estimated before.
_AUC = (0.712, 0.709, 0.714, 0.648, 0.722, 0.710, 0.694, 0.681, 0.659, 0.646, 0.662, 0.701)
_SCORED_BY = (1, 1, 1, 1, 1, 2, 2, 2, 4, 4, 4, 4)
_FEATURES = (
    "hour", "carrier", "origin", "dest", "distance", "sched_arr_time", "sched_dep_time", "month", "weekday", "tailnum",
    "weather_hourly__precip", "weather_hourly__wind_speed", "weather_hourly__visib", "weather_hourly__pressure",
    "weather_hourly__humid", "weather_hourly__temp", "weather_hourly__dewp", "planes__seats", "planes__year",
)  # fmt: skip


def write(store: ArtifactStore, model: str, run_id: str = "") -> None:
    """Write the reports, the ledger and the data of the flights' year.

    :param run_id: MLflow run of all versions
    """

    def version(number: int) -> ModelVersionRef:
        return ModelVersionRef(model=model, version=number, run_id=run_id)

    decide = _Decisions(store, model, version, _data(store, model, version))
    decide.judge(1, None, 0.729, "promoted", "It is the first model, and passed every gate.")
    # As in a replay, each month is checked and the decisions that follow from it are recorded before the next month.
    for number, month in enumerate(MONTHS):
        report = _report(version(_SCORED_BY[number]), month, number)
        store.write_json(archive.key(store, model, report.window), report.model_dump(mode="json"))
        if month in ("2013-04", "2013-09"):
            decide.request(month, _SCORED_BY[number])
        if month == "2013-04":
            decide.judge(2, 1, 0.746, "promoted", "It passed every gate.")
        if month == "2013-06":
            decide.judge(3, 2, 0.701, "refused", "No candidate passed every gate.")
        if month == "2013-08":
            decide.judge(4, 2, 0.752, "promoted", "It passed every gate.")
    candidates.trained(store, version(VERSIONS), f"{model}_train")
    kinds: tuple[Kind, ...] = ("monitoring", "decisions", "scoring")
    for kind in kinds:
        index.update(store, model, kind)


def _report(version: ModelVersionRef, month: str, number: int) -> Report:
    value = _AUC[number]
    decision: Decided = "retrain" if number in (3, 8) else "watch" if number in (7, 9, 11) else "healthy"
    headline = {
        "retrain": f"Realised ROC AUC {value:.3f} is worse than the 0.679 that the policy allows",
        "watch": f"ROC AUC {value:.3f} fell significantly, but by less than 0.05",
        "healthy": "Realised ROC AUC is not worse than the limit allows",
    }[decision]
    details = [
        f"Realised ROC AUC {value:.3f} (0.95 interval {value - 0.009:.3f} to {value + 0.009:.3f}), 0.729 at training.",
        "Largest drop: weather_hourly__humid 61.9-86.9 (25% of rows, 49% of the drop).",
        "weather_hourly__temp drifted since training: Kolmogorov-Smirnov distance 0.41.",
        "5 of 19 features drifted. They have 31% of the permutation importance.",
    ]
    window = Window.model_validate(month)
    return Report(
        model=version.model,
        window=window,
        created=datetime.now(timezone.utc),
        policy=Policy(),
        scored_by=version,
        rows=27_000 + 131 * number,
        labelled=26_400 + 120 * number,
        coverage=0.978,
        performance=Performance(
            metric="roc_auc", value=value, low=value - 0.009, high=value + 0.009, reference=0.729, labels=26_400
        ),
        estimated=Performance(
            metric="roc_auc", value=value + 0.02, low=value, high=value + 0.04, reference=0.729, labels=26_400
        ),
        features=[_drift(name, place, number) for place, name in enumerate(_FEATURES)],
        verdict=Verdict(decision=decision, headline=headline, details=details, reason=f"{headline}. {details[0]}"),
        provenance=Provenance(dag_id=f"{version.model}_monitor", run_id=f"scheduled__{month}", task_id="monitor"),
    )


def _drift(name: str, place: int, month: int) -> Drift:
    seasonal = name.startswith("weather") or name == "month"
    effect = round(0.45 * abs(math.sin((month + place) * 0.5)) if seasonal else 0.01 + 0.004 * place, 3)
    weights = [1 + (bar * (place + 2)) % 5 for bar in range(12)]
    shifted = weights[month % 3 :] + weights[: month % 3] if seasonal else weights
    return Drift(
        column=name,
        kind="categorical" if place in (1, 2, 3, 9) else "numeric",
        effect=effect,
        drifted=seasonal and effect > 0.1,
        broken=name == "planes__seats" and month == 6,
        fault="has no values" if name == "planes__seats" and month == 6 else None,
        importance=round(0.3 / (1 + place), 4),
        test="ks",
        adjusted_p_value=0.0001 if seasonal else 0.4,
        note="2 of 105 values are new" if name == "dest" else None,
        bins=[
            Bin(label=f"{bar * 10}-{bar * 10 + 10}", reference=weight / sum(weights), current=now / sum(shifted))
            for bar, (weight, now) in enumerate(zip(weights, shifted, strict=True))
        ],
    )


def _data(store: ArtifactStore, model: str, version: Version) -> list[str]:
    """Write the datasets, and return the ids of the training sets of the versions."""

    def commit(name: str, month: str | None, rows: int, **more: Any) -> Any:
        with DatasetWriter(store, name) as writer:
            writer.write(pa.table({"x": [float(row) for row in range(rows)]}))
            return writer.commit(window=Window.model_validate(month) if month else None, **more)[0]

    raw = {
        month: commit(f"{model}_flights", month, 20 + place) for place, month in enumerate(MONTHS) if month != "2013-08"
    }
    commit(f"{model}_flights", "2013-03", 25)
    commit(f"{model}_flights_quarantine", "2013-05", 3)
    trained = []
    for number in range(1, VERSIONS + 1):
        parents = [raw[month].ref for month in MONTHS[: number + 2] if month in raw]
        trained.append(commit(f"{model}_training", None, 30 + number, parents=parents).id)
    for place, month in enumerate(MONTHS):
        scored_by = _SCORED_BY[place]
        parents = [raw[month].ref] if month in raw else []
        commit(
            f"{model}_predictions",
            month,
            15 + place,
            parents=parents,
            details={"model": model, "model_version": scored_by},
            provenance=Provenance(dag_id=f"{model}_score", run_id=f"scheduled__{month}", task_id="score"),
            slots=[slot(version(scored_by), Window.model_validate(month), [], None)],
        )
    return trained


class _Decisions:
    """Writes the ledger."""

    def __init__(self, store: ArtifactStore, model: str, version: Version, trained: list[str]) -> None:
        self._ledger, self._model, self._version, self._trained = Ledger(store, model), model, version, trained

    def judge(self, number: int, against: int | None, score: float, decision: Any, reason: str) -> None:
        """Promote or refuse a version."""
        passed = decision == "promoted"
        gates = [
            GateResult(
                gate="roc_auc at least 0.6", measured=score, asked=0.6, passed=True, low=score - 0.01,
                high=score + 0.01, explanation="The lower bound of the ROC AUC is at least 0.6.",
            ),
            GateResult(
                gate="roc_auc better than the champion", measured=score, asked=0.7, passed=passed,
                improvement=score - 0.7, low=score - 0.71, high=score - 0.69,
                explanation="It is significantly better." if passed else "It is not significantly better.",
            ),
            GateResult(
                gate="max_single_feature_score 0.99", measured=0.61, asked=0.99, passed=True,
                explanation="No feature alone predicts the label.",
            ),
        ]  # fmt: skip
        metrics = {"roc_auc": score, "brier": 0.161, "log_loss": 0.493, "average_precision": 0.44}
        candidate = CandidateVerdict(candidate=self._version(number), metrics=metrics, gates=gates, passed=passed)
        replaced = self._version(against) if against else None
        self._record(
            decision=decision,
            champion=self._version(number) if passed else replaced,
            replaced=replaced,
            reason=reason,
            candidates=[candidate],
            origins=[Origin(version=number, dataset=self._trained[number - 1])],
            dataset_name=f"{self._model}_training",
            dataset_id=self._trained[number - 1],
            provenance=self._task("train", f"asset_triggered__{number}", "promote", user="ada"),
        )

    def request(self, month: str, champion: int) -> None:
        """Request retraining after a month."""
        window, now = Window.model_validate(month), datetime.now(timezone.utc)
        reason = f"Realised ROC AUC fell below the limit in {month}."
        fields = {"id": f"{self._model}-{month}", "model": self._model, "triggers": ["performance"]}
        request = Request(**fields, reason=reason, window=window, created=now)
        self._record(
            decision="requested",
            champion=self._version(champion),
            replaced=self._version(champion),
            reason=reason,
            provenance=self._task("monitor", f"scheduled__{month}", "monitor", requests=[request]),
        )

    def _task(self, work: str, run_id: str, task_id: str, **more: Any) -> Provenance:
        return Provenance(dag_id=f"{self._model}_{work}", run_id=run_id, task_id=task_id, **more)

    def _record(self, **fields: Any) -> None:
        decision = Decision(**fields)
        self._ledger.record(f"year/{uuid4().hex}", lambda _: decision)
