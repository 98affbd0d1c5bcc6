"""Count the requests of a canary and of the champion, and how many of them failed, for CanaryOperator."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import datetime, timezone

from airflow_mlops.registry.canary_counts import ServerCounts, ShareCounts

_REPORT_SECONDS = 10.0


class FailureCounts:
    """Counts requests, and reports the counts every 10 seconds.

    :param report: function that is called with the counts
    """

    def __init__(self, report: Callable[[ServerCounts], None]) -> None:
        self._report = report
        self._pair: tuple[int, int] | None = None
        self._server, self._began = "", datetime.now(timezone.utc)
        # For each share, the numbers in the order of the fields of ShareCounts.
        self._shares: dict[float, list[int]] = {}
        self._due = 0.0

    def add(self, canary: int, champion: int, share: float, *, by_canary: bool, failed: bool) -> None:
        """Count a request.

        :param canary: number of the canary's version
        :param champion: number of the champion's version
        :param share: share of the requests that the canary answers
        :param by_canary: whether the canary got the request
        :param failed: whether the version failed to answer
        """
        if self._pair != (canary, champion):
            self._pair, self._shares = (canary, champion), {}
            self._server, self._began = uuid.uuid4().hex, datetime.now(timezone.utc)
            self._due = time.monotonic() + _REPORT_SECONDS
        counts = self._shares.setdefault(share, [0, 0, 0, 0])
        place = 0 if by_canary else 2
        counts[place] += 1
        counts[place + 1] += failed
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + _REPORT_SECONDS
            names = ShareCounts.model_fields
            shares = {
                each: ShareCounts(**dict(zip(names, values, strict=True))) for each, values in self._shares.items()
            }
            self._report(
                ServerCounts(server=self._server, canary=canary, champion=champion, began=self._began, shares=shares)
            )
