"""The sections about trained versions in the index of models, see :mod:`airflow_mlops.overview.index`."""

from __future__ import annotations

import logging
from datetime import datetime, timezone

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.overview.keys import candidate_key

log = logging.getLogger(__name__)


def trained(store: ArtifactStore, ref: ModelVersionRef, dag_id: str, time: datetime | None = None) -> None:
    """Add a trained version to the index. An error is only logged.

    Trainings that end at the same time write different objects. Each of them deletes the objects of its DAG that are
    not the newest, so only the newest object remains.

    :param ref: the trained version
    :param dag_id: DAG of the task that trained the version; empty without Airflow
    :param time: time at which the training had finished; by default now
    """
    key = candidate_key(ref, dag_id)
    try:
        if not store.exists(key):
            # A training from the cache finds its version in the index. It must not wait for these imports.
            from airflow_mlops.overview.facts import Candidate
            from airflow_mlops.overview.sections import Section, Trained

            found = Trained(
                newest=Candidate(version=ref.version, trained=time or datetime.now(timezone.utc)), dag_id=dag_id
            )
            content = Section(model=ref.model, candidate=found).model_dump_json(exclude_defaults=True)
            store.write_bytes(key, content.encode())
        folder, _, name = key.rpartition("/")
        start = f"{folder}/{name.rpartition('-v')[0]}-v"
        for older in sorted(item for item in store.keys(folder) if item.startswith(start))[:-1]:
            store.delete(older)
    except Exception as error:  # noqa: BLE001 - the step has succeeded
        log.warning("The index lacks %s, so pages may not show it: %s", ref, error)
