"""Random columns of text, timestamps and embeddings, like those of a model's traffic. Rows are independent."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa

WORDS = np.array([f"word{number}" for number in range(20_000)])
_CUMULATED = np.cumsum(1 / np.arange(1, len(WORDS) + 1))
# Relative frequencies by hour of the day in UTC, and by weekday from Monday.
HOURS = np.array([1, 1, 1, 1, 1, 3, 8, 9, 8, 7, 6, 6, 6, 6, 7, 8, 9, 9, 8, 7, 5, 3, 2, 1])
WEEKDAYS = np.array([1, 1, 1, 1, 1.2, 0.6, 0.8])
_CENTRES = np.random.RandomState(0).normal(size=(4, 1_024))


def texts(random: np.random.Generator, rows: int, mean_words: float = 8) -> pa.Array:
    """Free text with word frequencies as in natural language (Zipf's law)."""
    counts = 1 + random.poisson(mean_words, rows)
    drawn = WORDS[np.searchsorted(_CUMULATED, random.random(counts.sum()) * _CUMULATED[-1])]
    return pa.array([" ".join(words) for words in np.split(drawn, np.cumsum(counts)[:-1])], pa.string())


def times(
    random: np.random.Generator,
    rows: int,
    first: str,
    days: int,
    hours: np.ndarray = HOURS,
    weekdays: np.ndarray = WEEKDAYS,
) -> pa.Array:
    """Random timestamps within ``days`` days from ``first``."""
    day = np.datetime64(first, "D").astype(int) + np.arange(days)
    share = weekdays[(day + 3) % 7]
    hour = random.choice(day, rows, p=share / share.sum()) * 24 + random.choice(24, rows, p=hours / hours.sum())
    return pa.array(hour * 3_600 + random.integers(0, 3_600, rows), pa.timestamp("s", "UTC"))


def embeddings(random: np.random.Generator, rows: int, dimension: int = 32, shift: float = 0.0) -> pa.Array:
    """Random points around four centres."""
    found = random.normal(shift, 1, (rows, dimension)) + 2 * _CENTRES[random.integers(0, 4, rows), :dimension]
    return fixed(found)


def fixed(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.astype(np.float32).ravel()), values.shape[1])


def window_rows(random: np.random.Generator, most: int = 5_000) -> int:
    """A random number of rows from 50 to ``most``, log-uniform."""
    return round(math.exp(random.uniform(math.log(50), math.log(most))))
