"""The pauses between the attempts to win a race."""

from __future__ import annotations

import random
from collections.abc import Iterator

# How often, and for how many seconds at most between two attempts, a write that lost a race is repeated.
ATTEMPTS, LONGEST_PAUSE = 60, 1.0


def pauses() -> Iterator[float]:
    """Yield the seconds to wait after each attempt to win a race: longer and longer, and random within the limit.

    The number of attempts is limited to ``ATTEMPTS``.
    """
    for attempt in range(ATTEMPTS):
        yield random.uniform(0, min(LONGEST_PAUSE, 0.01 * 2**attempt))  # noqa: S311 - no secret
