"""Measure the predictions of versions that were replaced within the window.

Each version is compared with its own training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops.core.errors import MLOpsError, ModelFormatError, RegistryError, RegistryUnavailableError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.drift import training_reference
from airflow_mlops.drift.reference import Reference
from airflow_mlops.models import contracts
from airflow_mlops.policy.findings import VersionFindings
from airflow_mlops.registry import versions
from airflow_mlops.stages.monitor import clusters, columns, performance, references
from airflow_mlops.stages.monitor.check import Check

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from airflow_mlops.drift.training_reference import TrainingReference


def measure(check: Check, client: MlflowClient) -> VersionFindings:
    """Measure performance and drift of the predictions of one version.

    If the version cannot be read, the findings contain the reason instead of measurements.

    :param check: a check whose ``version`` is set
    :raises RegistryUnavailableError: the MLflow server does not respond
    """
    assert check.version is not None
    try:
        version = versions.version(client, check.model, check.version)
        stored = contracts.read(client, check.store, version)
        reference = training_reference.load(version, stored, check.datasets, check.store)
    except RegistryUnavailableError:
        raise
    except (RegistryError, ModelFormatError) as error:
        return _unknown(check, error)
    with clusters.numbered(check) as checked:
        return _findings(checked, reference)


def _unknown(check: Check, error: MLOpsError) -> VersionFindings:
    assert check.version is not None
    return VersionFindings(
        version=ModelVersionRef(model=check.model, version=check.version, run_id=""),
        rows=check.rows,
        unmeasured=f"this version cannot be read ({str(error).rstrip('.')})",
    )


def _findings(check: Check, reference: TrainingReference) -> VersionFindings:
    realised = performance.realised(check, reference)
    current = columns.window_profile(check, reference, [])
    baselines = references.baselines(Reference(), check, reference, current)
    drift = columns.measure(check, reference, current, baselines, judge_labels=False)
    return VersionFindings(
        version=reference.version,
        rows=check.rows,
        labelled=realised.labelled,
        performance=realised.performance,
        unmeasured=realised.unmeasured,
        prediction=drift.prediction,
        features=drift.features,
    )
