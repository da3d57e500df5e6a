"""Rates read by an imperfect detector, corrected for its errors, with the uncertainty of its calibration in the interval.

Uncorrected, a detector of sensitivity 0.95 and specificity 0.88 reads a true 5 % as 16 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.errors import HarnessError
from harness.inference import CannotTell
from harness.inference import intervals as own
from harness.inference.intervals import CONSERVATIVE, Rate
from harness.stats import Interval, effective_n

FEWEST_LABELLED = 10
"""positives and negatives that a calibration needs at the least"""


@dataclass(frozen=True)
class Detector:
    """What a calibration found; the calibration's images are others than those that are read."""

    sensitivity: float
    """share of labelled positives that it called"""
    specificity: float
    """share of labelled negatives that it did not call"""
    positives: float
    """labelled positives; where those are clustered, their effective number"""
    negatives: float
    """labelled negatives, or their effective number"""

    def __post_init__(self) -> None:
        if not (0 <= self.sensitivity <= 1 and 0 <= self.specificity <= 1):
            raise HarnessError(f"sensitivity {self.sensitivity} and specificity {self.specificity} lie between 0 and 1.")
        if not min(self.positives, self.negatives) >= FEWEST_LABELLED:
            raise CannotTell(f"a calibration on {self.positives:g} positives and {self.negatives:g} negatives corrects nothing; label at least {FEWEST_LABELLED} of each.")
        if self.sensitivity + self.specificity <= 1:
            raise CannotTell(f"sensitivity {self.sensitivity:.2f} and specificity {self.specificity:.2f} are no better than chance; a correction has no meaning.")

    @property
    def informedness(self) -> float:
        """Sensitivity + specificity - 1 (Youden 1950): what is left of a true difference in what is read."""
        return self.sensitivity + self.specificity - 1


def calibrated(truth: Sequence[bool], called: Sequence[bool], clusters: Sequence | None = None) -> Detector:
    """A detector from labelled images: truth and calls (n booleans), clustered by artist or person where labels are given."""
    is_true, was_called = np.asarray(truth, dtype=bool), np.asarray(called, dtype=bool)
    labels = np.arange(len(is_true)) if clusters is None else np.asarray(own.codes(clusters))
    if not len(is_true) == len(was_called) == len(labels):
        raise HarnessError("truth, calls and clusters of a calibration have unequal lengths.")
    if not is_true.any() or is_true.all():
        raise CannotTell("a calibration needs labelled positives and negatives.")
    hits, rejects = was_called[is_true], ~was_called[~is_true]
    return Detector(float(hits.mean()), float(rejects.mean()), _worth(hits, labels[is_true]), _worth(rejects, labels[~is_true]))


def _worth(right: np.ndarray, labels: np.ndarray) -> float:
    """Effective number of labelled images; where all went right (or wrong), nothing shows how alike they are, and a cluster is one trial."""
    return float(len(np.unique(labels))) if right.all() or not right.any() else effective_n(right, labels)


def rate(events: Sequence[bool], clusters: Sequence, detector: Detector, columns: Sequence | None = None, level: float = 0.95) -> Rate:
    """True rate behind calls (n booleans): (q + specificity - 1) / (sensitivity + specificity - 1) (Rogan and Gladen 1978).

    The interval holds every rate p for which what is read, less what p would give, is compatible with zero; its width is put
    together from the interval of the read rate, clustered as in `intervals.rate`, and the score intervals of sensitivity and specificity
    (variance recovery: Zou and Donner, Stat. Med. 27, 2008; compare Lang and Reiczigel, Prev. Vet. Med. 113, 2014). Valid where the
    detector errs on these images as on its calibration's, and where its informedness is above zero beyond doubt, else CannotTell.
    """
    read = own.rate(events, clusters, columns, level)
    return Rate(*corrected(Interval(*read[:3]), detector, level), read.form)


def corrected(read: Interval, detector: Detector, level: float = 0.95) -> Interval:
    """The interval of a true rate from the interval of the rate that was read (see `rate`)."""
    q, (se, se_low, se_high), (sp, sp_low, sp_high) = read.estimate, *_errors(detector, level)

    def low(p: float) -> float:
        return q - p * se - (1 - p) * (1 - sp) - math.hypot(q - read.low, p * (se_high - se), (1 - p) * (sp - sp_low))

    def high(p: float) -> float:
        return q - p * se - (1 - p) * (1 - sp) + math.hypot(read.high - q, p * (se - se_low), (1 - p) * (sp_high - sp))

    estimate = min(1.0, max(0.0, (q + sp - 1) / detector.informedness))
    return Interval(estimate, min(estimate, _crossing(low, 0, 1)), max(estimate, _crossing(high, 0, 1)))


def _errors(detector: Detector, level: float) -> tuple[Interval, Interval]:
    """Score intervals of sensitivity and specificity; refuses a detector that may be no better than chance."""
    se = own.score(detector.sensitivity * detector.positives, detector.positives, level)
    sp = own.score(detector.specificity * detector.negatives, detector.negatives, level)
    j = detector.informedness
    if j - math.hypot(se.estimate - se.low, sp.estimate - sp.low) <= 0:
        raise CannotTell(f"informedness {j:.2f} of the detector is not above zero beyond doubt; calibrate it on more images.")
    return se, sp


def _crossing(f: Callable[[float], float], start: float, end: float) -> float:
    """Where a falling function is zero between start and end, or the end that it does not reach."""
    from scipy.optimize import brentq

    if f(start) <= 0:
        return float(start)
    return float(end) if f(end) >= 0 else float(brentq(f, start, end, xtol=1e-9))


def paired_difference(tuned: Sequence[bool], base: Sequence[bool], clusters: Sequence, detector: Detector | None = None,
                      columns: Sequence | None = None, level: float = 0.95) -> Rate:
    """True rate of tuned minus base over pairs of one prompt and seed, read by one detector.

    Where at least 7 prompts (and seeds) changed, a clustered t interval; else what was gained and what was lost, each with the
    conservative form at (1 + level) / 2. Then divided by informedness, whose uncertainty is carried (Fieller's form by variance
    recovery, as in `rate`). Valid where the detector errs alike on both models' images. Without a detector the calls are the truth.
    """
    now, before = np.asarray(tuned, dtype=bool), np.asarray(base, dtype=bool)
    if len(now) != len(before):
        raise HarnessError(f"pairs are needed: {len(now)} tuned and {len(before)} base values.")
    gained, lost = now & ~before, before & ~now
    ways = [own.codes(each) for each in (clusters, columns) if each is not None]
    if all(len(np.unique(way[now != before])) >= own.FEWEST for way in ways):
        form, read = "t", own.cluster_t(gained.astype(float) - lost, clusters, columns, level)
    else:
        form, (up, down) = CONSERVATIVE, [own.rate(f, clusters, columns, (1 + level) / 2) for f in (gained, lost)]
        read = Interval(up.estimate - down.estimate, up.low - down.high, up.high - down.low)
    return Rate(*_scaled(read, detector, level), form)


def difference(a: Sequence[bool], a_clusters: Sequence, b: Sequence[bool], b_clusters: Sequence, detector: Detector | None = None,
               level: float = 0.95) -> Rate:
    """True rate of a minus that of b, from two independent sets of prompts.

    From the two rates' own intervals (Newcombe, Stat. Med. 17, 1998; Zou and Donner 2008), divided by informedness.
    """
    p, q = own.rate(a, a_clusters, None, level), own.rate(b, b_clusters, None, level)
    gap = p.estimate - q.estimate
    read = Interval(gap, gap - math.hypot(p.estimate - p.low, q.high - q.estimate), gap + math.hypot(p.high - p.estimate, q.estimate - q.low))
    return Rate(*_scaled(read, detector, level), CONSERVATIVE if CONSERVATIVE in (p.form, q.form) else p.form)


def _scaled(read: Interval, detector: Detector | None, level: float) -> Interval:
    """A difference that was read, divided by informedness; within -1 to 1."""
    if detector is None:
        return Interval(read.estimate, max(-1.0, read.low), min(1.0, read.high))
    se, sp = _errors(detector, level)
    j, down = detector.informedness, math.hypot(se.estimate - se.low, sp.estimate - sp.low)
    up, gap = math.hypot(se.high - se.estimate, sp.high - sp.estimate), read.estimate

    def low(d: float) -> float:
        return gap - d * j - math.hypot(gap - read.low, d * (up if d > 0 else down))

    def high(d: float) -> float:
        return gap - d * j + math.hypot(read.high - gap, d * (down if d > 0 else up))

    estimate = min(1.0, max(-1.0, gap / j))
    return Interval(estimate, min(estimate, _crossing(low, -1, 1)), max(estimate, _crossing(high, -1, 1)))


def inverse_confusion(labels: Sequence, clusters: Sequence, confusion: Mapping[str, Mapping[str, int]], level: float = 0.95, seed: int = 0,
                      replicates: int = 1999) -> dict[str, Interval]:
    """True share of every class behind labels (n) of a reader with more than two classes.

    `confusion[true][read]` counts the labelled images of the calibration. Estimate: the shares, none below zero and one in
    sum, that fit best what was read (constrained least squares by Lawson and Hanson's NNLS). Interval: prompts drawn anew and each
    row of the matrix drawn from its Dirichlet posterior (Jeffreys), solved without the constraint, cut at 0 and 1. Valid
    for ten or more prompts, ten or more labelled images of every class, and a matrix that can be inverted (smallest singular
    value above 0.1 in 97.5 % of its draws); else CannotTell.
    """
    names, counts = _matrix(confusion)
    read = np.asarray([str(label) for label in labels])
    if unknown := sorted(set(read) - set(names)):
        raise HarnessError(f"the reader gave `{unknown[0]}`, a class that its calibration does not know.")
    index = own.codes(clusters)
    if index.max() < 9:
        raise CannotTell(f"shares behind a confusion matrix need ten or more prompts, here are {index.max() + 1}.")
    shares = np.stack([np.bincount(index, weights=read == name) for name in names], axis=1)
    solved = _solved_again(shares, counts, np.random.default_rng(seed), replicates)
    low, high = np.clip(np.quantile(solved, [(1 - level) / 2, (1 + level) / 2], axis=0), 0, 1)
    best = _constrained(shares.sum(axis=0) / shares.sum(), counts / counts.sum(axis=1, keepdims=True))
    return {name: Interval(float(b), float(min(b, x)), float(max(b, y))) for name, b, x, y in zip(names, best, low, high, strict=True)}


def _matrix(confusion: Mapping[str, Mapping[str, int]]) -> tuple[list[str], np.ndarray]:
    names = list(confusion)
    counts = np.array([[confusion[true].get(read, 0) for read in names] for true in names], dtype=np.float64)
    if len(names) < 2 or any(set(row) - set(names) for row in confusion.values()):
        raise HarnessError("a confusion matrix has the same two or more classes in rows and columns.")
    if counts.sum(axis=1).min() < FEWEST_LABELLED:
        raise CannotTell(f"a calibration needs at least {FEWEST_LABELLED} labelled images of every class.")
    return names, counts


def _solved_again(shares: np.ndarray, counts: np.ndarray, rng: np.random.Generator, replicates: int) -> np.ndarray:
    """Unconstrained solutions (replicates, classes) with prompts and calibration drawn anew."""
    drawn = shares[rng.integers(0, len(shares), (replicates, len(shares)))].sum(axis=1)
    rows = np.stack([rng.dirichlet(row + 0.5, replicates) for row in counts], axis=1)
    if np.quantile(np.linalg.svd(rows, compute_uv=False)[:, -1], 0.025) <= 0.1:
        raise CannotTell("the reader confuses its classes too much for a correction; merge those that it cannot tell apart.")
    return np.linalg.solve(rows.transpose(0, 2, 1), (drawn / drawn.sum(axis=1, keepdims=True))[..., None])[..., 0]


def _constrained(read: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Shares >= 0 with sum 1 that fit `read` best."""
    from scipy.optimize import nnls

    heavy = 1e4
    found, _ = nnls(np.vstack([matrix.T, heavy * np.ones(len(read))]), np.append(read, heavy))
    return found / found.sum()
