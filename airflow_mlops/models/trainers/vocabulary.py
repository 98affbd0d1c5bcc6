"""The values of a text feature that have category codes."""

from __future__ import annotations

from collections import Counter

MAX_TEXTS = 10_000


def most_frequent(counts: Counter[str], taken: int = 0) -> list[str]:
    """Return the most frequent values in alphabetical order: at most ``MAX_TEXTS`` minus ``taken`` values.

    Ties are broken by name, so the result is reproducible.

    :param counts: number of rows with each value
    :param taken: number of codes that other values have already
    """
    chosen = sorted(counts, key=lambda text: (-counts[text], text))[: max(0, MAX_TEXTS - taken)]
    return sorted(chosen)
