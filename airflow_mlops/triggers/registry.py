"""``RegistryTrigger``, an Airflow trigger that fires when the champion has been changed in MLflow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_mlops.compute.connections import airflow_connection
from airflow_mlops.core.connections import environment_name, to_json
from airflow_mlops.core.errors import MLOpsError, SpecError, one_line
from airflow_mlops.core.fingerprints import fingerprint
from airflow_mlops.settings import default_store
from airflow_mlops.triggers.child import ask

if TYPE_CHECKING:
    from airflow_mlops.core.connections import ConnectionInfo
    from airflow_mlops.registry.ledger import Ledger
    from airflow_mlops.registry.records.entry import Entry

# Airflow fetches the events of an Airflow trigger about once a second. An event counts as delivered after this number
# of seconds.
_DELIVERY = 5.0
# Maximum number of seconds between two checks while MLflow does not answer, unless ``poke_interval`` is longer.
_LONGEST_PAUSE = 600.0
_STEP = "airflow_mlops.stages.outside_moves.step"


class RegistryTrigger(BaseEventTrigger):
    """An Airflow trigger for an ``AssetWatcher`` that fires an event when the champion has been changed in MLflow.

    If a person moves or deletes the alias ``champion`` in MLflow, the Airflow trigger writes an entry ``moved_outside``
    to the ledger, and fires one event. Promotions and rollbacks of this package are already in the ledger and fire no
    event. Changes that another watcher or a webhook has recorded fire no event of this trigger either. If the alias
    changes several times between two checks, only the last change is noticed. No change is noticed if the alias names
    the same version at both checks.

    The asset state store records the entries for which an event was fired. A restarted triggerer fires no second event
    for an entry. An event is fired again only if the triggerer stops during the delivery of the event, which takes a
    few seconds.

    Airflow 3.3 stops watching an asset when it parses a DAG file that defines the asset without its watcher. Use
    ``Asset.ref`` to refer to the asset in other DAG files.

    The payload of the event has the fields ``model``, ``version``, ``run_id``, ``replaced``, ``reason`` and
    ``ledger_url``. ``version`` is null if the alias was deleted.

    :param model: name of the registered model
    :param mlflow_conn_id: id of the Airflow connection to MLflow
    :param store: URL of the artifact store with the ledger; by default ``[mlops] artifacts`` of the triggerer
    :param poke_interval: seconds between two checks. While MLflow does not answer, the time doubles with each check, up
        to ten minutes
    :raises SpecError: ``model`` is empty, or ``poke_interval`` is not positive
    """

    def __init__(
        self,
        model: str,
        mlflow_conn_id: str = "mlflow_default",
        store: str | None = None,
        poke_interval: float = 60,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if not model or not poke_interval > 0:
            raise SpecError(
                f"RegistryTrigger(model={model!r}, poke_interval={poke_interval!r}) is invalid: set model= to the name of a "
                "registered model, and poke_interval= to a number of seconds above 0."
            )
        self.model = model
        self.mlflow_conn_id = mlflow_conn_id
        self.store = store
        self.poke_interval = poke_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        arguments = ("model", "mlflow_conn_id", "store", "poke_interval")
        return f"{__name__}.{type(self).__name__}", {name: getattr(self, name) for name in arguments}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        fired: int | None = None
        failures = 0
        while True:
            try:
                if fired is None:
                    fired = await self._first()
                moves = [entry for entry in await self._look() if entry.seq > fired]
            except Exception as error:  # noqa: BLE001 - an error would end the watching
                failures += 1
                if failures == 1:
                    self.log.warning("The champion of model %r cannot be watched: %s", self.model, _message(error))
            else:
                if failures:
                    self.log.info("The champion of model %r is watched again.", self.model)
                failures = 0
                for entry in moves:
                    yield TriggerEvent(self._payload(entry))  # type: ignore[no-untyped-call]
                if moves:
                    await asyncio.sleep(_DELIVERY)
                    fired = moves[-1].seq
                    await self._save(fired)
            # The exponent is bounded, because MLflow may be unavailable for days.
            pause = self.poke_interval * 2 ** min(failures, 20)
            await asyncio.sleep(min(pause, max(self.poke_interval, _LONGEST_PAUSE)))

    async def _look(self) -> list[Entry]:
        """Check MLflow once, and record a change of the champion in the ledger.

        :return: all ledger entries that this Airflow trigger has written, including those of earlier checks
        """
        from asgiref.sync import sync_to_async

        found = await sync_to_async(airflow_connection)(self.mlflow_conn_id)
        if await asyncio.to_thread(self._differs, found):
            look = {
                "spec": {"model": self.model, "noticed_by": "RegistryTrigger", "mlflow": {"conn_id": found.conn_id}},
                "store": self._ledger.store.url,
                "key": f"{self._prefix}{uuid4().hex}",
            }
            what = f"The change of the champion of {self.model!r} cannot be recorded"
            await ask(_STEP, look, what, {environment_name(found.conn_id): to_json(found)})
        return await asyncio.to_thread(self._recorded)

    def _differs(self, found: ConnectionInfo) -> bool:
        """Return whether the champion in MLflow may differ from the champion in the ledger."""
        from airflow_mlops.registry.light import Aliases, sufficient
        from airflow_mlops.registry.outside_moves import known
        from airflow_mlops.registry.versions import CHAMPION

        if not sufficient(found):
            # Plain HTTP is not sufficient to read this registry, so the step compares the champions by MLflow's client.
            return True
        return Aliases(found).version(self.model, CHAMPION) != known(self._ledger.updated_entries())

    def _recorded(self) -> list[Entry]:
        from airflow_mlops.registry.outside_moves import recorded_by

        return recorded_by(self._ledger.updated_entries(), self._prefix)

    @cached_property
    def _ledger(self) -> Ledger:
        from airflow_mlops.data.store import ArtifactStore
        from airflow_mlops.registry.ledger import Ledger

        return Ledger(ArtifactStore(self.store or default_store()), self.model)

    @cached_property
    def _identity(self) -> str:
        # Airflow runs triggers with equal arguments only once. Different watchers must therefore have different
        # arguments.
        return fingerprint(self.serialize()[1])[:16]

    @property
    def _prefix(self) -> str:
        """Return the prefix of the ids of the ledger entries that this Airflow trigger writes.

        The Airflow trigger fires events only for these entries.
        """
        return f"registry/{self.model}/{self._identity}/"

    @property
    def _state_key(self) -> str:
        return f"mlops.registry.{self._identity}"

    async def _first(self) -> int:
        """Return the number of the last ledger entry for which an event was fired.

        The asset state store contains this number. If it does not, for example when the Airflow trigger starts for the
        first time, the number of the last ledger entry that this Airflow trigger has written is returned, or else 0.
        """
        if self.asset_state_store is not None:
            try:
                found = await self.asset_state_store.aget(self._state_key)
            except ValueError:
                self.log.warning(
                    "Several assets share this AssetWatcher. Therefore the event of a change can be lost if the triggerer "
                    "stops. Use a separate RegistryTrigger for each asset, for example with a different poke_interval."
                )
                self.asset_state_store = None
            else:
                if found is not None:
                    return int(found)  # type: ignore[arg-type]
        recorded = await asyncio.to_thread(self._recorded)
        last = recorded[-1].seq if recorded else 0
        await self._save(last)
        return last

    async def _save(self, fired: int) -> None:
        if self.asset_state_store is not None:
            await self.asset_state_store.aset(self._state_key, fired)

    def _payload(self, entry: Entry) -> dict[str, Any]:
        return {
            "model": self.model,
            "version": entry.champion.version if entry.champion is not None else None,
            "run_id": entry.champion.run_id if entry.champion is not None else None,
            "replaced": entry.replaced.version if entry.replaced is not None else None,
            "reason": entry.reason,
            "ledger_url": self._ledger.url(entry.seq),
        }


def _message(error: Exception) -> str:
    return str(error) if isinstance(error, MLOpsError) else f"{type(error).__name__}: {one_line(error)}"
