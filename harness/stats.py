"""From rows to findings: intervals that respect clusters, exact bounds for rare events, exact ranks.

The unit that is drawn anew is the *prompt*: images of one prompt resemble each other, and an interval that counts them
one by one covers far less than it claims. Nothing here knows what was measured; it takes numbers and labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from harness.errors import HarnessError

if TYPE_CHECKING:
    import pandas as pd

VERDICTS = ("found", "not found", "cannot tell", "not calibrated")
MIN_CLUSTERS = 10
"""Below this many prompts an interval rests on too little: the finding says `cannot tell`."""
EXACT_FLIPS = 14
"""Up to this many clusters all sign flips (2^14) are enumerated."""


@dataclass(frozen=True)
class Finding:
    """One row of a report. Numbers that a finding does not have are None, never NaN."""

    question: str
    """which audit asked: style, copies, representation, exposure"""
    subject: str
    """whom or what it is about: a pseudonym, an attribute, a detector"""
    estimate: float | None
    """the measured value"""
    low: float | None
    """lower end of the interval"""
    high: float | None
    """upper end of the interval; for zero events the exact one-sided bound"""
    level: float
    """level of the interval, e.g. 0.95"""
    n: int
    """images or pairs that were read"""
    clusters: int
    """prompts among them"""
    floor: float | None
    """what the same measure reads where nothing is there"""
    power: float | None
    """chance to find a true effect of the size that the question is about, where it is known"""
    p_value: float | None
    """exact or permutation p of the null that the question names"""
    calibration: str
    """what is known of the instrument; `unchecked: ...` until calibrate.verdict has looked"""
    domain: str
    """kind of images, e.g. drawn portraits, 64 px"""
    verdict: str
    """found, not found, cannot tell, not calibrated"""
    abstained: int
    """images or pairs that the instrument could not read"""
    why: str
    """one or a few sentences: what the verdict rests on"""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise HarnessError(f"finding on {self.question}: verdict {self.verdict!r} is none of {', '.join(VERDICTS)}.")
        for name in ("estimate", "low", "high", "floor", "power", "p_value"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise HarnessError(f"finding on {self.question}: {name} is {value}; a number that is not there is None.")
        bounds = (self.low, self.estimate, self.high)
        if None not in bounds and not bounds[0] - 1e-9 <= bounds[1] <= bounds[2] + 1e-9:
            raise HarnessError(f"finding on {self.question}: {bounds[1]} lies outside its interval {bounds[0]} to {bounds[2]}.")

    def but(self, **changes: object) -> Finding:
        """The same finding with some columns changed."""
        return replace(self, **changes)


def table(findings: Sequence[Finding]) -> pd.DataFrame:
    """Findings as a table, one row each, columns as in `Finding`."""
    import pandas as pd

    return pd.DataFrame([asdict(f) for f in findings], columns=[f.name for f in fields(Finding)])


def cannot_tell(question: str, subject: str, why: str, **columns: object) -> Finding:
    """A finding that abstains, with the reason; other columns may be given, the rest is empty."""
    empty: dict = {"estimate": None, "low": None, "high": None, "level": 0.95, "n": 0, "clusters": 0, "floor": None,
                   "power": None, "p_value": None, "calibration": "unchecked", "domain": "", "abstained": 0}
    return Finding(question=question, subject=subject, verdict="cannot tell", why=why, **(empty | columns))


class Interval(NamedTuple):
    """A number with its interval."""

    estimate: float
    low: float
    high: float


def cluster_bootstrap(values: Sequence[float], clusters: Sequence, level: float = 0.95, seed: int = 0,
                      replicates: int = 2000) -> Interval:
    """Mean of `values` (n,) with an expanded percentile interval; whole clusters (n labels) are drawn anew.

    Valid for independent clusters; with few of them the plain percentile interval is too short, so that its level is
    widened as in Hesterberg, "What teachers should know about the bootstrap", Am. Stat. 69 (2015), section 4.
    Raises HarnessError for fewer than two clusters, NaN, or unequal lengths. A mean of values that are all alike has
    an empty interval: take `clustered_rate` for events.
    """
    sums, counts = _cluster_sums(values, clusters)
    k = len(sums)
    if k < 2:
        raise HarnessError(f"an interval by cluster needs two or more clusters, here are {k}; draw more prompts.")
    rng, chunk = np.random.default_rng(seed), max(1, 2_000_000 // k)
    means = [_resampled(rng, sums, counts, min(chunk, replicates - start)) for start in range(0, replicates, chunk)]
    tail = _expanded_tail(k, level)
    estimate = float(sums.sum() / counts.sum())
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(estimate, float(min(low, estimate)), float(max(high, estimate)))


def _resampled(rng: np.random.Generator, sums: np.ndarray, counts: np.ndarray, replicates: int) -> np.ndarray:
    """Means of `replicates` draws of k clusters with replacement."""
    k = len(sums)
    weights = rng.multinomial(k, np.full(k, 1 / k), size=replicates)
    return (weights @ sums) / (weights @ counts)


def _expanded_tail(k: int, level: float) -> float:
    """Tail of the percentile interval that has the length of a t interval on k - 1 degrees of freedom."""
    from scipy import stats

    return float(stats.norm.cdf(math.sqrt(k / (k - 1)) * stats.t.ppf((1 - level) / 2, k - 1)))


def _cluster_sums(values: Sequence[float], clusters: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Sum and size of each cluster, in order of label; refuses NaN and unequal lengths."""
    numbers = np.asarray(values, dtype=np.float64)
    labels = np.asarray(clusters, dtype=object)
    if numbers.ndim != 1 or len(numbers) != len(labels):
        raise HarnessError(f"one cluster label per value is needed: {numbers.shape} values, {len(labels)} labels.")
    if not len(numbers) or not np.isfinite(numbers).all():
        raise HarnessError("there is no value, or one that is not a number; leave unreadable images out and count them.")
    _, index = np.unique([str(label) for label in labels], return_inverse=True)
    return np.bincount(index, weights=numbers), np.bincount(index).astype(np.float64)


def rate_interval(k: float, n: float, level: float = 0.95) -> Interval:
    """Exact interval of a rate, k events among n (Clopper and Pearson, Biometrika 26, 1934).

    With no event, or with nothing but events, the bound is one-sided at `level`: 0 of 300 is at most 0.99 % at 95 %.
    Valid for independent trials; also for the mean rate over *these* prompts when seeds are independent (for zero
    events by the inequality of means, else by Hoeffding, Ann. Math. Stat. 27, 1956).
    """
    from scipy import stats

    if not (0 <= k <= n and n > 0 and 0 < level < 1):
        raise HarnessError(f"a rate needs 0 <= events <= trials and trials > 0, here are {k} of {n} at level {level}.")
    tail = (1 - level) if k in (0, n) else (1 - level) / 2
    low = 0.0 if k == 0 else float(stats.beta.ppf(tail, k, n - k + 1))
    high = 1.0 if k == n else float(stats.beta.ppf(1 - tail, k + 1, n - k))
    return Interval(k / n, low, high)


def zero_events_bound(n: int, level: float = 0.95) -> float:
    """Largest rate that is compatible with no event in n trials: 1 - (1 - level)^(1/n)."""
    return rate_interval(0, n, level).high


def effective_n(events: Sequence[bool], clusters: Sequence, level: float = 0.95) -> float:
    """Independent trials that carry as much as these clustered ones, with the loss of degrees of freedom.

    Korn and Graubard, Survey Methodology 24 (1998): n_eff = p(1-p)/v, times (t_{n-1}/t_{k-1})^2, at most n; v is the
    variance between clusters. With no event (or only events) v is not seen and n itself is returned.
    """
    from scipy import stats

    sums, counts = _cluster_sums(np.asarray(events, dtype=np.float64), clusters)
    k, n, p = len(sums), counts.sum(), sums.sum() / counts.sum()
    if p in (0.0, 1.0) or k < 2:
        return float(n)
    variance = k / (k - 1) * float(((sums - p * counts) ** 2).sum()) / n**2
    shrink = (stats.t.ppf((1 + level) / 2, n - 1) / stats.t.ppf((1 + level) / 2, k - 1)) ** 2
    return float(n) if variance <= 0 else float(min(n, p * (1 - p) / variance * shrink))


def clustered_rate(events: Sequence[bool], clusters: Sequence, level: float = 0.95) -> Interval:
    """Rate of events (n booleans) with an exact interval on the effective sample size (Korn and Graubard 1998).

    Conservative for rare events, where a bootstrap is far too short. With no event it is the exact bound for *these*
    prompts; for prompts in general count prompts: `zero_events_bound(number of prompts)`.
    """
    flags = np.asarray(events, dtype=bool)
    if not len(flags):
        raise HarnessError("a rate needs at least one image.")
    share, size = float(flags.mean()), effective_n(flags, clusters, level)
    if share in (0.0, 1.0):
        return rate_interval(int(flags.sum()), len(flags), level)
    return rate_interval(share * size, size, level)._replace(estimate=share)


def permutation_rank(observed: float, controls: Sequence[float]) -> float:
    """One-sided rank p = (1 + #{control >= observed}) / (1 + #controls) (Phipson and Smyth 2010, equation 2).

    Exact where observed and controls are exchangeable under the null. Raises HarnessError for NaN.
    """
    others = np.asarray(controls, dtype=np.float64)
    if not (math.isfinite(observed) and np.isfinite(others).all()):
        raise HarnessError("a rank needs numbers; the observed value or a control is not one.")
    return float((1 + (others >= observed).sum()) / (1 + len(others)))


def controls_needed(alpha: float = 0.05) -> int:
    """Fewest controls with which a rank test can reach `alpha`: 19 for 5 %."""
    return math.ceil(1 / alpha - 1e-9) - 1


def paired_contrast(tuned: Sequence[float], base: Sequence[float], clusters: Sequence, level: float = 0.95,
                    seed: int = 0, replicates: int = 2000) -> Interval:
    """Mean of tuned - base over pairs of the same prompt and seed, interval clustered by prompt."""
    if len(tuned) != len(base):
        raise HarnessError(f"pairs are needed: {len(tuned)} tuned and {len(base)} base values.")
    difference = np.asarray(tuned, dtype=np.float64) - np.asarray(base, dtype=np.float64)
    return cluster_bootstrap(difference, clusters, level, seed, replicates)


def share_difference(tuned: Sequence[bool], base: Sequence[bool], clusters: Sequence, level: float = 0.95,
                     seed: int = 0) -> Interval:
    """Difference of two shares over pairs, tuned - base, clustered by prompt.

    A bootstrap where at least 10 prompts changed; else the difference of the exact intervals of what was gained and
    what was lost, each at (1 + level) / 2, so that no change is a bound and not a zero (conservative, Bonferroni).
    """
    now, before = np.asarray(tuned, dtype=bool), np.asarray(base, dtype=bool)
    contrast = paired_contrast(now, before, clusters, level, seed)
    changed = {str(c) for c, moved in zip(clusters, now != before, strict=True) if moved}
    if len(changed) >= MIN_CLUSTERS:
        return contrast
    gained, lost = (clustered_rate(f, clusters, (1 + level) / 2) for f in (now & ~before, before & ~now))
    return Interval(contrast.estimate, gained.low - lost.high, gained.high - lost.low)


def sign_flip_p(differences: Sequence[float], clusters: Sequence, seed: int = 0, replicates: int = 9999) -> float:
    """Two-sided p of no difference, flipping the sign of whole clusters (Fisher's randomisation test).

    All flips up to 14 clusters, else `replicates` random ones with the +1 of Phipson and Smyth (2010). Valid where
    tuned and base are exchangeable within a prompt under the null.
    """
    sums, _ = _cluster_sums(differences, clusters)
    sums = sums[sums != 0]
    k, reached = len(sums), abs(sums.sum()) * (1 - 1e-12)
    if not k:
        return 1.0
    if k <= EXACT_FLIPS:
        signs = 1 - 2 * ((np.arange(2**k)[:, None] >> np.arange(k)) & 1)
        return float((np.abs(signs @ sums) >= reached).mean())
    rng, chunk = np.random.default_rng(seed), max(1, 2_000_000 // k)
    beyond = sum(int((np.abs(rng.choice((-1.0, 1.0), (min(chunk, replicates - start), k)) @ sums) >= reached).sum())
                 for start in range(0, replicates, chunk))
    return (1 + beyond) / (1 + replicates)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p values adjusted for their number, family-wise (Holm, Scand. J. Stat. 6, 1979); same order."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def exceedance_p(k: float, n: float, rank: int, background: int) -> float:
    """P of k or more of n above the `rank`-th largest of `background` values, when all are alike.

    Beta-binomial(n, rank, background + 1 - rank): the uncertainty of a threshold taken from so few values is in it
    (Wilks, Ann. Math. Stat. 13, 1942). Exact for exchangeable continuous scores; with clustered images give the
    effective numbers, which are rounded down.
    """
    from scipy import stats

    if not 1 <= rank <= background:
        raise HarnessError(f"rank {rank} is not among {background} background values.")
    return float(stats.betabinom.sf(math.floor(k) - 1, max(1, math.floor(n)), rank, background + 1 - rank))
