"""Intervals for means and rates where images share a prompt, a seed, or both.

The unit is the prompt; seeds that are used again under every prompt are a second, crossed clustering.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from harness.errors import HarnessError
from harness.inference import CannotTell
from harness.stats import Interval, rate_interval

FEWEST = 7
"""With fewer clusters that hold an event, or fewer that hold none, a rate gets the conservative form. Chosen by simulation
(benchmarks/inference.py): coverage then stays within 93–97 % where 10 are expected, and above 95 % where fewer are."""
EXTRA = 0.8
"""In a crossed design a way of clustering counts when its F lies beyond this quantile of what pure noise gives."""
CONSERVATIVE, SCORE = "conservative", "score"


class Mean(NamedTuple):
    """A mean with what its interval needs."""

    estimate: float
    variance: float
    """of the estimate"""
    df: float
    """degrees of freedom of that variance"""
    n: int
    """values"""


class Rate(NamedTuple):
    """A rate with its interval, and which form that has."""

    estimate: float
    low: float
    high: float
    form: str
    """`score`, or `conservative` where too few clusters hold an event (or none)"""


def mean(values: Sequence[float], clusters: Sequence, columns: Sequence | None = None) -> Mean:
    """Mean of `values` (n,) and its variance, clustered by `clusters` (n labels) and, where given, crossed with `columns`.

    One way: linearised variance with k/(k-1), degrees of freedom by the effective number of clusters (Carter, Schnepel and
    Steigerwald, Rev. Econ. Stat. 99, 2017). Two ways: V_rows + V_columns - V_residual (Cameron, Gelbach and Miller, J. Bus. Econ.
    Stat. 29, 2011) with Satterthwaite's degrees of freedom; a way that is no more variable than noise (F below its 80 % quantile)
    is left out, since the sum would be far too long for independent images. Valid for independent clusters, two or more each way;
    crossed, for one value per row and column and a grid that is at least half full. Raises HarnessError or CannotTell otherwise.
    """
    y, row = _numbers(values), codes(clusters)
    _same_length(y, row)
    error, sizes = y - y.mean(), np.bincount(row)
    by_row = _between(error, row, sizes)
    if columns is None:
        return Mean(float(y.mean()), by_row, max(1.0, _effective(sizes) - 1), len(y))
    column = codes(columns)
    _same_length(y, column)
    return _crossed(y, error, row, column)


def _crossed(y: np.ndarray, error: np.ndarray, row: np.ndarray, column: np.ndarray) -> Mean:
    """The two-way form of `mean`."""
    rows, cols, n = np.bincount(row), np.bincount(column), len(y)
    k, s = len(rows), len(cols)
    if len(np.unique(row * s + column)) < n:
        raise HarnessError("a crossed design has one value per prompt and seed, here are several; average them first.")
    if n < k * s / 2:
        raise CannotTell(f"{n} of {k} x {s} prompts and seeds were read; a crossed interval needs at least half of the grid.")
    residual = error - (np.bincount(row, error) / rows)[row] - (np.bincount(column, error) / cols)[column]
    free = max(1, n - k - s + 1)
    noise = float(residual @ residual) / free / n
    parts = [(_between(error, row, rows), k - 1), (_between(error, column, cols), s - 1)]
    kept = [(v, df) for v, df in parts if v > noise * _f_quantile(df, free)]
    variance = noise + sum(v - noise for v, _ in kept)
    spread = sum(v**2 / df for v, df in kept) + (noise**2 / free if len(kept) != 1 else 0.0)
    return Mean(float(y.mean()), variance, max(variance**2 / spread if spread else free, min(k, s) - 1.0), n)


def _f_quantile(df: int, free: int) -> float:
    from scipy import special

    return float(special.fdtri(df, free, EXTRA))


def _between(error: np.ndarray, index: np.ndarray, sizes: np.ndarray) -> float:
    """Variance of a mean from the sums of its clusters."""
    k = len(sizes)
    if k < 2:
        raise HarnessError(f"an interval by cluster needs two or more clusters, here are {k}; draw more prompts or seeds.")
    sums = np.bincount(index, weights=error)
    return float(sums @ sums) * k / (k - 1) / len(error) ** 2


def _effective(sizes: np.ndarray) -> float:
    """Clusters of one size that give the same degrees of freedom: their number, when all are alike."""
    squares = sizes.astype(np.float64) ** 2
    return float(squares.sum() ** 2 / (squares**2).sum())


def t_interval(found: Mean, level: float = 0.95) -> Interval:
    """Interval of a mean on its own degrees of freedom."""
    half = t_quantile(found.df, level) * math.sqrt(found.variance)
    return Interval(found.estimate, found.estimate - half, found.estimate + half)


def t_quantile(df: float, level: float = 0.95) -> float:
    """Two-sided quantile of Student's t."""
    from scipy import special

    return float(special.stdtrit(df, (1 + level) / 2))


def cluster_t(values: Sequence[float], clusters: Sequence, columns: Sequence | None = None, level: float = 0.95) -> Interval:
    """Mean with a t interval, clustered one way or two (see `mean`). Valid where cluster means are not far from normal; for events take `rate`."""
    return t_interval(mean(values, clusters, columns), level)


def rate(events: Sequence[bool], clusters: Sequence, columns: Sequence | None = None, level: float = 0.95, icc: float = 1.0) -> Rate:
    """Rate of events (n booleans), clustered one way or two.

    Where at least 7 clusters hold an event and 7 hold its absence (each way), Wilson's interval on the effective number with Student's
    t (compared with others by Dean and Pagano, J. Surv. Stat. Methodol. 3, 2015, and Franco et al., ibid. 7, 2019). Else
    variance cannot be seen, and a Clopper–Pearson interval stands on as many trials as `icc`, the largest correlation within a
    prompt that one grants, allows: at 1 every prompt (or, when there are fewer, every seed) is one trial. That form is conservative.
    """
    flags = _numbers(np.asarray(events, dtype=np.float64))
    ways = [codes(each) for each in (clusters, columns) if each is not None]
    for way in ways:
        _same_length(flags, way)
    if all(min(_holding(flags, way), _holding(1 - flags, way)) >= FEWEST for way in ways):
        found = mean(flags, clusters, columns)
        if found.variance > 0:  # else all prompts have the very same share by chance, and nothing shows how far they vary
            return Rate(*score_interval(found, level), SCORE)
    share = float(flags.mean())
    trials = min(_trials(np.bincount(way), icc) for way in ways)
    return Rate(*conservative(share, trials, level), CONSERVATIVE)


def score_interval(found: Mean, level: float = 0.95) -> Interval:
    """Wilson's interval of a rate strictly between 0 and 1, on its effective number p (1 - p) / variance and its degrees of freedom; the variance is not zero."""
    p = found.estimate
    return _wilson(p, p * (1 - p) / found.variance, t_quantile(found.df, level))


def logit_interval(found: Mean, level: float = 0.95) -> Interval:
    """Interval of a rate strictly between 0 and 1, symmetric in its log odds."""
    from scipy import special

    p = found.estimate
    half = t_quantile(found.df, level) * math.sqrt(found.variance) / (p * (1 - p))
    low, high = special.expit([special.logit(p) - half, special.logit(p) + half])
    return Interval(p, float(low), float(high))


def conservative(share: float, trials: float, level: float = 0.95) -> Interval:
    """Clopper–Pearson interval of a share among `trials`, not whole numbers perhaps; with no event it is two-sided too."""
    two_sided = (1 + level) / 2 if share in (0.0, 1.0) else level
    return rate_interval(trials * share if share < 1 else trials, trials, two_sided)._replace(estimate=share)


def _trials(sizes: np.ndarray, icc: float) -> float:
    """Trials that images of clusters of these sizes are worth: n / (1 + (m - 1) icc), Kish's design effect."""
    if not 0 <= icc <= 1:
        raise HarnessError(f"a correlation within prompts lies between 0 and 1, not {icc}.")
    weighted = float((sizes.astype(np.float64) ** 2).sum() / sizes.sum())
    return float(sizes.sum()) / (1 + (weighted - 1) * icc)


def _holding(flags: np.ndarray, index: np.ndarray) -> int:
    """Clusters with at least one event."""
    return int((np.bincount(index, weights=flags) > 0).sum())


def score(k: float, n: float, level: float = 0.95) -> Interval:
    """Score interval of k events in n independent trials (Wilson, J. Am. Stat. Assoc. 22, 1927); n may be an effective number."""
    from scipy import special

    if not (0 <= k <= n and n > 0):
        raise HarnessError(f"a rate needs 0 <= events <= trials and trials > 0, here are {k} of {n}.")
    return _wilson(k / n, n, float(special.ndtri((1 + level) / 2)))


def _wilson(p: float, n: float, z: float) -> Interval:
    scale = 1 + z * z / n
    middle, half = (p + z * z / 2 / n) / scale, z / scale * math.sqrt(p * (1 - p) / n + z * z / 4 / n**2)
    return Interval(p, min(p, max(0.0, middle - half)), max(p, min(1.0, middle + half)))


def bootstrap(values: Sequence[float], clusters: Sequence, level: float = 0.95, seed: int = 0, replicates: int = 9999) -> Interval:
    """Mean with the expanded percentile interval of `stats.cluster_bootstrap`, drawn faster: small integers, in blocks that fit the cache."""
    from harness.stats import _expanded_tail

    y, index = _numbers(values), codes(clusters)
    _same_length(y, index)
    drawn = resampled_means(np.bincount(index, weights=y), np.bincount(index).astype(np.float64), seed, replicates)
    tail, estimate = _expanded_tail(int(index.max()) + 1, level), float(y.mean())
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(estimate, float(min(low, estimate)), float(max(high, estimate)))


def resampled_means(sums: np.ndarray, counts: np.ndarray, seed: int = 0, replicates: int = 9999) -> np.ndarray:
    """Means (replicates,) of k clusters drawn with replacement, from their sums and counts (k,). Memory does not grow with either."""
    k = len(sums)
    if k < 2:
        raise HarnessError(f"an interval by cluster needs two or more clusters, here are {k}; draw more prompts.")
    rng, kind, block = np.random.default_rng(seed), np.uint16 if k <= 2**16 else np.uint32, max(1, 2**16 // k)
    equal = bool((counts == counts[0]).all())
    means = np.empty(replicates)
    for start in range(0, replicates, block):
        drawn = rng.integers(0, k, (min(block, replicates - start), k), dtype=kind)
        size = k * counts[0] if equal else counts.take(drawn).sum(axis=1)
        means[start:start + block] = sums.take(drawn).sum(axis=1) / size
    return means


def pivotal_bootstrap(values: Sequence[float], clusters: Sequence, level: float = 0.95, seed: int = 0, replicates: int = 1999) -> Interval:
    """Mean with the bootstrap-t interval (Hall, Ann. Stat. 16, 1988): for scores whose cluster means are skewed.

    Valid for ten or more independent clusters of similar size that are not all alike; raises CannotTell for fewer.
    """
    y, index = _numbers(values), codes(clusters)
    _same_length(y, index)
    sums, counts = np.bincount(index, weights=y), np.bincount(index).astype(np.float64)
    k, center, found = len(sums), float(y.mean()), mean(values, clusters)
    if k < 10 or found.variance <= 0:
        raise CannotTell(f"a bootstrap-t interval needs ten or more prompts that differ, here are {k}.")
    rng, pivots = np.random.default_rng(seed), []
    for start in range(0, replicates, block := max(1, 2**17 // k)):
        drawn = rng.integers(0, k, (min(block, replicates - start), k))
        s, c = sums.take(drawn), counts.take(drawn)
        again = s.sum(axis=1) / c.sum(axis=1)
        spread = np.sqrt(((s - again[:, None] * c) ** 2).sum(axis=1) * k / (k - 1)) / c.sum(axis=1)
        pivots.append((again - center) / np.where(spread > 0, spread, np.nan))
    low, high = np.nanquantile(np.concatenate(pivots), [(1 + level) / 2, (1 - level) / 2])
    half = math.sqrt(found.variance)
    return Interval(center, float(min(center, center - low * half)), float(max(center, center - high * half)))


def codes(labels: Sequence) -> np.ndarray:
    """Labels as integers 0 … k-1, by order of the label."""
    found = np.asarray(labels)
    plain = found if found.dtype.kind in "iubSU" else np.asarray([str(label) for label in labels])
    return np.unique(plain, return_inverse=True)[1]


def _numbers(values: Sequence[float]) -> np.ndarray:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers) or not np.isfinite(numbers).all():
        raise HarnessError("there is no value, or one that is not a number; leave unreadable images out and count them.")
    return numbers


def _same_length(values: np.ndarray, labels: np.ndarray) -> None:
    if len(values) != len(labels):
        raise HarnessError(f"one label per value is needed: {len(values)} values, {len(labels)} labels.")
