"""Permutation tests: exact where the permutations can be counted out, else 10,000 drawn, with the +1 of Phipson and Smyth (2010)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from harness.errors import HarnessError
from harness.inference import CannotTell
from harness.inference.intervals import codes

COUNTED = 20_000
"""up to this many permutations are counted out"""
BLOCK = 1_000_000
"""numbers in memory at once"""


class Permuted(NamedTuple):
    """A permutation test's answer."""

    estimate: float
    """what was measured"""
    p_value: float
    """two-sided, or one-sided where the function says so"""
    exact: bool
    """all permutations counted out, rather than drawn"""


def two_samples(a: Sequence[float], b: Sequence[float], a_clusters: Sequence | None = None, b_clusters: Sequence | None = None, seed: int = 0,
                replicates: int = 9999) -> Permuted:
    """Mean of a less mean of b (Fisher, The Design of Experiments, 1935), two-sided; whole clusters are dealt anew.

    With clusters the mean is that of the clusters' means. Valid where, under the null, all clusters of both groups are exchangeable: of
    one kind and of similar size. For pairs take `stats.sign_flip_p`. Raises CannotTell when no split could reach 5 %.
    """
    groups = [_means(a, a_clusters), _means(b, b_clusters)]
    pooled, size = np.concatenate(groups), len(groups[0])
    if (splits := math.comb(len(pooled), size)) < 20:
        raise CannotTell(f"{size} against {len(pooled) - size} can be dealt in {splits} ways only; a test at 5 % needs 20.")
    total, rest = pooled.sum(), len(pooled) - size

    def gap(first: np.ndarray) -> np.ndarray:
        return first / size - (total - first) / rest

    found = float(gap(groups[0].sum()))
    tested = _dealt(pooled, size, lambda first: np.abs(gap(first)), abs(found), seed, replicates)
    return tested._replace(estimate=found)


def _means(values: Sequence[float], clusters: Sequence | None) -> np.ndarray:
    numbers = np.asarray(values, dtype=np.float64)
    if not len(numbers) or not np.isfinite(numbers).all():
        raise HarnessError("a permutation test needs numbers in both groups; leave unreadable images out and count them.")
    if clusters is None:
        return numbers
    index = codes(clusters)
    return np.bincount(index, weights=numbers) / np.bincount(index)


def _dealt(pooled: np.ndarray, size: int, statistic: Callable[[np.ndarray], np.ndarray], found: float, seed: int, replicates: int) -> Permuted:
    """P of a statistic as large as the one found, over sums of `size` values that are dealt from the pool."""
    reached = found - 1e-12 * (1 + np.abs(pooled).sum())
    if math.comb(len(pooled), size) <= COUNTED:
        sums = pooled[np.array(list(itertools.combinations(range(len(pooled)), size)))].sum(axis=1)
        return Permuted(found, float((statistic(sums) >= reached).mean()), True)
    rng, beyond = np.random.default_rng(seed), 0
    for start in range(0, replicates, block := max(1, BLOCK // len(pooled))):
        dealt = rng.permuted(np.tile(pooled, (min(block, replicates - start), 1)), axis=1)[:, :size]
        beyond += int((statistic(dealt.sum(axis=1)) >= reached).sum())
    return Permuted(found, (1 + beyond) / (1 + replicates), False)


def association(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray, seed: int = 0, replicates: int = 9999) -> Permuted:
    """Are the targets x nearer to the attributes a, and y to b? Effect d and one-sided p (WEAT: Caliskan, Bryson and Narayanan, Science 356, 2017).

    x, y: vectors (n, d) of two equally large sets of targets, a, b: vectors of attributes; they are brought to length one. d lies
    between -2 and 2. p is over all ways to divide the targets equally. Valid where targets are exchangeable under the
    null: vectors of one prompt, or of one person, count once (take their mean). Raises CannotTell for fewer than four of each.
    """
    if len(x) != len(y) or len(x) < 4:
        raise CannotTell(f"an association test needs two equally large sets of four or more targets, here are {len(x)} and {len(y)}.")
    targets, a, b = (_unit(each) for each in (np.concatenate([x, y]), a, b))
    leaning = (targets @ a.T).mean(axis=1) - (targets @ b.T).mean(axis=1)
    n, spread = len(x), float(leaning.std(ddof=1))
    if spread <= 1e-12:
        raise CannotTell("all targets lean alike; there is no association to test.")
    total, gap = float(leaning.sum()), 2 * float(leaning[:n].sum()) - float(leaning.sum())
    tested = _dealt(leaning, n, lambda first: 2 * first - total, gap, seed, replicates)
    return tested._replace(estimate=gap / n / spread)


def _unit(vectors: np.ndarray) -> np.ndarray:
    numbers = np.atleast_2d(np.asarray(vectors, dtype=np.float64))
    lengths = np.linalg.norm(numbers, axis=1, keepdims=True)
    if not np.isfinite(numbers).all() or (lengths == 0).any():
        raise HarnessError("a vector is zero or not a number; embed those images or words again.")
    return numbers / lengths
