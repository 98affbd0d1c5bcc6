"""How likely a difference between two samples is when nothing has changed: p-values at the samples' own sizes.

Every function takes the two samples as numbers of rows at the same points, bins or values. Where no formula holds, the
null distribution is drawn: with both samples pooled, which rows are new is a matter of chance, and the counts per bin
are multivariate hypergeometric (a permutation test). Draws are seeded: the same profiles have the same p-values.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Cochran's rule: with fewer expected rows a bin is merged with the next rarer one.
_SPARSE = 5
# From here on the chi-square distribution is close to the real one as far out in the tail as p-values are corrected.
_PLENTY = 50
_LEVERAGE = 0.2
_RANK_BINS = 50
_DRAWS = (200, 2_000, 20_000)
_HITS = 10
_MEASURE_DRAWS = 999
_BRIDGE = 200
# In each sample; beyond, exact probabilities take long and differ little.
_EXACT_ROWS = 512
# Beyond this many rows the limit of Kolmogorov's distribution is good to some percent of p, and much faster.
_KOLMOGOROV_LIMIT = 2_000
# What numpy's generator of multivariate hypergeometric counts takes.
_MOST_ROWS = 500_000_000


class Test(NamedTuple):
    """A test of a column, one of those that decide about it.

    :param effect: in shares of rows, from 0 to 1
    """

    name: str
    effect: float
    p_value: float


class Pair(NamedTuple):
    """Two samples over the same points, bins or values.

    :param before: rows of the reference at each, shape (k,)
    :param now: rows of the window at each, shape (k,)
    """

    before: Floats
    now: Floats

    @property
    def total(self) -> Floats:
        return self.before + self.now

    @property
    def scale(self) -> float:
        """Variance of a difference of two shares, over that of one row."""
        return float(1 / self.before.sum() + 1 / self.now.sum())


def kolmogorov_smirnov(pair: Pair) -> tuple[float, float]:
    """The largest distance between two distribution functions and its p-value (two-sided).

    Exact for samples of up to 512 rows each; beyond, the distribution for one sample of n m / (n + m) rows stands for
    it, as in SciPy. Ties make the p-value larger than need be, never smaller.

    :param pair: over points in order
    """
    from scipy import special

    if max(pair.before.sum(), pair.now.sum()) <= _EXACT_ROWS:
        # Only samples as small as these need scipy.stats, which takes 45 MB of memory.
        from scipy import stats

        points = np.arange(len(pair.now))
        with warnings.catch_warnings():
            # Where rounding makes a probability of more than one, SciPy takes the limit and says so.
            warnings.simplefilter("ignore", RuntimeWarning)
            found = stats.ks_2samp(*(np.repeat(points, counts.astype(int)) for counts in pair))
        return float(found.statistic), float(found.pvalue)
    distance = float(np.abs(_cumulative(pair.before) - _cumulative(pair.now)).max())
    rows = max(1, round(1 / pair.scale))
    if rows > _KOLMOGOROV_LIMIT:
        return distance, float(special.kolmogorov(math.sqrt(rows) * distance))
    from scipy import stats

    return distance, float(np.clip(stats.kstwo.sf(distance, rows), 0, 1))


def wasserstein(points: Floats, pair: Pair) -> tuple[float, float]:
    """The mean distance between two quantile functions, in the units of ``points``, and its p-value.

    The difference of the distribution functions is, as the rows grow, a Brownian bridge over the pooled ranks, which is
    drawn.

    :param pair: over points in order
    """
    before, now, middle = (_cumulative(counts) for counts in (pair.before, pair.now, pair.total))
    widths = np.diff(points)
    distance = float((np.abs(before - now)[:-1] * widths).sum())
    # How far the pooled values reach between one rank of the bridge and the next.
    spread = _summed(np.minimum((middle[:-1] * _BRIDGE).astype(int), _BRIDGE - 1), widths, _BRIDGE)
    drawn = np.abs(math.sqrt(pair.scale) * _bridges()) @ spread
    return distance, float((1 + (drawn >= distance).sum()) / (1 + len(drawn)))


def cucconi(pair: Pair) -> float:
    """The p-value of Cucconi's rank test for a change of level, spread, or both.

    O. Cucconi, "Un nuovo test non parametrico per il confronto fra due gruppi di valori campionari", Giornale degli
    Economisti 27 (1968); M. Marozzi, "Some notes on the location-scale Cucconi test", Journal of Nonparametric
    Statistics 21 (2009). Twice its statistic is the squared length of the difference between the samples' mean scores
    (the rank, and the square of its distance from the middle), which is chi-square with two degrees of freedom, or one
    where the values take only two. Ties share their mean rank. Where so many tie that few rows decide, the distribution
    is drawn.

    :param pair: over points in order
    """
    from scipy import special

    scores, spread = _scores(pair)
    if spread is None:
        return 1.0
    inverse, rank = spread

    def length(now: Floats) -> Floats:
        return _length(now, pair, scores, inverse)

    leverage = np.einsum("ij,jk,ik->i", scores, inverse, scores)[pair.total > 0].max()
    if leverage <= _LEVERAGE * min(pair.before.sum(), pair.now.sum()):
        return float(special.chdtrc(rank, length(pair.now[None])[0]))
    ranks = (np.cumsum(pair.total) - pair.total / 2) / pair.total.sum()
    _, bins = np.unique((ranks * _RANK_BINS).astype(int), return_inverse=True)
    few = Pair(*(_summed(bins, counts) for counts in pair))
    scores, spread = _scores(few)
    if spread is None:
        return 1.0
    inverse, _ = spread
    return _permuted(few, lambda now: _length(now, few, scores, inverse))


def _scores(pair: Pair) -> tuple[Floats, tuple[Floats, int] | None]:
    """The scores of each point about their mean, and the inverse of their covariance with its rank."""
    share = pair.total / pair.total.sum()
    ranks = np.cumsum(share) - share / 2 - 0.5
    scores = np.stack([ranks, np.square(ranks)], axis=1)
    scores -= share @ scores
    size = np.sqrt(share @ np.square(scores))
    if size[0] < 1e-12:
        return scores, None
    scores /= np.where(size > 1e-12, size, 1)
    values, vectors = np.linalg.eigh((scores * share[:, None]).T @ scores)
    kept = values > 1e-9
    return scores, ((vectors[:, kept] / values[kept]) @ vectors[:, kept].T, int(kept.sum()))


def _length(now: Floats, pair: Pair, scores: Floats, inverse: Floats) -> Floats:
    """Squared length of the difference of the mean scores, for every row of ``now``, shape (draws, k)."""
    n, m = pair.before.sum(), pair.now.sum()
    means = now @ scores / m
    # With the pooled mean at nought, the mean of the rest follows from that of the window.
    apart = means * (1 + m / n)
    found: Floats = np.einsum("ij,jk,ik->i", apart, inverse, apart) / pair.scale * (n + m - 1) / (n + m)
    return found


def chi_square(pair: Pair) -> float:
    """The p-value of Pearson's chi-square test, sparse bins merged.

    Bins are merged from the rarest on until the smaller sample can expect five rows in each (W. Cochran, "Some Methods
    for Strengthening the Common chi-square Tests", Biometrics 10, 1954); with fewer than fifty the distribution is
    drawn.
    """
    from scipy import special

    merged, expected = _merged(pair)
    if len(merged.now) < 2:
        return 1.0
    n, m, total = merged.before.sum(), merged.now.sum(), merged.total

    def statistic(now: Floats) -> Floats:
        share = total / (n + m)
        found: Floats = np.square(now - m * share) @ (1 / (m * share) + 1 / (n * share))
        return found

    if expected >= _PLENTY:
        return float(special.chdtrc(len(total) - 1, statistic(merged.now[None])[0]))
    return _permuted(merged, statistic)


def _merged(pair: Pair) -> tuple[Pair, float]:
    total = pair.total
    order = np.argsort(total, kind="stable")
    part = min(pair.before.sum(), pair.now.sum()) / total.sum()
    groups, group, filled = np.zeros(len(total), dtype=int), 0, 0.0
    for index in order:
        if filled >= _SPARSE:
            group, filled = group + 1, 0.0
        groups[index] = group
        filled += total[index] * part
    if filled < _SPARSE and group:
        groups[groups == group] = group - 1
    merged = Pair(*(_summed(groups, counts) for counts in pair))
    return merged, float(merged.total.min() * part)


def fisher(pair: Pair) -> float:
    """The p-value of Fisher's exact test of two bins (two-sided)."""
    from scipy import stats

    return float(min(1.0, stats.fisher_exact(np.stack(pair).astype(np.int64)).pvalue))


def unseen_values(pair: Pair) -> float:
    """The p-value of as many new rows with values of which the reference has none.

    With both samples pooled, a value of c rows is new if chance puts all of them into the window; how many rows that
    makes is drawn. Values are taken to be independent, which they are but for the number of rows being fixed.

    :param pair: over all values, in whole rows
    """
    n, m = pair.before.sum(), pair.now.sum()
    unseen = pair.now[pair.before == 0].sum()
    if not unseen:
        return 1.0
    rows, values = np.unique(pair.total[pair.total > 0], return_counts=True)
    chance = np.exp(_log_choose(m, rows) - _log_choose(n + m, rows))
    possible = chance > 1e-12
    rows, values, chance = rows[possible], values[possible], chance[possible]

    def draw(random: np.random.Generator, draws: int) -> Floats:
        return np.asarray(random.binomial(values, chance, size=(draws, len(values))) @ rows, dtype=float)

    return _drawn(float(unseen), draw)


def _log_choose(rows: float, chosen: Floats) -> Floats:
    """The logarithm of the binomial coefficient, but for the factorial of ``chosen``; -inf if there are too few rows."""
    from scipy import special

    enough = chosen <= rows
    left = np.where(enough, rows - chosen, 0)
    return np.where(enough, special.gammaln(rows + 1) - special.gammaln(left + 1), -np.inf)


def measures(pair: Pair, of: Sequence[Callable[[Floats, Floats], Floats]]) -> list[float]:
    """The p-values of measures of two vectors of counts, to the nearest thousandth.

    :param of: each measure as a function of counts before and now, shapes (draws, k) to (draws,)
    """
    now = _draw(pair, np.random.default_rng(0), _MEASURE_DRAWS)
    before = np.maximum(0, pair.total - now)
    return [float((1 + (measure(before, now) >= measure(*pair) * (1 - 1e-9)).sum()) / (1 + len(now))) for measure in of]


def adjusted(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Y. Benjamini and Y. Hochberg, "Controlling the False Discovery Rate", Journal
    of the Royal Statistical Society B 57, 1995): if nothing has changed, the chance that any is at most ``a`` is ``a``.
    """  # fmt: skip
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(-values)
    scaled = values[order] * (len(values) / np.arange(len(values), 0, -1))
    found = np.empty_like(values)
    found[order] = np.minimum(1.0, np.minimum.accumulate(scaled))
    result: list[float] = found.tolist()
    return result


def _permuted(pair: Pair, statistic: Callable[[Floats], Floats]) -> float:
    """The p-value of a statistic of the window's counts, shape (draws, k) to (draws,)."""
    observed = float(statistic(pair.now[None])[0])
    return _drawn(observed, lambda random, draws: statistic(_draw(pair, random, draws)))


def _drawn(observed: float, draw: Callable[[np.random.Generator, int], Floats]) -> float:
    """A p-value by drawing until it is clear, after J. Besag and P. Clifford, "Sequential Monte Carlo p-values",
    Biometrika 78 (1991): up to the tenth draw that is as extreme.
    """
    random = np.random.default_rng(0)
    hits = drawn = 0
    for draws in _DRAWS:
        extreme = np.flatnonzero(draw(random, draws) >= observed * (1 - 1e-9))
        if hits + len(extreme) >= _HITS:
            return float(_HITS / (drawn + extreme[_HITS - 1 - hits] + 1))
        hits, drawn = hits + len(extreme), drawn + draws
    return (hits + 1) / (drawn + 1)


def _draw(pair: Pair, random: np.random.Generator, draws: int) -> Floats:
    """The window's counts where chance alone decides which of the pooled rows are in it, shape (draws, k)."""
    share = min(1.0, _MOST_ROWS / float(pair.total.sum()))
    before, now = (np.rint(counts * share).astype(np.int64) for counts in pair)
    drawn = random.multivariate_hypergeometric(before + now, now.sum(), size=draws, method="marginals")
    return np.asarray(drawn / share, dtype=float)


def _summed(where: npt.NDArray[Any], counts: Floats, size: int = 0) -> Floats:
    return np.asarray(np.bincount(where, counts, size), dtype=float)


def _cumulative(counts: Floats) -> Floats:
    return np.cumsum(counts) / counts.sum()


@lru_cache(maxsize=1)
def _bridges() -> Floats:
    """Brownian bridges in the middle of each of ``_BRIDGE`` steps, shape (draws, steps)."""
    random = np.random.default_rng(0)
    walks = random.normal(size=(_MEASURE_DRAWS, 2 * _BRIDGE)).cumsum(axis=1) / math.sqrt(2 * _BRIDGE)
    bridges: Floats = walks - walks[:, -1:] * np.arange(1, 2 * _BRIDGE + 1) / (2 * _BRIDGE)
    return bridges[:, ::2]
