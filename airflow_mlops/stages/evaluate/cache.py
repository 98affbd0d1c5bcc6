"""The inputs and the artifacts of an evaluation, for the cache (:mod:`airflow_mlops.stages.cache`)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.core import own_code
from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import DatasetNotFoundError, NotCacheableError
from airflow_mlops.core.references import DatasetRef, ModelVersionRef
from airflow_mlops.core.temporary import temporary_folder
from airflow_mlops.data.datasets import Dataset, open_dataset
from airflow_mlops.data.selection import contents, select_one
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.gates.base import Gate, MetricGate
from airflow_mlops.gates.latency import Latency
from airflow_mlops.gates.reproducibility import Reproducible
from airflow_mlops.gates.rules import parse_gates
from airflow_mlops.gates.signature import Signature
from airflow_mlops.metrics.catalog import is_custom
from airflow_mlops.models import contracts
from airflow_mlops.models import explanation as explanations
from airflow_mlops.registry import run_files
from airflow_mlops.registry.aliases import COMPARED_TAG
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.integrity import download_promoted, require_promoted
from airflow_mlops.registry.names import EVALUATION_FOLDER
from airflow_mlops.registry.reader import connect_to_read
from airflow_mlops.registry.records.received import VERSION_TAG
from airflow_mlops.registry.records.verdict import CandidateVerdict, Verdict
from airflow_mlops.registry.versions import champion, download, version
from airflow_mlops.stages.cache import point_to, verified
from airflow_mlops.stages.cached_versions import content, contract_of, stored_files
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate.lineage import LINEAGE
from airflow_mlops.stages.evaluate.spec import EvaluateResult, EvaluateSpec

if TYPE_CHECKING:
    from mlflow import MlflowClient


def inputs(spec: EvaluateSpec, context: StepContext) -> dict[str, Any]:
    """Return everything that determines the verdict: candidates, champion, data, gates and code of custom metrics.

    :raises NotCacheableError: the rows are divided into shards, TrainOperator did not train a candidate or the champion,
        or a gate measures time or trains the candidate again
    """
    if spec.shards is not None:
        raise NotCacheableError("an evaluation in shards is not cached")
    gates = parse_gates(spec.gates) if spec.gates is not None else []
    _require_repeatable(gates)
    client, store = connect_to_read(spec.mlflow, context.connection), context.store
    candidates = [(ref, download(client, ref)) for ref in (_registered(client, ref) for ref in spec.candidates)]
    measured = _champion(client, store, candidates[0][0].model)
    trained = [contract_of(ref, folder) for ref, folder in [*candidates, *measured]]
    return {
        "spec": spec.model_dump(mode="json", exclude={"candidates", "dataset", "evidence"}),
        "candidates": [
            {**content(ref, folder), "run": _run(client, ref), "contract": contracts.digest(client, ref)}
            for ref, folder in candidates
        ],
        "champion": [content(ref, folder) for ref, folder in measured],
        "datasets": contents(_datasets(spec, context)),
        # The content of a training set cannot change, but a gate may need one that was deleted.
        "training_sets": {item.dataset_id: _state(store, item) for item in trained if item.dataset_id},
        "can_score": [_can_score(gate, store) for gate in gates if isinstance(gate, Signature)],
        "code": own_code.hashes(filter(is_custom, _metrics(spec, gates))),
    }


def _require_repeatable(gates: Iterable[Gate]) -> None:
    for gate in gates:
        if isinstance(gate, Latency):
            raise NotCacheableError(f"the gate {gate.name!r} measures time, which depends on the machine")
        if isinstance(gate, Reproducible):
            raise NotCacheableError(f"the gate {gate.name!r} trains the candidate again")


def _registered(client: MlflowClient, ref: ModelVersionRef) -> ModelVersionRef:
    found = version(client, ref.model, ref.version)
    if ref.run_id and found != ref:
        raise NotCacheableError(f"MLflow now uses the number of {ref} for a different version")
    return found


def _champion(client: MlflowClient, store: ArtifactStore, model: str) -> list[tuple[ModelVersionRef, Path]]:
    """Return the champion with the folder of its files. The list is empty if the model has no champion.

    If the champion is a refit, the version of which it is a refit is returned as well, because an evaluation measures that
    version where the champion was fitted on the held-out rows.

    :raises MLOpsError: files of one of these versions were changed after its promotion
    :raises NotCacheableError: the champion is a refit that was made in another registry
    """
    ref = champion(client, model)
    if ref is None:
        return []
    require_promoted(store, ref)
    found = [(ref, download_promoted(client, store, ref))]
    judged = contract_of(*found[0]).refit_of
    if judged is not None:
        with registry_errors(f"{ref} cannot be read"):
            if VERSION_TAG in client.get_model_version(ref.model, str(ref.version)).tags:
                raise NotCacheableError(f"the champion {ref} was fitted again in another registry")
        stand_in = version(client, model, judged)
        found.append((stand_in, download_promoted(client, store, stand_in)))
    return found


def _run(client: MlflowClient, ref: ModelVersionRef) -> dict[str, Any] | None:
    """Return the parts of a version's MLflow run that the model card shows; ``None`` if the version has no run.

    Tags and files that evaluations add are left out.
    """
    if not ref.run_id:
        return None
    with registry_errors(f"The MLflow run of {ref} cannot be read"):
        data = client.get_run(ref.run_id).data
        files = sorted(run_files.paths(client, ref.run_id) - {EVALUATION_FOLDER})
        explanation = None
        if explanations.FOLDER in files:
            path = f"{explanations.FOLDER}/{explanations.FILE}"
            explanation = hashlib.sha256(run_files.read(client, ref.run_id, path)).hexdigest()
    tags = {name: data.tags.get(name) for name in LINEAGE}
    return {"tags": tags, "params": data.params, "files": files, "explanation": explanation}


def _datasets(spec: EvaluateSpec, context: StepContext) -> Sequence[Dataset]:
    """Return the datasets that the spec names; none if the training set of the candidates is measured."""
    if spec.evidence is not None:
        from airflow_mlops.stages.evaluate import live

        return live.datasets(spec.evidence, context)
    return [select_one(context.store, spec.dataset, context.kept)] if spec.dataset else []


def _state(store: ArtifactStore, contract: ModelContract) -> str:
    try:
        found = open_dataset(store, DatasetRef(name=contract.dataset_name, id=contract.dataset_id, rows=0))
    except DatasetNotFoundError:
        return "absent"
    return "present" if found.manifest.purged is None else "purged"


def _can_score(gate: Signature, store: ArtifactStore) -> list[Any] | None:
    try:
        found = gate.newest(store)
    except DatasetNotFoundError:
        return None
    return [*contents([found]), found.manifest.purged is None]


def _metrics(spec: EvaluateSpec, gates: Iterable[Gate]) -> list[str]:
    return [*filter(None, [spec.metric]), *(gate.metric for gate in gates if isinstance(gate, MetricGate))]


def artifacts(result: EvaluateResult, spec: EvaluateSpec, context: StepContext) -> dict[str, str]:
    """Return the hashes of the data, of the candidates' files in MLflow, and of the evaluation's records in MLflow.

    :raises NotCacheableError: another evaluation has replaced the record, a person has deleted a part of it, or the
        candidates were compared with another champion
    :raises MLOpsError: the data was purged or changed, or a version does not exist any more
    """
    verdict = result.verdict
    assert verdict is not None  # results of shards are not cached
    found = verified(context.store, _measured_on(verdict))
    if spec.evidence is not None:
        for dataset in _datasets(spec, context):
            dataset.verify_bytes()
    client = connect_to_read(spec.mlflow, context.connection)
    # The champion may have changed after the inputs were read, and changed back since.
    if verdict.champion != champion(client, verdict.model):
        raise NotCacheableError("the candidates were compared with another champion")
    for item in verdict.candidates:
        name = f"v{item.candidate.version}"
        found |= {f"{name} {key}": value for key, value in _recorded(client, item, verdict).items()}
    return found


def _measured_on(verdict: Verdict) -> DatasetRef:
    return DatasetRef(name=verdict.dataset_name, id=verdict.dataset_id, rows=0)


def _recorded(client: MlflowClient, item: CandidateVerdict, verdict: Verdict) -> dict[str, str]:
    """Check the record of a candidate's evaluation, and return the hashes of its files and the tag of the version."""
    ref = _registered(client, item.candidate)
    if stored_files(client, ref) != item.files:
        raise NotCacheableError(f"the files of {ref} were changed after the evaluation")
    # An evaluation records nothing with the champion.
    if ref == verdict.champion:
        return {}
    with registry_errors(f"The evaluation of {ref} cannot be read"):
        registered = client.get_model_version(ref.model, str(ref.version))
        found = {} if verdict.live else {COMPARED_TAG: registered.tags.get(COMPARED_TAG, "")}
        if not ref.run_id:
            return found
        run = client.get_run(ref.run_id)
        tags = {"mlops.evaluated_on": verdict.dataset_id, "mlops.verdict": verdict.outcome(ref)}
        if run.info.lifecycle_stage != "active":
            raise NotCacheableError(f"the MLflow run of {ref} was deleted")
        if not tags.items() <= run.data.tags.items() or not registered.description:
            raise NotCacheableError(f"the record of the evaluation of {ref} in MLflow was changed")
        with temporary_folder("evaluation") as temporary:
            folder = run_files.download(client, ref.run_id, EVALUATION_FOLDER, temporary)
            if Verdict.model_validate_json((folder / "verdict.json").read_bytes()) != verdict:
                raise NotCacheableError(f"{ref} was evaluated again")
            files = sorted(file for file in folder.rglob("*") if file.is_file())
            return found | {
                file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
            }


def replay(result: EvaluateResult, spec: EvaluateSpec, context: StepContext) -> None:
    """Make the dataset of live evidence the current dataset of its window, as the step does."""
    if spec.evidence is not None and result.verdict is not None:
        point_to(context.store, _measured_on(result.verdict))
