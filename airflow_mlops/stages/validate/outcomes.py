"""The results of all expectations of a validation, which lineage reads, and the failed ones by their severity."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from airflow_mlops.core.counts import counted
from airflow_mlops.core.secrets import mask
from airflow_mlops.data.results import outcomes_key
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.validate.spec import ExpectationOutcome, Severity

log = logging.getLogger("airflow_mlops.stages")
_LEVELS: dict[Severity, int] = {"warning": logging.WARNING, "info": logging.INFO}


def critical(outcomes: Sequence[ExpectationOutcome]) -> list[ExpectationOutcome]:
    """Return the failed expectations to which ``on_failure`` applies."""
    return [outcome for outcome in outcomes if not outcome.success and outcome.severity == "critical"]


def listed(failed: Sequence[ExpectationOutcome]) -> str:
    """Return failed expectations with the numbers of rows that do not meet them, for messages."""
    return ", ".join(map(_with_count, failed))


def also_failed(outcomes: Sequence[ExpectationOutcome]) -> str:
    """Return a sentence that lists the failed expectations to which ``on_failure`` does not apply, for messages.

    :return: the sentence after a space; empty if there are none
    """
    found = [
        f"{_with_count(outcome)} ({outcome.severity})"
        for outcome in outcomes
        if not outcome.success and outcome.severity != "critical"
    ]
    return f" Failed, but not critical: {', '.join(found)}." if found else ""


def log_not_critical(outcomes: Sequence[ExpectationOutcome]) -> None:
    """Log the failed expectations to which ``on_failure`` does not apply, each severity at its level."""
    for severity, level in _LEVELS.items():
        if failed := [outcome for outcome in outcomes if not outcome.success and outcome.severity == severity]:
            log.log(level, "%s", mask(f"Failed with severity {severity}: {listed(failed)}."))


def _with_count(outcome: ExpectationOutcome) -> str:
    if outcome.unexpected is None:
        return outcome.expectation
    return f"{outcome.expectation} in {counted(outcome.unexpected, 'row')}"


def write_outcomes(store: ArtifactStore, key: str, outcomes: Sequence[ExpectationOutcome]) -> None:
    """Store the results of all expectations, for :func:`read_outcomes`.

    :param key: key of the validation's result in the artifact store
    """
    store.write_json(outcomes_key(key), [outcome.model_dump() for outcome in outcomes])


def read_outcomes(store: ArtifactStore, key: str) -> list[ExpectationOutcome]:
    """Read the results of all expectations of a validation, even if the validation failed.

    :param key: key of the validation's result in the artifact store
    :return: the results; empty if the validation stored no results
    """
    try:
        return [ExpectationOutcome.model_validate(found) for found in store.read_json(outcomes_key(key))]
    except FileNotFoundError:
        return []
