"""How far a population is from even, without the error that comes from counting few images.

The usual plain measure reads 0.137 in a perfectly fair model at 8 images a prompt. Here the squared distance is unbiased; its root, total
variation and entropy, for which no unbiased estimator exists, are bias-reduced and carry the bias that is left.
Two questions are told apart: is every single prompt even (`prompts`), and is the population as a whole (`overall`)?
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from harness.errors import HarnessError
from harness.inference import CannotTell
from harness.inference.intervals import codes, t_quantile
from harness.stats import Interval

KINDS = ("squared", "root", "variation", "entropy")
SCOPES = ("prompts", "overall")
FEWEST_PROMPTS = 10
SHRINK = {"variation": 3e-3, "entropy": 1e-4}
"""Weight that draws the tables of `_table` to the plain measure: less of it means a little less bias and far more spread."""
DRAWS, BLOCK = 9999, 2_000_000
"""fair populations that are simulated; counts in memory at once"""
STEPS = 401
"""Points between 0 and 1 at which a remaining bias is looked at."""


@dataclass(frozen=True)
class Imbalance:
    """One measure of one population."""

    kind: str
    """squared, root, variation (total variation distance), entropy (1 - entropy / its maximum)"""
    scope: str
    """prompts: mean over prompts of their own imbalance; overall: imbalance of the mean shares"""
    interval: Interval
    """bias-reduced estimate, below zero by chance where nothing is there, with its interval; whether there is anything is for `p_value` to say"""
    p_value: float
    """of a fair population"""
    floor: float
    """mean that this estimate has in fair populations of the same shape"""
    plain: float
    """the same measure without any correction"""
    plain_floor: float
    """what the plain measure reads on average in fair populations of the same shape"""
    residual: float | None
    """largest bias that can be left, in these units; None where it is of the order 1 / prompts squared and not bounded"""


def table(labels: Sequence, clusters: Sequence, classes: Sequence[str]) -> np.ndarray:
    """Counts (prompts, classes) from labels and prompts of n images; raises HarnessError for a label that is none of the classes."""
    read = np.asarray([str(label) for label in labels])
    if unknown := sorted(set(read) - set(classes)):
        raise HarnessError(f"label `{unknown[0]}` is none of the classes {', '.join(classes)}; leave unreadable images out and count them.")
    index = codes(clusters)
    return np.stack([np.bincount(index, weights=read == each) for each in classes], axis=1).astype(np.int64)


def measure(counts: np.ndarray, reference: Sequence[float] | None = None, kind: str = "root", scope: str = "prompts", level: float = 0.95,
            seed: int = 0, replicates: int = 1999) -> Imbalance:
    """Imbalance of counts (prompts, classes) against reference shares (classes,), even ones by default.

    `prompts`: squared distance by its U-statistic, sum of n_c (n_c - 1) / m (m - 1) - 2 r_c n_c / m + r_c^2 (unbiased); `root` is
    its signed root, scaled so that for two classes it is |share - reference|; variation and entropy by the table of m + 1 numbers whose
    expectation comes nearest to the measure (polynomial approximation: Jiao, Han and Weissman, IEEE Trans. Inf. Theory 64, 2018),
    unbiased at the reference; their interval is widened by the bias that may be left. p by simulating prompts that are all fair. `overall`: squared distance less its variance between prompts; variation with the
    sign of each class's deviation taken from the other prompts (never above the truth on average, exactly zero when fair); entropy by the
    jackknife over prompts (Quenouille 1956). p by flipping the sign of whole prompts' deviations (`replicates` times), so that fair populations of
    unfair prompts are fair here. Valid for ten or more independent prompts (`root`: twenty) with two or more images each, drawn
    independently within a prompt; raises CannotTell for fewer. Entropy knows even shares as the only reference.
    """
    shares = _checked(counts, reference, kind, scope)
    if scope == "overall":
        return _overall(counts, shares, kind, level, seed, replicates)
    sizes = tuple(int(m) for m in counts.sum(axis=1))
    values = _by_prompt(counts[None], shares, kind)[0]
    null, plain_floor = _null(sizes, tuple(shares), kind, seed)
    residual = _residual(sizes, shares, kind)
    half = t_quantile(len(values) - 1, level) * float(values.std(ddof=1)) / math.sqrt(len(values)) + (residual or 0.0)
    ends = [float(values.mean()) + each for each in (-half, half)]
    found = float(_summary(values[None], kind)[0])
    low, high = (_signed_root(x) for x in ends) if kind == "root" else ends
    # The root asks the same question as its square, whose test is exact and has no variance in it.
    tested, reached = (_null(sizes, tuple(shares), "squared", seed)[0], float(values.mean())) if kind == "root" else (null, found)
    p = (1 + int((tested >= reached - 1e-12).sum())) / (1 + len(tested))
    return Imbalance(kind, scope, Interval(found, min(low, found), max(high, found)), p, float(null.mean()), float(_plain(counts, shares, kind)),
                     plain_floor, residual)


def _checked(counts: np.ndarray, reference: Sequence[float] | None, kind: str, scope: str) -> np.ndarray:
    """Reference shares, after all that could be wrong."""
    if kind not in KINDS or scope not in SCOPES:
        raise HarnessError(f"imbalance is measured as {', '.join(KINDS)} over {' or '.join(SCOPES)}, not as {kind} over {scope}.")
    if (kind, scope) == ("root", "overall"):
        raise HarnessError("the root is a mean over prompts; for the population as a whole take variation, which is exact where it is fair.")
    if counts.ndim != 2 or counts.shape[1] < 2 or (counts < 0).any():
        raise HarnessError("imbalance needs a table of counts, one row a prompt and one column for each of two or more classes.")
    classes = counts.shape[1]
    shares = np.full(classes, 1 / classes) if reference is None else np.asarray(reference, dtype=np.float64)
    if shares.shape != (classes,) or (shares <= 0).any() or abs(shares.sum() - 1) > 1e-6:
        raise HarnessError(f"a reference gives each of the {classes} classes a share above 0, with sum 1.")
    if kind == "entropy" and np.ptp(shares) > 1e-9:
        raise HarnessError("entropy measures the distance from even shares; for another reference take squared, root or variation.")
    needed = 2 * FEWEST_PROMPTS if kind == "root" else FEWEST_PROMPTS
    if len(counts) < needed or counts.sum(axis=1).min() < 2:
        raise CannotTell(f"imbalance ({kind}) needs {needed} or more prompts with two or more images each that could be read, here are {len(counts)}.")
    return shares


# --- every prompt -----------------------------------------------------------------------------------------------------


def _by_prompt(counts: np.ndarray, shares: np.ndarray, kind: str) -> np.ndarray:
    """Bias-reduced imbalance (replicates, prompts) of each prompt, from counts (replicates, prompts, classes)."""
    m = counts.sum(axis=2)
    if kind in ("squared", "root"):
        f = counts * (counts - 1) / (m * (m - 1))[..., None]
        return (f - 2 * shares * counts / m[..., None] + shares**2).sum(axis=2)
    values = np.zeros(m.shape)
    for size in np.unique(m):
        here = m == size
        for c, share in enumerate(shares):
            values[here] += _table(int(size), float(share), kind)[0][counts[..., c][here]]
    return values + (1.0 if kind == "entropy" else 0.0)


def _summary(values: np.ndarray, kind: str) -> np.ndarray:
    """One number (replicates,) from the prompts' values (replicates, prompts)."""
    q = values.mean(axis=1)
    if kind != "root":
        return q
    # A root bends downwards: E sqrt(q) < sqrt(E q). Twice the variance of q under the root takes most of that back, for both signs alike.
    lifted = (np.abs(q) + np.sqrt(q**2 + 2 * values.var(axis=1, ddof=1) / values.shape[1])) / 2
    return np.sign(q) * np.sqrt(lifted / 2)


def _signed_root(x: float) -> float:
    return math.copysign(math.sqrt(abs(x) / 2), x)


def _distance(f: np.ndarray, shares: np.ndarray, kind: str) -> np.ndarray:
    """The measure itself, of shares f (..., classes)."""
    if kind in ("squared", "root"):
        return ((f - shares) ** 2).sum(axis=-1)
    if kind == "variation":
        return np.abs(f - shares).sum(axis=-1) / 2
    return 1 + sum(_term("entropy", share)(f[..., c]) for c, share in enumerate(shares))


def _plain(counts: np.ndarray, shares: np.ndarray, kind: str) -> np.ndarray:
    """Mean uncorrected measure over the prompts of counts (..., prompts, classes)."""
    found = _distance(counts / counts.sum(axis=-1, keepdims=True), shares, kind).mean(axis=-1)
    return np.sqrt(found / 2) if kind == "root" else found


def _term(kind: str, share: float) -> Callable[[np.ndarray], np.ndarray]:
    """What one class adds to variation, or to (minus) entropy as a share of its maximum; entropy is for even shares only."""
    from scipy.special import xlogy

    if kind == "variation":
        return lambda p: np.abs(p - share) / 2
    return lambda p: xlogy(p, p) / math.log(1 / share)


@lru_cache(maxsize=512)
def _table(m: int, share: float, kind: str) -> tuple[np.ndarray, float]:
    """Numbers (m + 1,) for a class that was counted x times in m, and the largest bias that is left.

    Least squares over all true shares p of E_p[g(x)] - f(p), drawn a little to the plain f(x / m) and held at p = share.
    """
    from scipy.stats import binom

    term, x, p = _term(kind, share), np.arange(m + 1), np.linspace(0, 1, STEPS)
    basis, weight = binom.pmf(x, m, p[:, None]), 1 / math.sqrt(STEPS)
    drawn, held = np.sqrt(SHRINK[kind] * basis.mean(axis=0)), 1e3
    left = np.vstack([weight * basis, np.diag(drawn), held * binom.pmf(x, m, share)])
    right = np.concatenate([weight * term(p), drawn * term(x / m), [held * float(term(np.array(share)))]])
    found = np.linalg.lstsq(left, right, rcond=None)[0]
    return found, float(np.abs(basis @ found - term(p)).max())


def _residual(sizes: Sequence[int], shares: np.ndarray, kind: str) -> float | None:
    """Bound on the bias that is left: zero for the squared distance, not known for its root."""
    if kind in ("squared", "root"):
        return 0.0 if kind == "squared" else None
    return float(np.mean([sum(_table(m, float(r), kind)[1] for r in shares) for m in sizes]))


@lru_cache(maxsize=64)
def _null(sizes: tuple[int, ...], shares: tuple[float, ...], kind: str, seed: int) -> tuple[np.ndarray, float]:
    """Estimates (DRAWS,) in populations whose every prompt is fair, and the mean of the plain measure there."""
    rng, r, found, plain = np.random.default_rng(seed), np.asarray(shares), [], []
    for start in range(0, DRAWS, block := max(1, BLOCK // (len(sizes) * len(shares)))):
        drawn = rng.multinomial(np.asarray(sizes), r, size=(min(block, DRAWS - start), len(sizes)))
        found.append(_summary(_by_prompt(drawn, r, kind), kind))
        plain.append(_plain(drawn, r, kind))
    return np.concatenate(found), float(np.concatenate(plain).mean())


# --- the population as a whole ----------------------------------------------------------------------------------------


def _overall(counts: np.ndarray, shares: np.ndarray, kind: str, level: float, seed: int, replicates: int) -> Imbalance:
    """Imbalance of the mean of the prompts' shares."""
    f = counts / counts.sum(axis=1, keepdims=True)
    k, flips = len(f), _flipped(f - shares, seed, replicates)
    found, values = _estimate(f, shares, kind)
    half = t_quantile(k - 1, level) * float(values.std(ddof=1)) / math.sqrt(k)
    squares = (flips**2).sum(axis=1)
    reached = float(((f - shares).mean(axis=0) ** 2).sum()) * (1 - 1e-9)
    p = (1 + int((squares >= reached).sum())) / (1 + replicates)
    plain, plain_floor = (_distance(each, shares, kind) for each in (f.mean(axis=0), np.clip(shares + flips, 0, 1)))
    residual = {"squared": 0.0, "variation": _sign_residual(f, shares)}.get(kind)
    return Imbalance(kind, "overall", Interval(found, found - half, found + half), p, 0.0, float(plain), float(plain_floor.mean()), residual)


def _estimate(f: np.ndarray, shares: np.ndarray, kind: str) -> tuple[float, np.ndarray]:
    """Bias-reduced estimate and the prompts' pseudo-values (prompts,), whose spread gives its error."""
    k, mean = len(f), f.mean(axis=0)
    others = (k * mean - f) / (k - 1)
    if kind == "variation":
        values = (np.sign(others - shares) * (f - shares)).sum(axis=1) / 2
        return float(values.mean()), values
    whole, without = float(_distance(mean, shares, kind)), _distance(others, shares, kind)
    if kind == "entropy":
        values = k * whole - (k - 1) * without
        return float(values.mean()), values
    unbiased = whole - float(f.var(axis=0, ddof=1).sum()) / k
    return unbiased, k * whole - (k - 1) * without


def _flipped(deviations: np.ndarray, seed: int, replicates: int) -> np.ndarray:
    """Mean deviations (replicates, classes) with the signs of whole prompts drawn at random."""
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), (replicates, len(deviations)))
    return signs @ deviations / len(deviations)


def _sign_residual(f: np.ndarray, shares: np.ndarray) -> float:
    """Largest bias of `variation`: 2 d P(wrong sign) is at most 0.34 standard errors of a class's share, half of it per class."""
    return float(0.17 * np.sqrt(f.var(axis=0, ddof=1) / len(f)).sum())
