"""The sections of the index: their content, and how each section is computed from its source."""

from __future__ import annotations

from typing import Literal
from urllib.parse import unquote

from airflow_mlops.core.base import Model
from airflow_mlops.data.datasets.pointers import slots_of
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.overview import decisions, drift, monitoring, scoring
from airflow_mlops.overview.decisions import Standing
from airflow_mlops.overview.facts import Candidate
from airflow_mlops.overview.keys import CANDIDATE, FOLDER
from airflow_mlops.overview.monitoring import Monitored
from airflow_mlops.overview.scoring import LastScoring
from airflow_mlops.policy import archive
from airflow_mlops.registry.ledger import folder_name

Kind = Literal["monitoring", "decisions", "scoring"]


class Trained(Model):
    """The newest version that a DAG has trained.

    :param dag_id: id of the DAG; empty without Airflow
    """

    newest: Candidate
    dag_id: str = ""


class Section(Model):
    """The newest facts about a model from one source. Only the field of this source is set.

    :param model: name of the registered model
    :param problem: what is wrong with the source, such as a changed ledger
    """

    model: str
    monitoring: Monitored | None = None
    decisions: Standing | None = None
    scoring: LastScoring | None = None
    candidate: Trained | None = None
    problem: str | None = None


def key(model: str, kind: Kind, predictions: str | None = None) -> str:
    """Return the store key of a section.

    :param predictions: name of the datasets of predictions, for ``scoring``; ``MODEL_predictions`` by default
    """
    own = predictions not in (None, f"{model}_predictions")
    return f"{FOLDER}/{folder_name(model)}/{kind}{f'-{predictions}' if own else ''}.json"


def is_candidate(key: str) -> bool:
    """Return whether a key belongs to a section about a trained version."""
    name = key.rpartition("/")[2]
    return name.startswith(CANDIDATE) and name.endswith(".json")


def model_of(key: str) -> str:
    """Return the name of the model of a section."""
    return unquote(key.split("/")[2])


def kind_of(key: str) -> tuple[Kind, str | None] | None:
    """Return the kind of a section and, for ``scoring``, the name of the datasets of predictions.

    :param key: store key of the section
    :return: ``None`` if the key does not belong to a section that is computed from the store
    """
    stem = key.rpartition("/")[2].removesuffix(".json")
    for kind in ("monitoring", "decisions", "scoring"):
        if stem == kind:
            return kind, None
    return ("scoring", stem.removeprefix("scoring-")) if stem.startswith("scoring-") else None


def state(store: ArtifactStore, model: str, kind: Kind, predictions: str | None = None) -> object:
    """Return a value that changes when the source of a section changes. Only names and metadata of files are read.

    :raises StoreError: the store cannot be read
    """
    if kind == "monitoring":
        return archive.all_info(store, model)
    if kind == "scoring":
        return slots_of(store, predictions or f"{model}_predictions").find_info()
    folder = folder_name(model)
    return store.keys(f"ledger/{folder}"), store.keys(f"requests/{folder}")


def compute(store: ArtifactStore, model: str, kind: Kind, predictions: str | None = None) -> Section:
    """Compute the section of a model from the ledger, the reports or the predictions.

    :param kind: the source of the section: ``decisions`` (the ledger), ``monitoring`` (the reports) or ``scoring`` (the
        predictions)
    :param predictions: for ``scoring``, the name of the datasets of predictions; by default ``MODEL_predictions``
    :raises StoreError: the store cannot be read
    """
    if kind == "monitoring":
        windows, unreadable = monitoring.points(store, model)
        drift.refresh(store, model)
        problem = monitoring.problem(unreadable)
        return Section(model=model, monitoring=monitoring.monitored(windows), problem=problem)
    if kind == "scoring":
        name = predictions or f"{model}_predictions"
        return Section(model=model, scoring=scoring.last_scoring(store, model, name))
    entries, chain = decisions.read(store, model)
    return Section(model=model, decisions=decisions.standing(store, model, entries), problem=chain.problem)
