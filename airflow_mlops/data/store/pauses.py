"""The pauses between the attempts of a write that competes with other writers."""

from __future__ import annotations

import random
from collections.abc import Iterator

# The maximum number of attempts of a write that competes with other writers, and the longest pause in seconds.
ATTEMPTS, LONGEST_PAUSE = 60, 1.0


def pauses() -> Iterator[float]:
    """Yield the seconds to wait after each attempt: random, below a limit that doubles with each attempt (full jitter).

    There are at most ``ATTEMPTS`` attempts, and no pause is longer than ``LONGEST_PAUSE``.
    """
    for attempt in range(ATTEMPTS):
        yield random.uniform(0, min(LONGEST_PAUSE, 0.01 * 2**attempt))  # noqa: S311 - no secret
