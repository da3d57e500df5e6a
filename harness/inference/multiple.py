"""Many questions at once. Holm's family-wise adjustment is `stats.holm`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.errors import HarnessError
from harness.inference import CannotTell
from harness.inference.intervals import codes

BLOCK = 2_000_000
"""numbers in memory at once"""


def benjamini_hochberg(p_values: Sequence[float]) -> np.ndarray:
    """p values adjusted for the false discovery rate (Benjamini and Hochberg, J. R. Stat. Soc. B 57, 1995); same order.

    Valid for independent or positively dependent questions; else take `benjamini_yekutieli`.
    """
    return _discoveries(p_values, "bh")


def benjamini_yekutieli(p_values: Sequence[float]) -> np.ndarray:
    """p values adjusted for the false discovery rate under any dependence (Benjamini and Yekutieli, Ann. Stat. 29, 2001); same order."""
    return _discoveries(p_values, "by")


def _discoveries(p_values: Sequence[float], method: str) -> np.ndarray:
    from scipy.stats import false_discovery_control

    p = np.asarray(p_values, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise HarnessError("p values lie between 0 and 1; leave questions that could not be answered out, and say how many.")
    return false_discovery_control(p, method=method) if len(p) else p


def max_t(observed: Sequence[float], null: np.ndarray) -> np.ndarray:
    """p values (m,) adjusted family-wise by the joint null of all statistics (step-down max-T: Westfall and Young 1993, algorithm 4.1).

    observed (m,), null (draws, m): what all m statistics read together in each draw under the null; larger means
    further from it. Sharper than Holm where the questions hang together. Valid where draws and observation are exchangeable under the null and
    statistics are on one scale. Raises CannotTell for fewer than 19 draws, with which no p reaches 5 %.
    """
    seen, drawn = np.asarray(observed, dtype=np.float64), np.asarray(null, dtype=np.float64)
    if seen.ndim != 1 or drawn.ndim != 2 or drawn.shape[1] != len(seen) or not (np.isfinite(seen).all() and np.isfinite(drawn).all()):
        raise HarnessError(f"max-T needs one column of the null per question, all numbers: {seen.shape} questions, null {drawn.shape}.")
    if len(drawn) < 19:
        raise CannotTell(f"with {len(drawn)} draws of the null no p reaches 5 %; 19 are needed.")
    order = np.argsort(-seen)
    # The largest is held against the maximum of all, the next against the maximum of the rest, and so on.
    rest = np.maximum.accumulate(drawn[:, order][:, ::-1], axis=1)[:, ::-1]
    stepped = (1 + (rest >= seen[order]).sum(axis=0)) / (1 + len(drawn))
    adjusted = np.empty_like(seen)
    adjusted[order] = np.maximum.accumulate(stepped)
    return adjusted


def sign_flips_together(differences: np.ndarray, clusters: Sequence, seed: int = 0, replicates: int = 9999) -> np.ndarray:
    """Two-sided p values (m,) of m paired differences (n, m), family-wise, flipping the signs of whole clusters for all questions alike.

    The statistic is |t| over cluster sums. Valid where the pairs of a cluster are exchangeable under the null, jointly for all questions;
    raises CannotTell for fewer than six clusters, whose 2^6 flips just reach 5 % two-sided.
    """
    values = np.asarray(differences, dtype=np.float64)
    index = codes(clusters)
    if values.ndim != 2 or len(values) != len(index) or not np.isfinite(values).all():
        raise HarnessError("differences are a table of numbers, one row a pair and one column a question, with one cluster label a row.")
    k = int(index.max()) + 1
    if k < 6:
        raise CannotTell(f"{k} prompts allow {2**k} flips only; a test at 5 % needs six or more.")
    sums = np.stack([np.bincount(index, weights=column) for column in values.T], axis=1)
    rng, null = np.random.default_rng(seed), []
    for start in range(0, replicates, block := max(1, BLOCK // sums.size)):
        signs = rng.choice((-1.0, 1.0), (min(block, replicates - start), k))
        null.append(_t(signs @ sums, sums))
    return max_t(_t(sums.sum(axis=0)[None], sums)[0], np.concatenate(null))


def _t(totals: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """|t| (draws, m) of flipped totals; squares do not change with the sign."""
    k, squares = len(sums), (sums**2).sum(axis=0)
    variance = np.maximum(squares - totals**2 / k, squares * 1e-12) * k / (k - 1)
    return np.abs(totals) / np.sqrt(np.where(variance > 0, variance, 1.0))
