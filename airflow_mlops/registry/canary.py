"""The canary of a model in the ledger, and in MLflow, where servers find it.

A task that decides about a canary writes a ledger entry first. Then it sets the tag :data:`SHARE_TAG` of the version to
the share of the requests that the canary answers, and sets the alias ``canary``. When the canary ends, the share is 0
and the alias is removed. If the task crashes between these actions, its retry or the next decision completes them, as
for the champion (:mod:`airflow_mlops.registry.aliases`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.registry.aliases import recorded_champion
from airflow_mlops.registry.client import registry_errors, unless_missing
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.presence import require_ledger
from airflow_mlops.registry.records.canary import CanaryStep
from airflow_mlops.registry.records.entry import Decision, Entry
from airflow_mlops.registry.versions import by_alias, champion

if TYPE_CHECKING:
    from mlflow import MlflowClient

CANARY = "canary"
# Tag of a version: the share of the requests that it answers as a canary, 0 to 1.
SHARE_TAG = "mlops.canary_share"
STARTED, WIDENED, HELD, WITHDRAWN = "canary_started", "canary_widened", "canary_held", "canary_withdrawn"


@dataclass(frozen=True)
class Rollout:
    """A rollout: the steps of one canary, from its start.

    :param entries: the ledger entries of the steps, oldest first
    :param promoted: whether a later decision made the canary champion
    """

    entries: Sequence[Entry]
    promoted: bool

    @property
    def step(self) -> CanaryStep:
        """Return the last step."""
        step = self.entries[-1].canary
        assert step is not None
        return step

    @property
    def version(self) -> ModelVersionRef:
        """Return the canary."""
        return self.step.version

    @property
    def champion(self) -> ModelVersionRef | None:
        """Return the champion with which the canary is compared: the one at the start of the rollout, or ``None``."""
        return self.entries[0].champion

    @property
    def under_way(self) -> bool:
        """Return whether the rollout is in progress: the canary was neither withdrawn nor promoted."""
        return self.step.share > 0 and not self.promoted

    @property
    def shares(self) -> list[tuple[datetime, float]]:
        """Return the shares of the canary as pairs ``(time, share)``, oldest first.

        Each share applies from its time on. Steps that did not change the share are left out.
        """
        found: list[tuple[datetime, float]] = []
        for entry in self.entries:
            if entry.canary is not None and (not found or entry.canary.share != found[-1][1]):
                found.append((entry.time, entry.canary.share))
        return found


def last_rollout(entries: Sequence[Entry]) -> Rollout | None:
    """Return the last rollout of a model, which may have ended; ``None`` if the ledger contains no rollout.

    :param entries: all entries of the ledger, oldest first
    """
    steps = [entry for entry in entries if entry.canary is not None]
    starts = [number for number, entry in enumerate(steps) if entry.decision == STARTED]
    return Rollout(steps[starts[-1] :], _promotion(entries, steps[-1]) is not None) if starts else None


def rollout_under_way(ledger: Ledger, version: ModelVersionRef) -> Rollout | None:
    """Return the rollout of a version that is in progress; ``None`` if there is none.

    If signatures are required, the first and the last entry of the rollout must be signed.

    :raises ModelCorruptError: one of the two entries has no valid signature, but a signature is required
    :raises RegistryError: the ledger was tampered with
    """
    found = last_rollout(ledger.updated_entries())
    if found is None or not found.under_way or found.version.version != version.version:
        return None
    for entry in (found.entries[0], found.entries[-1]):
        ledger.require_signed(entry)
    return found


def ended(entries: Sequence[Entry], version: ModelVersionRef) -> Entry | None:
    """Return the entry that ended the last rollout of a version; ``None`` if it is in progress, or if there was none."""
    own = [entry for entry in entries if entry.canary is not None and entry.canary.version == version]
    if not own:
        return None
    return own[-1] if _share(own[-1]) == 0 else _promotion(entries, own[-1])


def _promotion(entries: Sequence[Entry], step: Entry) -> Entry | None:
    """Return the entry after ``step`` that made the canary of this step champion; ``None`` if there is none."""
    version = step.canary.version if step.canary is not None else None
    return next((entry for entry in entries[step.seq :] if entry.moves and entry.champion == version), None)


def _share(step: Entry) -> float:
    return step.canary.share if step.canary is not None else 0.0


def carry_out(client: MlflowClient, ledger: Ledger) -> None:
    """Set the tag and the alias in MLflow as the last step in the ledger requires.

    :raises RegistryError: MLflow cannot be used, or the canary of a rollout in progress was deleted
    """
    entries = ledger.updated_entries()
    steps = [entry.canary for entry in entries if entry.canary is not None]
    if not steps:
        return
    last, found = steps[-1].version, last_rollout(entries)
    share = steps[-1].share if found is not None and found.under_way else 0.0
    # A new canary replaces a canary that had not ended.
    before = next((step.version for step in reversed(steps) if step.version != last), None)
    with registry_errors(f"The canary {last} cannot be set to the share {share:g}"):
        if before is not None:
            _end(client, before)
        if share == 0:
            _end(client, last)
        else:
            # Servers that find the alias must find the share.
            _set_share(client, last, share)
        present = by_alias(client, ledger.model, CANARY)
        if share > 0 and present != last:
            client.set_registered_model_alias(ledger.model, CANARY, str(last.version))
        if share == 0 and present == last:
            client.delete_registered_model_alias(ledger.model, CANARY)


def _end(client: MlflowClient, version: ModelVersionRef) -> None:
    """Set the share of a canary to 0. If the version was deleted, do nothing."""
    with unless_missing():
        _set_share(client, version, 0)


def _set_share(client: MlflowClient, version: ModelVersionRef, share: float) -> None:
    found = client.get_model_version(version.model, str(version.version)).tags.get(SHARE_TAG)
    if found != f"{share:g}" and not (found is None and share == 0):
        client.set_model_version_tag(version.model, str(version.version), SHARE_TAG, f"{share:g}")


def withdraw(client: MlflowClient, ledger: Ledger, version: int, reason: str) -> bool:
    """Record that a canary is withdrawn from all servers, because it performs worse than the champion.

    Nothing is recorded if the version is not the canary of a rollout in progress.

    :param version: number of the version
    :param reason: the reason for the withdrawal
    :return: whether the withdrawal is recorded, by this call or by an earlier call for the same rollout
    :raises RegistryError: MLflow cannot be used, or the ledger was tampered with
    :raises StoreError: the ledger cannot be read or written
    """

    def decide(entries: Sequence[Entry]) -> Decision | None:
        found = last_rollout(entries)
        if found is None or not found.under_way or found.version.version != version:
            return None
        return Decision.keeping(
            recorded_champion(entries),
            WITHDRAWN,
            reason=reason,
            canary=found.step.model_copy(update={"share": 0.0}),
        )

    started = last_rollout(ledger.updated_entries())
    if started is None:
        if (now := champion(client, ledger.model)) is not None:
            require_ledger(client, ledger, now)
        return False
    # Servers that withdraw the same canary write one entry.
    entry = ledger.record(f"servers/{ledger.model}/canary-{started.entries[0].seq}", decide)
    if entry is not None:
        carry_out(client, ledger)
    return entry is not None
