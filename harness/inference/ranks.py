"""Rank statistics: how well a score tells two groups apart, whether one score does so better, and whether two orders agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from harness.errors import HarnessError
from harness.inference import CannotTell
from harness.inference.intervals import Mean, codes, logit_interval, t_interval, t_quantile
from harness.stats import Interval, zero_events_bound

FEWEST = 5
"""clusters that each group needs"""


class Correlation(NamedTuple):
    """A rank correlation."""

    estimate: float
    low: float
    high: float
    p_value: float


def auc(positives: Sequence[float], negatives: Sequence[float], positive_clusters: Sequence | None = None,
        negative_clusters: Sequence | None = None, level: float = 0.95) -> Interval:
    """P of a positive above a negative, ties half, with an interval by placements, on the logit scale.

    DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988); clustered as in Obuchowski (Biometrics 53, 1997), where a label that occurs
    on both sides is one cluster. Where all positives lie above all negatives no variance can be seen: then the lower end is that
    of zero misses among as many trials as the smaller side has clusters. Valid for five or more clusters on each side; else CannotTell.
    """
    placed = _placed(np.asarray(positives, dtype=np.float64), np.asarray(negatives, dtype=np.float64))
    sides = _sides(len(placed[0]), len(placed[1]), positive_clusters, negative_clusters)
    estimate = float(placed[0].mean())
    fewest = min(len(set(side)) for side in sides)
    if estimate in (0.0, 1.0):
        bound = zero_events_bound(fewest, level)
        return Interval(estimate, 0.0, bound) if estimate == 0 else Interval(estimate, 1 - bound, 1.0)
    found = _spread(placed, sides, fewest)
    return logit_interval(found, level) if found.variance > 0 else Interval(estimate, estimate, estimate)


def auc_difference(positives: tuple[Sequence[float], Sequence[float]], negatives: tuple[Sequence[float], Sequence[float]],
                   positive_clusters: Sequence | None = None, negative_clusters: Sequence | None = None, level: float = 0.95) -> Interval:
    """AUC of a first score minus that of a second over the same items, which the two tuples hold in the same order.

    Placements as in `auc`, t interval; conditions as there. Two perfect scores differ by 0 with no interval: raises CannotTell.
    """
    if len(set(map(len, positives))) != 1 or len(set(map(len, negatives))) != 1:
        raise HarnessError("two scores are compared over the same items; here their numbers differ.")
    one, other = (_placed(np.asarray(p, dtype=np.float64), np.asarray(n, dtype=np.float64)) for p, n in zip(positives, negatives, strict=True))
    sides = _sides(len(one[0]), len(one[1]), positive_clusters, negative_clusters)
    found = _spread((one[0] - other[0], one[1] - other[1]), sides, min(len(set(side)) for side in sides))
    if found.variance <= 0:
        raise CannotTell("both scores place every item alike; their difference has no interval.")
    return t_interval(found, level)


def _placed(positives: np.ndarray, negatives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of negatives below each positive, and of positives above each negative."""
    from scipy.stats import rankdata

    if not (len(positives) and len(negatives) and np.isfinite(positives).all() and np.isfinite(negatives).all()):
        raise HarnessError("an AUC needs positives and negatives that are numbers; leave unreadable items out and count them.")
    n, m = len(positives), len(negatives)
    both = rankdata(np.concatenate([positives, negatives]))
    return (both[:n] - rankdata(positives)) / m, 1 - (both[n:] - rankdata(negatives)) / n


def _sides(n: int, m: int, positive: Sequence | None, negative: Sequence | None) -> tuple[np.ndarray, np.ndarray]:
    """Cluster of every item; items without labels are each their own."""
    if (positive is None) != (negative is None):
        raise HarnessError("give clusters of both positives and negatives, or of neither.")
    index = np.arange(n + m) if positive is None else codes([str(label) for label in (*positive, *negative)])
    if len(index) != n + m:
        raise HarnessError(f"one cluster label per item is needed: {n + m} items, {len(index)} labels.")
    if min(len(set(index[:n])), len(set(index[n:]))) < FEWEST:
        raise CannotTell(f"an AUC with an interval needs {FEWEST} or more clusters (artists, people) on each side.")
    return index[:n], index[n:]


def _spread(placed: tuple[np.ndarray, np.ndarray], sides: tuple[np.ndarray, np.ndarray], fewest: int) -> Mean:
    """Mean placement and its variance; degrees of freedom of the side with fewer clusters."""
    center, k = float(placed[0].mean()), int(max(side.max() for side in sides)) + 1
    parts = [np.bincount(side, weights=each - each.mean(), minlength=k) / len(each) for each, side in zip(placed, sides, strict=True)]
    scale = [len(set(side)) / (len(set(side)) - 1) for side in sides]
    joint = sum(math.sqrt(f) * part for f, part in zip(scale, parts, strict=True))
    return Mean(center, float((joint**2).sum()), fewest - 1.0, sum(map(len, placed)))


def spearman(x: Sequence[float], y: Sequence[float], level: float = 0.95) -> Correlation:
    """Rank correlation of n pairs with p, and an interval on Fisher's scale with variance (1 + r^2 / 2) / (n - 3) (Bonett and Wright, Psychometrika 65, 2000).

    p is exact by counting all orders up to n = 8 and from Student's t beyond. A perfect order has the interval of one with two neighbours swapped. Valid for ten or more independent pairs (below that
    the interval is from -1 to 1), and raises CannotTell for fewer than five or where one side does not vary.
    """
    from scipy import stats

    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(a) != len(b) or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise HarnessError("a rank correlation needs as many numbers on one side as on the other.")
    if len(a) < 5 or np.ptp(a) == 0 or np.ptp(b) == 0:
        raise CannotTell(f"a rank correlation needs five or more pairs that vary, here are {len(a)}.")
    r, p = map(float, stats.spearmanr(a, b))
    if len(a) <= 8:
        p = float(stats.permutation_test((a,), lambda each: stats.spearmanr(each, b).statistic, permutation_type="pairings", n_resamples=np.inf).pvalue)
    if len(a) < 10:
        return Correlation(r, -1.0, 1.0, p)
    swapped = 1 - 12 / (len(a) * (len(a) ** 2 - 1))
    inner = min(swapped, max(-swapped, r))
    half = t_quantile(math.inf, level) * math.sqrt((1 + inner**2 / 2) / (len(a) - 3))
    return Correlation(r, min(r, math.tanh(math.atanh(inner) - half)), max(r, math.tanh(math.atanh(inner) + half)), p)
