"""The record of a person's answer to a request for approval."""

from __future__ import annotations

from typing import Literal

from airflow_mlops.core.base import Model
from airflow_mlops.core.windows import UtcDatetime


class ApprovalRecord(Model):
    """The answer to a request for approval.

    :param by: name of the person who answered; empty if nobody answered in time
    :param at: time of the answer, UTC
    :param decision: ``approved``, ``rejected`` or ``timed_out``. A timeout that counts as approval is ``approved``
    :param note: comment of the person, or the interpretation of the timeout
    """

    by: str
    at: UtcDatetime
    decision: Literal["approved", "rejected", "timed_out"]
    note: str = ""

    @property
    def granted(self) -> bool:
        """Return whether the answer is ``approved``."""
        return self.decision == "approved"

    def __str__(self) -> str:
        note = " ".join(self.note.split()).rstrip(".")
        parts = [f"{self.decision} by {self.by} at {self.at:%Y-%m-%d %H:%M} UTC"] if self.by else []
        return ": ".join([*parts, note] if note else parts) or self.decision
