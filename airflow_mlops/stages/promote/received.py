"""Promote a version that was received from another registry, by the decision of a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from airflow_mlops import __version__
from airflow_mlops.core.calls import Spec
from airflow_mlops.core.errors import ModelCorruptError, RegistryError
from airflow_mlops.core.references import MLflowTarget, ModelVersionRef
from airflow_mlops.core.temporary import temporary_folder
from airflow_mlops.models import contracts
from airflow_mlops.overview import index
from airflow_mlops.registry.aliases import carry_out, settled_champion
from airflow_mlops.registry.client import connect
from airflow_mlops.registry.integrity import card_hashes, difference, file_hashes
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.origins import origin
from airflow_mlops.registry.records.entry import Decision, Entry
from airflow_mlops.registry.records.received import Received
from airflow_mlops.registry.versions import download_into
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.promote.spec import PromoteResult

if TYPE_CHECKING:
    from mlflow import MlflowClient


class ReceivedSpec(Spec):
    """Parameters for promoting a version that was copied from another registry.

    :param model: name of the registered model
    :param version: number of the version in this registry, not in the registry from which it was copied
    :param replaces: number of the version that is expected to be the champion now; ``None`` if the model is expected to
        have no champion
    :param reason: the reason, which is recorded in the ledger
    """

    model: str
    version: int = Field(ge=1)
    replaces: int | None = Field(ge=1)
    reason: str = Field(min_length=1)
    mlflow: MLflowTarget


def run(spec: ReceivedSpec, context: StepContext) -> PromoteResult:
    """Make a received version the champion, and record who decided it and why in the ledger.

    The entry in the ledger repeats the metrics and gates of the source registry's evaluation. Nothing is evaluated
    here.

    :raises RegistryError: the version was not received, the champion is not the expected one, or MLflow cannot be used
    :raises ModelCorruptError: a file of the version has changed since the version was received
    """
    client = connect(spec.mlflow, context.connection)
    ledger = Ledger(context.store, spec.model)
    found, received = _received(spec, ledger.entries())
    ledger.require_signed(found)
    ref = received.version
    _require_unchanged(client, received)
    card = card_hashes(client, ref)

    def decide(entries: list[Entry]) -> Decision | None:
        now = settled_champion(client, ledger, entries)
        if now is not None and now.version == ref.version:
            return None
        _require_champion(spec, now)
        return Decision(
            decision="promoted",
            replaced=now,
            champion=ref,
            candidates=[received.evaluation.model_copy(update={"candidate": ref})],
            dataset_name=found.dataset_name,
            dataset_id=found.dataset_id,
            code={"airflow_mlops": __version__},
            origins=[origin(client, ref)],
            provenance=context.provenance,
            reason=spec.reason,
            files=received.files,
            card=card,
            received=received,
        )

    entry = ledger.record(context.key, decide)
    if entry is not None:
        carry_out(client, ledger)
        index.update(context.store, spec.model, "decisions")
    instead = f"in place of v{entry.replaced.version}" if entry and entry.replaced else "as its first champion"
    return PromoteResult(
        promoted=entry is not None,
        model=spec.model,
        winner=ref,
        champion=ref,
        replaced=entry.replaced if entry else None,
        reason=spec.reason,
        ledger_url=ledger.url(entry.seq) if entry else None,
        dataset_id=found.dataset_id or "",
        metrics=received.evaluation.metrics if entry else {},
        summary=f"Promoted {ref} {instead}: {spec.reason}" if entry else f"{ref} is already the champion.",
    )


def _received(spec: ReceivedSpec, entries: Sequence[Entry]) -> tuple[Entry, Received]:
    for entry in reversed(entries):
        if entry.decision == "received" and entry.received and entry.received.version.version == spec.version:
            return entry, entry.received
    raise RegistryError(
        f"{spec.model} v{spec.version} was not received from another registry, so the ledger has no evidence for it. Evaluate the "
        "version and promote it with PromoteOperator."
    )


def _require_champion(spec: ReceivedSpec, now: ModelVersionRef | None) -> None:
    if (now and now.version) != spec.replaces:
        expected = f"The expected champion of {spec.model} is v{spec.replaces}"
        if spec.replaces is None:
            expected = f"{spec.model} is expected to have no champion"
        present = f"v{now.version} is the champion" if now else "the model has no champion"
        raise RegistryError(
            f"{expected}, but {present}. Check the ledger, and set `replaces` to {now.version if now else 'none'} if "
            f"v{spec.version} should still be promoted."
        )


def _require_unchanged(client: MlflowClient, received: Received) -> None:
    ref = received.version
    with temporary_folder("model") as temporary:
        folder = temporary / "model"
        download_into(client, ref, folder)
        found = difference(received.files, file_hashes(folder))
    if found is None and contracts.digest(client, ref) != received.contract_sha256:
        found = "its contract was changed"
    if found is not None:
        raise ModelCorruptError(
            f"The files of {ref} in MLflow differ from those that were received: {found}. Restore the file, or delete the version and "
            "transfer it again."
        )
