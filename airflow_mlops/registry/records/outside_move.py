"""The record of a champion that was changed outside of this package, for example by hand in MLflow's UI."""

from __future__ import annotations

from typing import Literal

from airflow_mlops.core.base import Model

Observer = Literal["RegistryTrigger", "webhook"]
MOVED_OUTSIDE = "moved_outside"


class OutsideMove(Model):
    """A change of the alias ``champion`` that no decision in the ledger caused.

    MLflow records neither who moves an alias nor when, so the time of the entry is the time at which the change was
    noticed.

    :param noticed_by: the observer that noticed the change: ``RegistryTrigger`` or ``webhook``
    :param promotion: number of the earlier entry that promoted the new champion. The files of the champion are checked
        against the hashes in that entry. ``None`` if the ledger never promoted the version and therefore has no hashes
    """

    noticed_by: Observer
    promotion: int | None = None
