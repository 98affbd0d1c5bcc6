"""Cache support of the stage ``profile``, see :mod:`airflow_mlops.stages.cache`."""

from __future__ import annotations

from typing import Any

from airflow_mlops.core.errors import NotCacheableError
from airflow_mlops.core.fingerprints import fingerprint
from airflow_mlops.data.selection import contents, select
from airflow_mlops.drift import training_reference
from airflow_mlops.models import contracts
from airflow_mlops.profiles import shards
from airflow_mlops.registry import versions
from airflow_mlops.registry.integrity import require_promoted
from airflow_mlops.registry.reader import connect_to_read
from airflow_mlops.stages.cache import require_unpurged
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.profile.spec import ProfileResult, ProfileSpec


def inputs(spec: ProfileSpec, context: StepContext) -> dict[str, Any]:
    """Return the inputs of the profile: the rows and, if ``model`` determines the columns, the version of the model.

    :raises NotCacheableError: a dataset was purged, or the model has no champion
    """
    datasets = select(context.store, spec.dataset, kept=context.kept)
    require_unpurged(datasets)
    version = None
    if spec.columns is None and spec.model is not None:
        client = connect_to_read(spec.mlflow, context.connection)
        champion = versions.champion(client, spec.model)
        if champion is None:
            raise NotCacheableError(f"the model {spec.model!r} has no champion")
        require_promoted(context.store, champion)
        ref = training_reference.version_of(datasets, champion, client)
        contract = contracts.read(client, context.store, ref)
        version = [ref.model_dump(), fingerprint(contract.model_dump(mode="json"))]
    return {
        "spec": spec.model_dump(mode="json", exclude={"dataset"}),
        "datasets": contents(datasets),
        # Shards consist of row groups. Two files with the same rows may have different row groups.
        "files": [[file.sha256 for file in dataset.manifest.files] for dataset in datasets],
        "version": version,
    }


def artifacts(result: ProfileResult, spec: ProfileSpec, context: StepContext) -> dict[str, str]:
    """Check the stored profile against its hash, and return its id.

    :raises NotCacheableError: nothing was profiled
    """
    if result.profile is None:
        raise NotCacheableError("nothing was profiled")
    shards.read(context.store, result.profile)
    return {"profile": result.profile.id}


def replay(result: ProfileResult, spec: ProfileSpec, context: StepContext) -> None:
    """Do nothing: a profile has no effect other than its file."""
