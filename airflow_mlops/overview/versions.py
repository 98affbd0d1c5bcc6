"""The versions of a model: candidates with their metrics, gates and parameters, from the ledger and from MLflow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pydantic import AwareDatetime, Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.errors import RegistryError
from airflow_mlops.core.usage import Usage
from airflow_mlops.registry.aliases import check_hashes, last_move
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.records.entry import Entry
from airflow_mlops.registry.records.verdict import CandidateVerdict, GateResult
from airflow_mlops.registry.step_usage import by_step

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Largest number of versions whose runs are read from MLflow.
NEWEST = 50
_CARD = "evaluation/model_card.html"


class MetricValue(Model):
    """The value of a metric on the held-out rows.

    :param low: lower end of the 95% confidence interval; ``None`` if it is unknown
    :param high: upper end of the 95% confidence interval; ``None`` if it is unknown
    """

    value: float
    low: float | None = None
    high: float | None = None


class TrainingData(Model):
    """The training set of a version."""

    name: str = ""
    id: str
    rows: int | None = None


class VersionFacts(Model):
    """A version of a model.

    :param created: time of its registration in MLflow, or of the decision about it; ``None`` if unknown
    :param champion: whether it is the champion according to the ledger
    :param challenger: whether MLflow has the alias ``challenger`` for it
    :param judged: for a refit, the judged version, whose metrics are shown instead; ``None`` for other versions
    :param params: parameters of its MLflow run
    :param steps: names of the steps that recorded what they used for the version
    :param usage: the sum of what these steps used; ``None`` if no step recorded it. An evaluation counts for each of its
        candidates
    :param card: address of the model card in MLflow; ``None`` if it is unknown
    :param mlflow_url: address of its MLflow run; ``None`` if MLflow has no HTTP address
    """

    version: int
    run_id: str = ""
    created: AwareDatetime | None = None
    champion: bool = False
    challenger: bool = False
    metrics: dict[str, MetricValue] = Field(default_factory=dict)
    gates: list[GateResult] = Field(default_factory=list)
    judged: int | None = None
    params: dict[str, str] = Field(default_factory=dict)
    steps: list[str] = Field(default_factory=list)
    usage: Usage | None = None
    dataset: TrainingData | None = None
    card: str | None = None
    mlflow_url: str | None = None


class Versions(Model):
    """The versions of a model, newest first.

    :param ledger: the difference between the ledger and the hashes of its promotions and rollbacks in MLflow; ``None``
        if there is none
    """

    versions: list[VersionFacts] = Field(default_factory=list)
    ledger: str | None = None
    problems: list[str] = Field(default_factory=list)


def from_ledger(entries: Sequence[Entry]) -> dict[int, VersionFacts]:
    """Return the versions that the ledger names, by number. The last verdict on a version counts.

    :param entries: entries of the ledger, oldest first
    """
    found: dict[int, VersionFacts] = {}
    for entry in entries:
        for item in entry.candidates:
            found[item.candidate.version] = _judged(item, entry)
        for ref in (entry.champion, entry.replaced):
            if ref is not None and ref.version not in found:
                found[ref.version] = VersionFacts(version=ref.version, run_id=ref.run_id, created=entry.time)
        refitted = entry.refit.version if entry.refit is not None else None
        if entry.refit is not None and refitted is not None and entry.refit.judged.version in found:
            judged = found[entry.refit.judged.version]
            update = {
                "version": refitted.version,
                "run_id": refitted.run_id,
                "gates": entry.refit.checks,
                "judged": judged.version,
            }
            found[refitted.version] = judged.model_copy(update=update)
    move = last_move(entries)
    # A person may have deleted the alias.
    if move is not None and move.champion is not None:
        number = move.champion.version
        found[number] = found[number].model_copy(update={"champion": True})
    return found


def _judged(item: CandidateVerdict, entry: Entry) -> VersionFacts:
    origin = next((found for found in entry.origins if found.version == item.candidate.version), None)
    own = origin is not None and origin.dataset and origin.dataset == entry.dataset_id
    return VersionFacts(
        version=item.candidate.version,
        run_id=item.candidate.run_id,
        created=entry.time,
        metrics={name: _metric(name, value, item) for name, value in item.metrics.items()},
        gates=item.gates,
        dataset=TrainingData(name=(entry.dataset_name or "") if own else "", id=origin.dataset)
        if origin is not None and origin.dataset
        else None,
    )


def _metric(name: str, value: float, item: CandidateVerdict) -> MetricValue:
    if name in item.intervals:
        low, high = item.intervals[name]
        return MetricValue(value=value, low=low, high=high)
    # Verdicts of earlier releases have no intervals. Only a gate on the metric itself has the interval of the metric. A
    # gate on an improvement has the interval of the improvement.
    for gate in item.gates:
        # The bounds of gates are one-sided, so only two bounds at 97.5% form a 95% interval.
        on_metric = gate.gate.split(" ", 1)[0] == name and gate.improvement is None and gate.measured == value
        if on_metric and gate.confidence is not None and math.isclose(gate.confidence, 0.975):
            return MetricValue(value=value, low=gate.low, high=gate.high)
    return MetricValue(value=value)


def from_mlflow(client: MlflowClient, ledger: Ledger, entries: Sequence[Entry], ui: str) -> Versions:
    """Return all versions in MLflow with their facts from the ledger, newest first.

    :param entries: entries of the ledger, oldest first
    :param ui: address of MLflow's pages; empty if it has none
    :raises RegistryError: MLflow cannot be read
    """
    from airflow_mlops.registry.client import quoted, registry_errors

    model, known = ledger.model, from_ledger(entries)
    problems, tampered = [], None
    found: dict[int, VersionFacts] = {}
    with registry_errors(f"The versions of {model!r} cannot be read"):
        listed = sorted(client.search_model_versions(f"name = {quoted(model)}"), key=lambda item: -int(item.version))
        for item in listed[:NEWEST]:
            found[int(item.version)] = _completed(client, item, known.get(int(item.version)), ui)
    try:
        check_hashes(ledger, entries, listed)
    except RegistryError as error:
        tampered = str(error)
    absent = sorted(set(known) - {int(item.version) for item in listed})
    if absent:
        named = ", ".join(f"v{number}" for number in absent)
        problems.append(f"MLflow no longer has {named} of {model!r}. Data from the ledger is shown instead.")
    rest = {number: known[number] for number in absent}
    return Versions(
        versions=[(found | rest)[number] for number in sorted(found | rest, reverse=True)],
        ledger=tampered,
        problems=problems,
    )


def _completed(client: MlflowClient, item: Any, known: VersionFacts | None, ui: str) -> VersionFacts:
    from airflow_mlops.registry.client import unless_missing

    facts = known or VersionFacts(version=int(item.version))
    update: dict[str, Any] = {
        "run_id": item.run_id or facts.run_id,
        "created": datetime.fromtimestamp(item.creation_timestamp / 1000, timezone.utc),
        "challenger": "challenger" in (item.aliases or []),
    }
    run = None
    if item.run_id:
        # The run may have been deleted permanently.
        with unless_missing():
            run = client.get_run(item.run_id)
    if run is not None:
        tags = run.data.tags
        update["params"] = dict(run.data.params)
        if steps := by_step(tags):
            update |= {"steps": list(steps), "usage": Usage.total(steps.values())}
        if not facts.metrics:
            update["metrics"] = {name: MetricValue(value=value) for name, value in run.data.metrics.items()}
        if facts.dataset is None and tags.get("mlops.dataset"):
            update["dataset"] = TrainingData(name=tags.get("mlops.dataset_name", ""), id=tags["mlops.dataset"])
        if ui:
            update["mlflow_url"] = f"{ui}/#/runs/{quote(item.run_id)}"
            if "mlops.verdict" in tags:
                # MLflow's page shows the card, while its route get-artifact lets browsers download the card.
                page = f"{ui}/#/experiments/{quote(run.info.experiment_id)}/runs/{quote(item.run_id)}"
                update["card"] = f"{page}/artifacts/{_CARD}"
    return facts.model_copy(update=update)
