"""Copy a model version, with its evidence, to another registered model. The model is not trained again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops import __version__
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.fingerprints import fingerprint
from airflow_mlops.core.references import MLflowTarget, ModelVersionRef
from airflow_mlops.core.temporary import temporary_folder
from airflow_mlops.overview import index
from airflow_mlops.registry.client import connect, registry_errors, unless_missing, without_credentials
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.origins import origin
from airflow_mlops.registry.records.entry import Decision, Entry
from airflow_mlops.registry.records.received import MODEL_TAG, REGISTRY_TAG, RUN_TAG, VERSION_TAG, Received
from airflow_mlops.registry.stores import store_of
from airflow_mlops.registry.versions import champion, of_run
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.transfer.source import Evidence, Source, evidence_of, look_up, read
from airflow_mlops.stages.transfer.spec import TransferResult, TransferSpec
from airflow_mlops.stages.transfer.target import receive

if TYPE_CHECKING:
    from mlflow import MlflowClient


def run(spec: TransferSpec, context: StepContext) -> TransferResult:
    """Copy a version with its evidence to the target registry, and write the entry ``received`` to the target's ledger.

    The alias ``champion`` of the target does not move. A version is transferred once: a retry, and every later transfer
    of the same version to the same registered model, returns the first copy, unless this copy was deleted.

    :raises SpecError: source and target are the same registered model, or would share one ledger
    :raises RegistryError: MLflow cannot be used, the version was not evaluated, or it did not pass
    :raises ModelCorruptError: a file has changed since the evaluation
    :raises ModelFormatError: the version has no model contract
    """
    context = context.for_call()
    model, target = spec.target_model or spec.model, MLflowTarget(conn_id=spec.target_conn_id)
    store = store_of(context.connection(spec.mlflow.conn_id), context.store.url)
    target_store = store_of(context.connection(target.conn_id), context.store.url)
    ledger, received_in = Ledger(store, spec.model), Ledger(target_store, model)
    _refuse_one_ledger(ledger, received_in)

    # MLflow reads the credentials from environment variables, so only the last connected server can be used. Each
    # server is therefore connected before it is used.
    client = connect(spec.mlflow, context.connection)
    source = look_up(client, spec.model, str(spec.version))
    key = f"transfers/{fingerprint([*source.ref.model_dump().values(), source.created, model])[:32]}"
    client = connect(target, context.connection)
    _refuse_one_model(client, source, model)
    earlier = _earlier(client, received_in, key)
    if earlier is not None:
        return _result(earlier, client, received_in, transferred=False)

    client = connect(spec.mlflow, context.connection)
    evidence = evidence_of(client, ledger, source.ref)
    found_origin = origin(client, source.ref)
    with temporary_folder("model") as temporary:
        package = read(client, store, source.ref, evidence, temporary)
        client = connect(target, context.connection)
        tags = _tags(source)
        version = receive(client, target_store, model, key, package, evidence.files, tags)

    def decide(entries: list[Entry]) -> Decision:
        now = champion(client, model)
        return Decision(
            decision="received",
            replaced=now,
            champion=now,
            dataset_name=evidence.dataset_name,
            dataset_id=evidence.dataset_id,
            code={"airflow_mlops": __version__},
            origins=[found_origin.model_copy(update={"version": version.version})],
            provenance=context.provenance,
            reason=f"{source.ref} was copied from {tags[REGISTRY_TAG]} with its evidence.",
            received=_received(source, version, ledger, evidence),
        )

    entry = received_in.record(_entry_id(key, version), decide)
    assert entry is not None
    index.update(target_store, model, "decisions")
    return _result(entry, client, received_in, transferred=True)


def _location(ledger: Ledger) -> str:
    folder = ledger.store.local_path(ledger.folder)
    return str(folder.resolve()) if folder is not None else ledger.store.url_of(ledger.folder)


def _refuse_one_ledger(source: Ledger, target: Ledger) -> None:
    """Refuse two registered models that share a ledger, in which their version numbers could not be distinguished."""
    same = _location(source) == _location(target)
    if not same:
        # A store may have several URLs. No two ledgers begin with the same entry.
        first, other = source.entries()[:1], target.entries()[:1]
        same = bool(first) and [item.sha256 for item in first] == [item.sha256 for item in other]
    if same:
        raise SpecError(
            f"Both registries would share the ledger of {target.model!r} in {target.store.url}, so versions of one registry could "
            "be mistaken for versions of the other. Set the extra field 'artifacts' of the connection `target_conn_id` to another artifact "
            "store, or `target_model` to another name."
        )


def _refuse_one_model(client: MlflowClient, source: Source, model: str) -> None:
    found = None
    with registry_errors(f"{model} v{source.ref.version} cannot be looked up in the target registry"), unless_missing():
        found = client.get_model_version(model, str(source.ref.version))
    if found is not None and (found.run_id or "", int(found.creation_timestamp)) == (source.ref.run_id, source.created):
        raise SpecError(
            f"The target already has {source.ref}, because source and target are the same registered model. Set `target_conn_id` to "
            "another MLflow server, or `target_model` to another name."
        )


def _entry_id(key: str, version: ModelVersionRef) -> str:
    # If the version was deleted and is transferred again, it gets another number, and therefore another entry.
    return f"{key}/{version.version}"


def _earlier(client: MlflowClient, ledger: Ledger, key: str) -> Entry | None:
    """Return the entry of the latest transfer with this key; ``None`` if there is none or its version was deleted."""
    for entry in reversed(ledger.updated_entries()):
        if entry.received is not None and entry.id == _entry_id(key, entry.received.version):
            version = entry.received.version
            return entry if of_run(client, ledger.model, version.run_id) == version else None
    return None


def _tags(source: Source) -> dict[str, str]:
    return {
        REGISTRY_TAG: without_credentials(source.registry),
        MODEL_TAG: source.ref.model,
        VERSION_TAG: str(source.ref.version),
        RUN_TAG: source.ref.run_id,
    }


def _received(source: Source, version: ModelVersionRef, ledger: Ledger, evidence: Evidence) -> Received:
    promotion = evidence.promotion
    return Received(
        version=version,
        source=source.ref,
        registry=without_credentials(source.registry),
        ledger_url=ledger.url(promotion.seq) if promotion else None,
        ledger_sha256=promotion.sha256 if promotion else None,
        evaluation=evidence.evaluation,
        contract_sha256=evidence.evaluation.contract_sha256,
        files=evidence.files,
        card=evidence.card,
    )


def _result(entry: Entry, client: MlflowClient, ledger: Ledger, *, transferred: bool) -> TransferResult:
    received, registry = entry.received, without_credentials(client.tracking_uri)
    assert received is not None
    if transferred:
        summary = f"Copied {received.source} with its evaluation results to {registry} as {received.version}. The champion there is unchanged."
    else:
        summary = f"{received.source} was copied to {registry} before, as {received.version}. Nothing was copied."
    return TransferResult(
        transferred=transferred,
        model=ledger.model,
        candidate=received.version,
        source=received.source,
        registry=registry,
        ledger_url=ledger.url(entry.seq),
        summary=summary,
    )
