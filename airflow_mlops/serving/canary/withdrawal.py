"""Decide whether a canary is so much worse than the champion that it must not answer further requests.

The last answers of both versions are compared. The limits are wide, because the comparison is repeated with every
request, and a canary that is no worse must not be withdrawn by chance.
"""

from __future__ import annotations

from collections import deque
from statistics import median

from airflow_mlops.gates.failures import Requests, excessive

# Number of answers of a version that are compared: the last 1,000.
_KEPT = 1_000
# Comparison of latency: the smallest number of answers of each version; the factor and the milliseconds by which the
# canary must be slower; the number of answers of the canary between two comparisons.
_ANSWERS, _TIMES_SLOWER, _SLOWER_MS, _EVERY = 200, 2.0, 5.0, 50


class Record:
    """Counts the failures and stores the times of the last answers of a version.

    :param kept: largest number of answers that are kept
    """

    def __init__(self, kept: int = _KEPT) -> None:
        self._answers: deque[tuple[bool, float]] = deque(maxlen=kept)
        self.failures = 0
        self.count = 0

    def add(self, milliseconds: float, *, failed: bool) -> None:
        """Add the answer to a request.

        :param milliseconds: time that the version took to predict the rows
        :param failed: whether the version failed to predict them
        """
        if len(self._answers) == self._answers.maxlen:
            self.failures -= self._answers[0][0]
        self._answers.append((failed, milliseconds))
        self.failures += failed
        self.count += 1

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def failed(self) -> float:
        """Return the share of failures, 0 to 1."""
        return self.failures / len(self) if self._answers else 0.0

    @property
    def median(self) -> float:
        """Return the median time of answers without failure, in milliseconds; 0 without answers."""
        return median([time for failed, time in self._answers if not failed] or [0.0])


def worse(canary: Record, champion: Record) -> str | None:
    """Return why the canary is worse than the champion, as a clause; ``None`` if it is not worse.

    Call this function after each answer of the canary. The canary is worse in one of two cases:

    - It failed at least 10 of its last 1,000 requests, and its share of failures is greater than 1% plus three times
      the champion's share.
    - Both versions have had at least 200 requests, and the canary's median time is more than twice the champion's and
      more than 5 ms longer. The medians cover the last 1,000 answers, without failures. This case is checked
      after every 50th answer of the canary.
    """
    if excessive([Requests(len(canary), canary.failures, len(champion), champion.failures)]):
        return (
            f"it failed {canary.failures:,} of its last {len(canary):,} requests ({canary.failed:.1%}), and the champion "
            f"{champion.failures:,} of {len(champion):,} ({champion.failed:.1%})"
        )
    if canary.count % _EVERY or min(len(canary), len(champion)) < _ANSWERS:
        return None
    mine, theirs = canary.median, champion.median
    if mine > max(_TIMES_SLOWER * theirs, theirs + _SLOWER_MS):
        return f"its median time is {mine:.3g} ms, the champion's is {theirs:.3g} ms"
    return None
