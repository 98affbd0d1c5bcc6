"""The texts of a feature that have category codes."""

from __future__ import annotations

from collections import Counter

MAX_TEXTS = 10_000


def most_frequent(counts: Counter[str], taken: int = 0) -> list[str]:
    """Return the most frequent texts, sorted. Ties are broken by name, so the result is reproducible.

    :param counts: number of rows with each text
    :param taken: number of codes that other texts have already
    """
    chosen = sorted(counts, key=lambda text: (-counts[text], text))[: max(0, MAX_TEXTS - taken)]
    return sorted(chosen)
