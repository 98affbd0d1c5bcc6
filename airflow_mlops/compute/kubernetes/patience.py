"""Delay the error for a pod that cannot start, because a missing Secret or image may still be created."""

from __future__ import annotations

from airflow_mlops.core.errors import MLOpsError


class Patience:
    """Reports an error only after it has lasted for a given time.

    :param seconds: time for which an error must last before it is reported
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: float | None = None

    def exhausted(self, error: MLOpsError | None, now: float) -> MLOpsError | None:
        """Return the error if every call has had an error for at least the given time; otherwise return ``None``.

        :param error: the current error; ``None`` if there is none
        :param now: the current time, in seconds since 1970
        """
        if error is None:
            self._since = None
            return None
        self._since = now if self._since is None else self._since
        return error if now - self._since >= self._seconds else None
