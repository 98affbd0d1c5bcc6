"""Failures to load a version, which the server and the process that follows the champion report in the same way."""

from __future__ import annotations

import time

from airflow_mlops.registry.versions import CHAMPION

# Pauses between the attempts to load a version that has failed. Each pause is twice as long as the one before.
_FIRST_PAUSE, _LONGEST_PAUSE = 10.0, 600.0


class Failures:
    """Remembers the version that last failed to load, and when to try it again. Other versions are tried immediately.

    :param version: number of the version; ``None`` if there was no failure
    :param count: number of times that loading the version has failed
    :param left: seconds until it may be tried again; by default the whole pause
    """

    def __init__(self, version: int | None = None, count: int = 0, left: float | None = None) -> None:
        self.version, self.count = version, count
        self._due = time.monotonic() + (self._pause if left is None else left)

    @property
    def state(self) -> tuple[int | None, int, float]:
        """Return the parameters for an equal object in another process."""
        return self.version, self.count, max(0.0, self._due - time.monotonic())

    @property
    def _pause(self) -> float:
        # The exponent is bounded, because a larger power does not fit in a float.
        return min(_FIRST_PAUSE * 2.0 ** min(self.count - 1, 100), _LONGEST_PAUSE) if self.count else 0.0

    def add(self, version: int) -> None:
        """Record that a version has just failed to load."""
        self.count = self.count + 1 if version == self.version else 1
        self.version, self._due = version, time.monotonic() + self._pause

    def due(self, version: int) -> bool:
        """Return whether the process may try to load a version now."""
        return version != self.version or time.monotonic() >= self._due


def absent(model: str, alias: str) -> str:
    """Return the message about a model of which no version has an alias.

    :param model: name of the registered model
    :param alias: the alias; ``champion`` for the champion
    """
    what = "Promote a version" if alias == CHAMPION else "Set the alias in MLflow"
    return f"Model {model!r} has no {alias} yet. {what}."
