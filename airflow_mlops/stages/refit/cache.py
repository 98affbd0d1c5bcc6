"""The inputs and the artifacts of a refit, for the cache (:mod:`airflow_mlops.stages.cache`)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_mlops.core import own_code
from airflow_mlops.core.errors import NotCacheableError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.temporary import temporary_folder
from airflow_mlops.data.selection import contents, select_one
from airflow_mlops.registry import run_files
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.names import EVALUATION_FOLDER, JUDGED_RUN_TAG, REFIT_OF_TAG, REFIT_TAG
from airflow_mlops.registry.reader import connect_to_read
from airflow_mlops.registry.records.verdict import Refit, Verdict
from airflow_mlops.registry.versions import IDENTITY, download
from airflow_mlops.stages.cache import require_unpurged, verified
from airflow_mlops.stages.cached_trainings import import_paths, start
from airflow_mlops.stages.cached_versions import content, require_run, require_same, stored_files
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.refit.runs import CHECKS_FILE, copied
from airflow_mlops.stages.refit.spec import RefitResult, RefitSpec
from airflow_mlops.stages.train.recorded import training_spec

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Tags of the MLflow run of a refit.
_RUN_TAGS = ("mlops.verdict", "mlops.identical_to")
# Tags of a version that was fitted again.
_VERSION_TAGS = (IDENTITY, REFIT_OF_TAG, JUDGED_RUN_TAG)


def inputs(spec: RefitSpec, context: StepContext) -> dict[str, Any]:
    """Return everything that determines the result of a refit.

    The inputs are the verdict, the winner with its training, files and model card, the user's code, and the retraining
    request, which the MLflow run of the refit records.

    :raises NotCacheableError: no candidate won, MLflow now uses the winner's number for a different version, or the
        training set of the winner was purged
    """
    winner = spec.verdict.winner
    if winner is None:
        raise NotCacheableError("no candidate won, so nothing is fitted again")
    client, store = connect_to_read(spec.mlflow, context.connection), context.store
    require_same(client, winner)
    training = training_spec(client, winner, "fitted again", allow_code=spec.allow_code)
    dataset = select_one(store, training.dataset)
    require_unpurged([dataset])
    request = context.provenance.request(spec.verdict.model)
    return {
        "spec": spec.model_dump(mode="json"),
        "training": training.model_dump(mode="json", exclude={"dataset"}),
        "datasets": contents([dataset]),
        "winner": content(winner, download(client, winner)),
        "copied": copied(client, winner),
        "card": _hashes(_files(client, winner.run_id, EVALUATION_FOLDER)),
        "code": own_code.hashes(import_paths(training.trainer, training.metrics)),
        "start": start(training.trainer, training.model, client, store),
        "request": request.id if request else None,
    }


def artifacts(result: RefitResult, spec: RefitSpec, context: StepContext) -> dict[str, str]:
    """Return the hashes of the training set, of both versions, and of the refit's records in MLflow.

    :raises NotCacheableError: a person has deleted or changed a part of the record, or another refit has replaced it
    :raises MLOpsError: the training set was purged or changed, or a version does not exist any more
    """
    refit = result.verdict.refit
    if refit is None:
        raise NotCacheableError("nothing was fitted again")
    client, judged = connect_to_read(spec.mlflow, context.connection), refit.judged
    require_run(client, result.run_id, result.run_url)
    require_same(client, judged)
    training = training_spec(client, judged, "fitted again", allow_code=spec.allow_code)
    found = verified(context.store, select_one(context.store, training.dataset).ref)
    found |= {f"judged {name}": digest for name, digest in stored_files(client, judged).items()}
    found |= _hashes(_files(client, result.run_id, CHECKS_FILE))
    with registry_errors(f"The run {result.run_id} cannot be read"):
        tags = client.get_run(result.run_id).data.tags
    found |= {tag: tags.get(tag, "") for tag in _RUN_TAGS}
    return found if refit.version is None else found | _registered(client, refit, refit.version, result.verdict)


def _registered(client: MlflowClient, refit: Refit, ref: ModelVersionRef, verdict: Verdict) -> dict[str, str]:
    """Check the version that was fitted again, and return its tags and the hashes of its model card."""
    require_same(client, ref)
    if stored_files(client, ref) != refit.files:
        raise NotCacheableError(f"the files of {ref} differ from those that the refit registered")
    with registry_errors(f"The refit {ref} cannot be read"):
        version = client.get_model_version(ref.model, str(ref.version))
        judged = client.get_model_version(ref.model, str(refit.judged.version))
        judged_run, run = client.get_run(refit.judged.run_id), client.get_run(ref.run_id)
        if {run.info.lifecycle_stage, judged_run.info.lifecycle_stage} != {"active"}:
            raise NotCacheableError(f"the MLflow run of {ref} or of {refit.judged} was deleted")
        if {judged.tags.get(REFIT_TAG), judged_run.data.tags.get(REFIT_TAG)} != {str(ref.version)}:
            raise NotCacheableError(
                f"a later refit of {refit.judged} exists, or the tag {REFIT_TAG} of this version was changed"
            )
        card = _files(client, ref.run_id, EVALUATION_FOLDER)
        if card:
            if run.data.tags.get("mlops.evaluated_on") != verdict.dataset_id or not version.description:
                raise NotCacheableError(f"what was recorded with {ref} in MLflow was changed")
            recorded = card.get(f"{EVALUATION_FOLDER}/verdict.json")
            if recorded is None or Verdict.model_validate_json(recorded) != verdict:
                raise NotCacheableError(f"the model card of {ref} has another verdict")
    return {f"version {tag}": version.tags.get(tag, "") for tag in _VERSION_TAGS} | _hashes(card)


def _hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    return {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}


def _files(client: MlflowClient, run_id: str, path: str) -> dict[str, bytes]:
    """Return the contents of a file of an MLflow run, or of each file in a folder of the run, by path.

    :param path: path of the file or folder
    :return: empty if the run has no such file or folder
    """
    with registry_errors(f"The files of run {run_id} cannot be read"), temporary_folder("evaluation") as folder:
        if path not in run_files.paths(client, run_id):
            return {}
        run_files.download(client, run_id, path, folder)
        return {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }


def replay(result: RefitResult, spec: RefitSpec, context: StepContext) -> None:
    """Do nothing: a refit has no effect other than its records in MLflow, which :func:`artifacts` has checked."""
