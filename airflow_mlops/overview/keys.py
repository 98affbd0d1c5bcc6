"""The store keys of the sections of the index, see :mod:`airflow_mlops.overview.index`."""

from __future__ import annotations

import hashlib

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.registry.ledger import folder_name

FOLDER = "indexes/models"
CANDIDATE = "candidate-"


def candidate_key(ref: ModelVersionRef, dag_id: str) -> str:
    """Return the store key of the section about a version that a DAG has trained. The keys of a DAG sort by version."""
    # A DAG id may be as long as a file name.
    dag = hashlib.sha256(dag_id.encode()).hexdigest()[:16]
    return f"{FOLDER}/{folder_name(ref.model)}/{CANDIDATE}{dag}-v{ref.version:08}.json"
