"""A fact that a verdict reports."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Observation:
    """A fact that a verdict reports.

    :param headline: one short clause, without a full stop
    :param details: sentences that state the fact with all numbers
    """

    headline: str
    details: list[str] = field(default_factory=list)


def stated(headline: str) -> Observation:
    """Return an observation whose only detail is the headline."""
    return Observation(headline, [f"{headline}."])
