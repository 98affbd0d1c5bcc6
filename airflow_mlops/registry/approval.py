"""What people say when they are asked."""

from __future__ import annotations

from typing import Literal

from airflow_mlops.core.base import Model
from airflow_mlops.core.windows import UtcDatetime


class ApprovalRecord(Model):
    """The answer to a request for approval.

    :param by: who answered; empty if nobody did in time
    :param at: when, UTC
    :param decision: ``timed_out`` if nobody answered in time and that means no; where it means yes, ``approved``
    :param note: what they wrote, or what the silence was taken for
    """

    by: str
    at: UtcDatetime
    decision: Literal["approved", "rejected", "timed_out"]
    note: str = ""

    @property
    def granted(self) -> bool:
        return self.decision == "approved"

    def __str__(self) -> str:
        note = " ".join(self.note.split()).rstrip(".")
        said = [f"{self.decision} by {self.by} at {self.at:%Y-%m-%d %H:%M} UTC"] if self.by else []
        return ": ".join([*said, note] if note else said) or self.decision
