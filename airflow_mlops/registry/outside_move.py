"""The record of a champion that was changed outside of this package, as by hand on MLflow's pages."""

from __future__ import annotations

from typing import Literal

from airflow_mlops.core.base import Model

Observer = Literal["RegistryTrigger", "webhook"]
MOVED_OUTSIDE = "moved_outside"


class OutsideMove(Model):
    """A change of the alias ``champion`` that the ledger did not decide.

    MLflow records neither who moves an alias nor when, so the time of the entry is the time at which the change was noticed.

    :param noticed_by: what noticed the change
    :param promotion: number of the earlier entry that promoted the new champion. Its hashes are valid for the files of
        the champion; ``None`` if the ledger never promoted the version, so the ledger has no hashes of its files
    """

    noticed_by: Observer
    promotion: int | None = None
