"""Two-sample significance tests of the hypothesis that both samples come from the same distribution.

Both samples are given as row counts in the same bins. A bin can also be a point on an axis or a category. If no formula
is accurate, the null distribution is simulated by a permutation test: the samples are pooled, and rows are assigned to
them at random, so the counts per bin are multivariate hypergeometric. Simulations are seeded, so equal profiles give
equal p-values.
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

# Cochran's rule: bins with fewer expected rows are merged, beginning with the rarest.
_SPARSE = 5
# From this number of expected rows on, the chi-square approximation is accurate far enough into the tail.
_PLENTY = 50
# Cucconi's test: the null distribution is simulated if the leverage of a point exceeds this share of the rows of the
# smaller sample. The simulation uses this number of bins of ranks.
_LEVERAGE = 0.2
_RANK_BINS = 50
# Sequential p-values: number of draws in each round, and number of extreme draws after which drawing ends.
_DRAWS = (200, 2_000, 20_000)
_HITS = 10
# Number of draws for the p-values of measures, and number of steps of a Brownian bridge.
_MEASURE_DRAWS = 999
_BRIDGE = 200
# Exact Kolmogorov-Smirnov probabilities are computed up to this sample size. For larger samples they take long and
# differ little from the approximation.
_EXACT_ROWS = 512
# Beyond this number of rows, the limiting distribution has an error of only a few percent of p, and is much faster.
_KOLMOGOROV_LIMIT = 2_000
# The limit of NumPy's generator of multivariate hypergeometric counts.
_MOST_ROWS = 500_000_000


class Pair(NamedTuple):
    """The row counts of two samples in the same k bins.

    :param before: rows of the reference, shape (k,)
    :param now: rows of the window, shape (k,)
    """

    before: Floats
    now: Floats

    @property
    def total(self) -> Floats:
        return self.before + self.now

    def thinned(self, effect: float) -> Pair:
        """Return the effective row counts of clustered rows: all counts divided by the design effect ``effect``."""
        return self if effect == 1 else Pair(self.before / effect, self.now / effect)

    @property
    def scale(self) -> float:
        """Return the variance of the difference of the two sample means, divided by the variance of a single row."""
        return float(1 / self.before.sum() + 1 / self.now.sum())


def kolmogorov_smirnov(pair: Pair) -> tuple[float, float]:
    """Compute the two-sided Kolmogorov-Smirnov test.

    The p-value is exact if both samples have at most 512 rows. For larger samples of n and m rows, it is approximated
    by the one-sample distribution with n m / (n + m) rows, as in SciPy. The test is conservative if values are tied.

    :param pair: the row counts of the two samples at k points in ascending order
    :return: the largest distance between the two cumulative distribution functions, and its p-value
    """
    from scipy import special

    if max(pair.before.sum(), pair.now.sum()) <= _EXACT_ROWS and all(
        (counts == np.rint(counts)).all() for counts in pair
    ):
        # scipy.stats takes 45 MB of memory, so it is imported only for samples as small as these.
        from scipy import stats

        points = np.arange(len(pair.now))
        with warnings.catch_warnings():
            # SciPy warns if a probability exceeds 1 by rounding, and then uses the limiting distribution.
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
    """Compute the Wasserstein distance and its p-value.

    As the number of rows grows, the difference of the distribution functions converges to a Brownian bridge over the
    pooled ranks. The p-value is simulated with such bridges.

    :param points: values in ascending order, shape (k,)
    :param pair: the row counts of the two samples at these points
    :return: the mean distance between the two quantile functions, in the units of ``points``, and its p-value
    """
    before, now, middle = (_cumulative(counts) for counts in (pair.before, pair.now, pair.total))
    widths = np.diff(points)
    distance = float((np.abs(before - now)[:-1] * widths).sum())
    # The range of pooled values that each step of the bridge covers.
    spread = _summed(np.minimum((middle[:-1] * _BRIDGE).astype(int), _BRIDGE - 1), widths, _BRIDGE)
    drawn = _differences(pair.scale) @ spread
    return distance, float((1 + (drawn >= distance).sum()) / (1 + len(drawn)))


def cucconi(pair: Pair) -> float:
    """Compute the p-value of Cucconi's rank test for a change of level, spread, or both.

    Each row has two scores: its rank, and the squared distance of its rank from the middle rank. Tied rows share their
    mean rank. Twice Cucconi's statistic is the squared Mahalanobis distance between the mean scores of the two samples.
    This distance has a chi-square distribution with two degrees of freedom, or with one degree of freedom if there are
    only two distinct values. If a few rows dominate because most other rows are tied, the distribution is simulated.

    Sources: O. Cucconi, "Un nuovo test non parametrico per il confronto fra due gruppi di valori campionari", Giornale
    degli Economisti 27 (1968); M. Marozzi, "Some notes on the location-scale Cucconi test", Journal of Nonparametric
    Statistics 21 (2009).

    :param pair: the row counts of the two samples at k points in ascending order
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
    """Compute the centred scores of each point, shape (k, 2).

    :return: two items: the scores, and a pair of the pseudo-inverse of the covariance of the scores and the rank of
        this matrix. The second item is ``None`` if all rows are tied
    """
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
    """Compute twice Cucconi's statistic: the squared Mahalanobis distance between the mean scores of the samples.

    :param now: row counts of the window in each draw, shape (draws, k)
    :param pair: row counts of the two samples
    :param scores: the centred scores of each point, shape (k, 2), from :func:`_scores`
    :param inverse: pseudo-inverse of the covariance of the scores, shape (2, 2)
    :return: shape (draws,)
    """
    n, m = pair.before.sum(), pair.now.sum()
    means = now @ scores / m
    # The mean score of the pooled samples is 0, so the mean score of the reference follows from that of the window.
    apart = means * (1 + m / n)
    found: Floats = np.einsum("ij,jk,ik->i", apart, inverse, apart) / pair.scale * (n + m - 1) / (n + m)
    return found


def chi_square(pair: Pair) -> float:
    """Compute the p-value of Pearson's chi-square test, with sparse bins merged.

    Bins are merged, beginning with the rarest, until at least five rows of the smaller sample are expected in each (W.
    Cochran, "Some Methods for Strengthening the Common chi-square Tests", Biometrics 10, 1954). If fewer than 50 rows
    are expected in a merged bin, the null distribution is simulated. The p-value is 1 if all bins are merged into one.

    :param pair: the row counts of the two samples in k bins
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
    """Compute the p-value of Fisher's exact test (two-sided).

    :param pair: the row counts of the two samples in two bins, each of shape (2,)
    """
    from scipy import stats

    return float(min(1.0, stats.fisher_exact(np.rint(np.stack(pair)).astype(np.int64)).pvalue))


def unseen_values(pair: Pair) -> float:
    """Compute the p-value of the number of unseen rows.

    A row of the window is unseen if its value does not occur in the reference. If the samples are pooled and rows are
    assigned to them at random, a value is unseen if all its rows fall into the window. The null distribution of the
    number of unseen rows is simulated. The simulation treats values as independent. It therefore ignores that the total
    number of rows is fixed.

    :param pair: the row counts of the two samples for each of k values, integers
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
    """Compute the logarithm of rows! / (rows - chosen)!, or -inf if ``chosen`` exceeds ``rows``."""
    from scipy import special

    enough = chosen <= rows
    left = np.where(enough, rows - chosen, 0)
    return np.where(enough, special.gammaln(rows + 1) - special.gammaln(left + 1), -np.inf)


def measures(pair: Pair, functions: Sequence[Callable[[Floats, Floats], Floats]]) -> list[float]:
    """Compute permutation p-values of distance measures, with a resolution of 0.001.

    :param pair: the row counts of the two samples in k bins
    :param functions: distance functions. Each takes the counts of the reference and of the window, two arrays of shape
        (draws, k), and returns the distances, shape (draws,)
    :return: the p-value of each function
    """
    now = _draw(pair, np.random.default_rng(0), _MEASURE_DRAWS)
    before = np.maximum(0, pair.total - now)
    return [
        float((1 + (measure(before, now) >= measure(*pair) * (1 - 1e-9)).sum()) / (1 + len(now)))
        for measure in functions
    ]


def adjusted(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple tests.

    Source: Y. Benjamini and Y. Hochberg, "Controlling the False Discovery Rate", Journal of the Royal Statistical
    Society B 57 (1995). If nothing has changed and the tests are independent, the smallest adjusted p-value is at most
    ``a`` with a probability of ``a``.

    :param p_values: p-values of the tests, in any order
    :return: the adjusted p-values, in the same order
    """
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(-values)
    scaled = values[order] * (len(values) / np.arange(len(values), 0, -1))
    found = np.empty_like(values)
    found[order] = np.minimum(1.0, np.minimum.accumulate(scaled))
    result: list[float] = found.tolist()
    return result


def odds_ratio(first: float, second: float) -> float:
    """Compute the ratio of the larger to the smaller odds of two shares.

    The odds of a share are the share divided by the remaining share. The ratio treats rare and frequent events equally:
    both 1% to 2% and 98% to 99% have a ratio of 2.

    :param first: a share from 0 to 1
    :param second: a share from 0 to 1
    :return: a ratio of at least 1; infinite if one of the shares alone is 0 or 1
    """
    low, high = sorted(min(1.0, max(0.0, share)) for share in (first, second))
    if low == high:
        return 1.0
    return high * (1 - low) / (low * (1 - high)) if low * (1 - high) > 0 else math.inf


def _permuted(pair: Pair, statistic: Callable[[Floats], Floats]) -> float:
    """Compute the permutation p-value of a statistic.

    :param pair: the row counts of the two samples in k bins
    :param statistic: function that takes the counts of the window, shape (draws, k), and returns shape (draws,)
    """
    observed = float(statistic(pair.now[None])[0])
    return _drawn(observed, lambda random, draws: statistic(_draw(pair, random, draws)))


def _drawn(observed: float, draw: Callable[[np.random.Generator, int], Floats]) -> float:
    """Compute a sequential Monte Carlo p-value. Drawing stops at the tenth draw that is at least ``observed``.

    Source: J. Besag and P. Clifford, "Sequential Monte Carlo p-values", Biometrika 78 (1991).

    :param observed: the statistic of the samples
    :param draw: function that takes a generator and a number of draws, and returns this many statistics under the null
        hypothesis
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
    """Draw the counts of a window at random from the pooled rows, shape (draws, k).

    If the samples have more than 500 million rows, both are scaled down to this number, the limit of NumPy's generator.
    """
    share = min(1.0, _MOST_ROWS / float(pair.total.sum()))
    before, now = (_whole(counts * share) for counts in pair)
    drawn = random.multivariate_hypergeometric(before + now, now.sum(), size=draws, method="marginals")
    return np.asarray(drawn / share, dtype=float)


def _whole(counts: Floats) -> npt.NDArray[np.int64]:
    """Round counts to whole numbers without a change of their sum: the largest remainders are rounded up."""
    low = np.floor(counts).astype(np.int64)
    more = round(float(counts.sum())) - int(low.sum())
    if more > 0:
        low[np.argsort(low - counts, kind="stable")[:more]] += 1
    return low


def _summed(where: npt.NDArray[Any], counts: Floats, size: int = 0) -> Floats:
    return np.asarray(np.bincount(where, counts, size), dtype=float)


def _cumulative(counts: Floats) -> Floats:
    return np.cumsum(counts) / counts.sum()


@lru_cache(maxsize=1)
def _differences(scale: float) -> Floats:
    """Return the absolute differences of the distribution functions of two samples at :func:`_bridges`.

    All columns without nulls have samples of the same sizes, and so the same scale.
    """
    return np.abs(math.sqrt(scale) * _bridges())


@lru_cache(maxsize=1)
def _bridges() -> Floats:
    """Draw Brownian bridges, evaluated in the middle of each of ``_BRIDGE`` steps, shape (draws, steps)."""
    random = np.random.default_rng(0)
    walks = random.normal(size=(_MEASURE_DRAWS, 2 * _BRIDGE)).cumsum(axis=1) / math.sqrt(2 * _BRIDGE)
    bridges: Floats = walks - walks[:, -1:] * np.arange(1, 2 * _BRIDGE + 1) / (2 * _BRIDGE)
    return bridges[:, ::2]
