"""The results of all expectations of a validation, which lineage reads."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.validate.spec import ExpectationOutcome


def write_outcomes(store: ArtifactStore, key: str, outcomes: Sequence[ExpectationOutcome]) -> None:
    """Store the results of all expectations, for :func:`read_outcomes`.

    :param key: key of the validation's result in the artifact store
    """
    store.write_json(_outcomes_key(key), [outcome.model_dump() for outcome in outcomes])


def read_outcomes(store: ArtifactStore, key: str) -> list[ExpectationOutcome]:
    """Read the results of all expectations of a validation, even if the validation failed.

    :param key: key of the validation's result in the artifact store
    :return: the results; empty if the validation stored no results
    """
    try:
        return [ExpectationOutcome.model_validate(found) for found in store.read_json(_outcomes_key(key))]
    except FileNotFoundError:
        return []


def _outcomes_key(key: str) -> str:
    return f"checkpoints/{key.removesuffix('.json')}/outcomes.json"
