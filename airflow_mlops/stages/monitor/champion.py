"""Collect facts about the champion: age of the training data, new data since training, and version of the code."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow_mlops.core.errors import DatasetNotFoundError
from airflow_mlops.core.references import DatasetRef, ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import Manifest, datasets_inside, open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.contracts import VersionContract
from airflow_mlops.policy.findings import Arrivals
from airflow_mlops.policy.spec import NewData
from airflow_mlops.registry.origins import CODE_VERSION, code_version
from airflow_mlops.stages.monitor.check import Check

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class ChampionFacts:
    """Facts about the champion that do not depend on predictions.

    The fields have the same names and meanings as in ``Findings``. The defaults mean that there is no champion.
    """

    champion: ModelVersionRef | None = None
    age_days: float | None = None
    arrivals: Arrivals | None = None
    code_version: str | None = None
    notes: list[str] = field(default_factory=list)


def facts(check: Check, champion: ModelVersionRef, stored: VersionContract, client: MlflowClient) -> ChampionFacts:
    """Collect the facts about the champion that the policy needs, and notes about unknown facts.

    :param stored: the model contract (features, label, ML task) that is stored with the champion
    """
    policy, notes = check.policy, []
    trained = _training_set(stored, check.store)
    trained_until = trained.window.end if trained is not None and trained.window is not None else None
    unknown = f"its training set {'is not in this artifact store' if trained is None else 'has no time window'}"
    if policy.max_age:
        if trained_until is None:
            notes.append(f"The age of model {champion} is unknown, because {unknown}.")
        elif stored.elsewhere:
            notes.append(
                f"TrainOperator did not train model {champion}. The age of the model is therefore counted from the end of "
                "the dataset on which the model was evaluated."
            )
    arrivals = None
    if policy.new_data is not None:
        if trained is None or trained_until is None:
            notes.append(
                f"The amount of new data since the training of model {champion} is unknown, because {unknown}."
            )
        else:
            since = (
                Window(start=trained_until, end=check.window.end, zone=check.window.zone)
                if trained_until < check.window.end
                else None
            )
            arrivals = _arrivals(policy.new_data, since, trained.rows, check.store)
    trained_by = code_version(client, champion) if policy.code is not None else None
    if policy.code is not None and trained_by is None:
        notes.append(
            f"The code that trained model {champion} is unknown, because its MLflow run has no tag {CODE_VERSION}."
        )
    age = (check.window.end - trained_until) / timedelta(days=1) if trained_until is not None else None
    return ChampionFacts(champion, age_days=age, arrivals=arrivals, code_version=trained_by, notes=notes)


def _training_set(stored: VersionContract, store: ArtifactStore) -> Manifest | None:
    contract = stored.contract
    try:
        return open_dataset(store, DatasetRef(name=contract.dataset_name, id=contract.dataset_id, rows=0)).manifest
    except DatasetNotFoundError:
        return None


def _arrivals(wanted: NewData, since: Window | None, trained_rows: int, store: ArtifactStore) -> Arrivals:
    """Count the new windows and rows of a dataset.

    :param since: time from the end of the champion's training data to the end of the checked window; ``None`` if the
        training data end later than the window
    :param trained_rows: number of rows of the champion's training set
    """
    found = datasets_inside(store, wanted.dataset, since) if since is not None else []
    rows = sum(dataset.manifest.rows for dataset in found)
    share = rows / trained_rows if trained_rows else None
    return Arrivals(dataset=wanted.dataset, windows=len(found), rows=rows, share=share)
