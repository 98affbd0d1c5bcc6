"""The rule that decides whether a canary fails too many requests. Servers and CanaryOperator use it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

# The smallest number of failures that counts as excessive; the constant and the factor in the limit of the failure
# rate.
FEWEST, SHARE, TIMES = 10, 0.01, 3.0


class Requests(NamedTuple):
    """Counts of the requests that the canary and the champion received while the canary had the same share of the traffic.

    :param canary: number of requests to the canary
    :param canary_failed: number of these requests that the canary failed to answer
    :param champion: number of requests to the champion
    :param champion_failed: number of these requests that the champion failed to answer
    """

    canary: int
    canary_failed: int
    champion: int
    champion_failed: int

    @property
    def champion_rate(self) -> float:
        """Return the share of failures of the champion, 0 to 1; 0 without requests."""
        return self.champion_failed / self.champion if self.champion else 0.0


def limit(requests: Iterable[Requests]) -> float:
    """Return the highest allowed failure rate of a canary: 1% plus three times the champion's failure rate.

    Requests may fail more often at some times than at others. The champion's rate is therefore measured separately for
    each share that the canary had. The mean of these rates is weighted by the number of the canary's requests.

    :param requests: the requests for each share that the canary had
    """
    parts = list(requests)
    total = sum(part.canary for part in parts)
    expected = sum(part.canary * part.champion_rate for part in parts)
    return SHARE + TIMES * (expected / total if total else 0.0)


def excessive(requests: Iterable[Requests]) -> bool:
    """Return whether a canary fails at least 10 requests and a larger share of its requests than :func:`limit`.

    :param requests: the requests for each share that the canary had
    """
    parts = list(requests)
    failed, total = (sum(column) for column in ((p.canary_failed for p in parts), (p.canary for p in parts)))
    return failed >= FEWEST and failed > limit(parts) * total
