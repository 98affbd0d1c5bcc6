"""Answer a share of the requests with a version other than the champion: the canary.

The value of a column, such as a customer, decides which version answers. If no column is set, the id of the request
decides. With a column, all requests about one customer are answered by the same version. The canary answers if the hash
of the value, a number from 0 to 1, is less than the share. If the share grows, the canary therefore keeps its customers
and gets further ones.
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from airflow_mlops.registry.canary_counts import ServerCounts
from airflow_mlops.serving.canary.failure_counts import FailureCounts
from airflow_mlops.serving.canary.withdrawal import Record, worse
from airflow_mlops.serving.rows.other_columns import difference
from airflow_mlops.serving.rows.request import Rows, as_list
from airflow_mlops.serving.versions.loaded import Served, Versions

log = logging.getLogger(__name__)


def place(model: str, value: Any) -> float:
    """Hash a value to a number of at least 0 and less than 1.

    All servers compute the same number. The numbers of many values are uniformly distributed. An integer and an equal
    float have the same number.

    :param model: name of the registered model
    :param value: the value
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    digest = hashlib.blake2b(f"{model}\x1f{value}".encode(), digest_size=7).digest()
    # 53 bits, which a double stores exactly.
    return float((int.from_bytes(digest, "big") >> 3) / 2**53)


class Canary:
    """Chooses between the champion and the canary.

    :param model: name of the registered model
    :param versions: the loaded canary
    :param share: share of the requests, or of the values of ``key``, that the canary answers, 0 to 1. A share that
        CanaryOperator has set takes precedence
    :param key: field of the rows whose value decides which version answers; ``None`` for the id of the request
    :param report: function that is called when the canary is withdrawn. Its arguments are the number of the canary's
        version and the reason, a sentence
    :param count: function that is called every 10 seconds with the numbers of failed requests, while CanaryOperator
        sets the share
    :ivar withdrawn: number of the version that was withdrawn last; ``None`` if no version was withdrawn
    """

    def __init__(
        self,
        model: str,
        versions: Versions,
        share: float,
        key: str | None,
        report: Callable[[int, str], None] = lambda version, reason: None,
        count: Callable[[ServerCounts], None] = lambda counts: None,
    ) -> None:
        self.versions = versions
        self._report = report
        self._counts = FailureCounts(count)
        self._model, self._share, self._key = model, share, key
        self._judged: tuple[Served, Served, bool] | None = None
        self._records: dict[int, Record] = defaultdict(Record)
        self.withdrawn: int | None = None

    def choose(self, champion: Served, rows: Rows, request_id: str) -> Served:
        """Return the version that answers a request for the champion.

        The champion answers if the key column is empty or has several values in the rows, or if the canary needs other
        fields than the champion.

        :param champion: the champion
        :param rows: the rows of the request
        :param request_id: id of the request
        """
        canary = self.versions.champion
        if canary is None or canary.ref.version in (champion.ref.version, self.withdrawn):
            return champion
        if not self._fits(champion, canary):
            return champion
        value = request_id if self._key is None else self._value(rows, self._key)
        return canary if value is not None and place(self._model, value) < self.share else champion

    @property
    def share(self) -> float:
        """Return the share of the requests that the canary answers, 0 to 1.

        This is the share in MLflow or, if MLflow has none, the share in the settings.
        """
        return self._share if self.versions.share is None else self.versions.share

    def answered(self, champion: Served | None, served: Served, milliseconds: float, *, failed: bool = False) -> None:
        """Record an answer, and withdraw the canary if it is worse than the champion.

        A withdrawn canary is not chosen again until another version takes its place or the server is restarted.

        :param champion: the champion; ``None`` if none is loaded
        :param served: the version that has answered
        :param milliseconds: time that the version took to predict the rows
        :param failed: whether the version failed to predict the rows
        """
        canary = self.versions.champion
        if champion is None or canary is None or champion.ref.version == canary.ref.version:
            return
        known = (champion.ref.version, canary.ref.version)
        if served.ref.version not in known:
            return
        if not self._records.keys() <= {*known}:
            # One of the two versions is new, so the comparison starts again.
            self._records.clear()
        by_canary = served.ref.version == canary.ref.version
        if self.versions.share is not None and canary.ref.version != self.withdrawn:
            self._counts.add(
                canary.ref.version, champion.ref.version, self.versions.share, by_canary=by_canary, failed=failed
            )
        self._records[served.ref.version].add(milliseconds, failed=failed)
        if not by_canary or canary.ref.version == self.withdrawn:
            return
        if reason := worse(self._records[canary.ref.version], self._records[champion.ref.version]):
            self.withdrawn = canary.ref.version
            log.error(
                "The canary %s is withdrawn: %s. The champion %s answers its requests.",
                canary.ref,
                reason,
                champion.ref,
            )
            self._report(canary.ref.version, f"A server withdrew it, because {reason}.")

    def _value(self, rows: Rows, key: str) -> Any:
        if key in rows.features:
            values = as_list(rows.features[key])
        else:
            values = rows.carried[key].to_pylist() if key in rows.carried else []
        return values[0] if values and all(value == values[0] for value in values) else None

    def _fits(self, champion: Served, canary: Served) -> bool:
        """Return whether the canary can answer requests for the champion.

        If it cannot, the reason is logged once for each pair of versions.
        """
        judged = self._judged
        if judged is None or judged[0] is not champion or judged[1] is not canary:
            problem = difference(champion.columns, canary.columns)
            if problem is None and self._key is not None and not champion.columns.has(self._key):
                problem = f"requests do not have the field {self._key!r}, which decides between the two"
            if problem is not None:
                log.warning(
                    "The canary %s cannot answer requests for the champion, so it gets no requests: %s.",
                    canary.ref,
                    problem,
                )
            judged = self._judged = (champion, canary, problem is None)
        return judged[2]
