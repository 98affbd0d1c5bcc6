"""Read a model version, its evidence and the files of its MLflow run from the source registry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from airflow_mlops.core.errors import ModelCorruptError, ModelFormatError, RegistryError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.secrets import mask
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models import contracts
from airflow_mlops.models.contract_file import CONTRACT_FILE
from airflow_mlops.models.explanation import FOLDER
from airflow_mlops.registry import run_files
from airflow_mlops.registry.aliases import COMPARED_TAG
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.integrity import card_hashes, difference, file_hashes
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.names import CODE_FILE, ENVIRONMENT_FILE, EVALUATION_FOLDER, GPU_TAG, TRAINING_FILE
from airflow_mlops.registry.origins import CODE_VERSION
from airflow_mlops.registry.records.entry import Entry
from airflow_mlops.registry.records.verdict import CandidateVerdict, Verdict
from airflow_mlops.registry.versions import download_into, find

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Files and folders of the MLflow run that are copied: the evaluation with model card and verdict, and how the model was
# trained.
_EVIDENCE = (EVALUATION_FOLDER, FOLDER, TRAINING_FILE, CODE_FILE, ENVIRONMENT_FILE)
# Tags of the MLflow run that are copied: data, code, environment and evaluation. Other tags refer to objects of the
# source (DAG runs, requests, versions), or are the user's.
_RUN_TAGS = (
    "mlops.dataset", "mlops.dataset_name", "mlops.window", "mlops.window_rule", "mlops.window_gaps", "mlops.parents",
    "mlops.seed", "mlops.trainer", "mlops.package", "mlops.code", "mlops.environment", CODE_VERSION, GPU_TAG,
    "mlops.evaluated_on", "mlops.verdict", "mlflow.source.git.commit",
)  # fmt: skip
_VERSION_TAGS = ("mlops.dataset", "mlops.trainer", COMPARED_TAG)
# MLflow writes this file into a folder that it downloads.
_WRITTEN_BY_MLFLOW = "registered_model_meta"


@dataclass(frozen=True)
class Source:
    """A model version in its registry.

    :param created: time at which the version was registered, in milliseconds since 1970
    :param registry: URL of the registry, with which the MLflow client was made
    """

    ref: ModelVersionRef
    created: int
    registry: str


@dataclass(frozen=True)
class Evidence:
    """The evidence for a version: the results of its evaluation, and the hashes of the files that were evaluated.

    :param promotion: the entry of the source's ledger that promoted the version; ``None`` if it was not promoted
    :param evaluation: metrics and gate results
    :param files: SHA-256 of each file of the version, by path
    :param card: SHA-256 of the model card and the verdict, by name
    """

    promotion: Entry | None
    evaluation: CandidateVerdict
    dataset_name: str | None
    dataset_id: str | None
    files: dict[str, str]
    card: dict[str, str]


@dataclass(frozen=True)
class Package:
    """The parts of a version and of its MLflow run that are copied.

    :param model: folder with the files of the version
    :param evidence_files: folder with the files of the MLflow run
    :param contract: content of the contract of a version that TrainOperator did not train; ``None`` for other versions,
        whose contract is in ``model``
    """

    model: Path
    evidence_files: Path
    contract: bytes | None
    description: str
    run_name: str
    metrics: dict[str, float] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    run_tags: dict[str, str] = field(default_factory=dict)
    version_tags: dict[str, str] = field(default_factory=dict)


def look_up(client: MlflowClient, model: str, number_or_alias: str) -> Source:
    """Find a version in the source registry.

    :raises RegistryError: the version does not exist, or no version has the alias
    """
    ref = find(client, model, number_or_alias)
    if ref is None:
        raise RegistryError(
            f"No version of {model!r} has the alias {number_or_alias!r}. Set `version` to the number of a version, or promote one."
        )
    with registry_errors(f"{ref} cannot be read"):
        found = client.get_model_version(ref.model, str(ref.version))
    return Source(ref, int(found.creation_timestamp), client.tracking_uri)


def evidence_of(client: MlflowClient, ledger: Ledger, ref: ModelVersionRef) -> Evidence:
    """Return the evidence for a version: the ledger entry that promoted it, or the verdict in its MLflow run.

    :raises RegistryError: the version was not evaluated, it did not pass, or the ledger was tampered with
    :raises ModelCorruptError: the model card or the verdict was changed after the promotion
    """
    promotion = next((entry for entry in reversed(ledger.entries()) if entry.promotes(ref.version)), None)
    card = card_hashes(client, ref)
    if promotion is None:
        return _evaluated(client, ref, card)
    ledger.require_signed(promotion)
    judged = promotion.refit.judged if promotion.refit and promotion.refit.version == ref else ref
    evaluation = next((item for item in promotion.candidates if item.candidate == judged), None)
    if evaluation is None or not promotion.files:
        raise RegistryError(
            f"Entry {promotion.seq} of the ledger of {ref.model!r} promotes {ref} without the hashes of its files. Evaluate and "
            "promote the version again."
        )
    if promotion.card and (found := difference(promotion.card, card)) is not None:
        raise ModelCorruptError(
            f"The evaluation of {ref} in MLflow differs from the one that was promoted (ledger entry {promotion.seq}): {found}. Restore "
            "the file."
        )
    return Evidence(promotion, evaluation, promotion.dataset_name, promotion.dataset_id, promotion.files, card)


def _evaluated(client: MlflowClient, ref: ModelVersionRef, card: dict[str, str]) -> Evidence:
    if not ref.run_id:
        raise RegistryError(
            f"{ref} has no MLflow run and was never promoted, so its evaluation is not stored. Evaluate and promote the version "
            "first."
        )
    unknown = RegistryError(
        f"{ref} was not evaluated in its registry, so there is no evidence to copy. Evaluate it with EvaluateOperator."
    )
    if "verdict.json" not in card:
        raise unknown
    with registry_errors(f"The verdict on {ref} cannot be read"):
        recorded = run_files.read(client, ref.run_id, f"{EVALUATION_FOLDER}/verdict.json")
        try:
            verdict = Verdict.model_validate_json(recorded)
        except ValidationError:
            raise RegistryError(
                f"The verdict on {ref} in MLflow cannot be read by this release. Evaluate the version again."
            ) from None
    refit = verdict.refit if verdict.refit and verdict.refit.version == ref else None
    # A version that was itself received has the verdict of its source, which names another version.
    judged = refit.judged if refit else ref
    evaluation = next((item for item in verdict.candidates if item.candidate == judged), None)
    files = verdict.files_of(ref) if evaluation else {}
    if evaluation is None or not files:
        raise unknown
    if not evaluation.passed or (refit is not None and not refit.passed):
        why = refit.reason if refit is not None else verdict.reason
        raise RegistryError(f"{ref} did not pass its evaluation: {why} Transfer a version that passed.")
    return Evidence(None, evaluation, verdict.dataset_name, verdict.dataset_id, files, card)


def read(client: MlflowClient, store: ArtifactStore, ref: ModelVersionRef, evidence: Evidence, folder: Path) -> Package:
    """Download the files of a version, and read the records in its MLflow run. Known secrets are masked.

    :param store: artifact store of the source
    :param folder: empty folder for the files
    :raises ModelCorruptError: a file was changed, added or removed after the evaluation
    :raises ModelFormatError: the version has no model contract
    """
    model, evidence_files = folder / "model", folder / "run"
    model.mkdir()
    evidence_files.mkdir()
    download_into(client, ref, model)
    (model / _WRITTEN_BY_MLFLOW).unlink(missing_ok=True)
    if (found := difference(evidence.files, file_hashes(model))) is not None:
        raise ModelCorruptError(
            f"The files of {ref} in MLflow differ from those that were evaluated: {found}. Restore the file, or evaluate the version "
            "again."
        )
    contract = _contract(client, store, ref, evidence)
    if contract is None and not (model / CONTRACT_FILE).is_file():
        raise ModelFormatError(
            f"{ref} has no model contract (features, label, ML task). Evaluate the version with EvaluateOperator."
        )
    with registry_errors(f"The MLflow run of {ref} cannot be read"):
        version = client.get_model_version(ref.model, str(ref.version))
        version_tags = _chosen(version.tags, _VERSION_TAGS)
        if not ref.run_id:
            return Package(
                model, evidence_files, contract, mask(version.description or ""), str(ref), version_tags=version_tags
            )
        run = client.get_run(ref.run_id)
        for path in run_files.paths(client, ref.run_id) & {*_EVIDENCE}:
            run_files.download(client, ref.run_id, path, evidence_files)
    if (found := difference(evidence.card, _card(evidence_files, evidence.card))) is not None:
        raise ModelCorruptError(f"The evaluation of {ref} in MLflow was changed while it was copied: {found}. Retry.")
    return Package(
        model,
        evidence_files,
        contract,
        mask(version.description or ""),
        run.info.run_name or str(ref),
        dict(run.data.metrics),
        {name: mask(value) for name, value in run.data.params.items()},
        _chosen(run.data.tags, _RUN_TAGS),
        version_tags,
    )


def _card(folder: Path, names: dict[str, str]) -> dict[str, str]:
    found = file_hashes(folder / EVALUATION_FOLDER)
    return {name: found[name] for name in names if name in found}


def _contract(client: MlflowClient, store: ArtifactStore, ref: ModelVersionRef, evidence: Evidence) -> bytes | None:
    digest = contracts.digest(client, ref)
    if digest != evidence.evaluation.contract_sha256:
        raise ModelCorruptError(
            f"The contract of {ref} is not the one with which the version was evaluated. Evaluate the version again."
        )
    if digest is None:
        return None
    found = contracts.content(store, ref, digest)
    if found is None:
        raise ModelFormatError(
            f"The contract of {ref} is not in the artifact store {store.url}. Evaluate the version again."
        )
    return found


def _chosen(tags: dict[str, str], names: Sequence[str]) -> dict[str, str]:
    return {name: mask(tags[name]) for name in names if name in tags}
