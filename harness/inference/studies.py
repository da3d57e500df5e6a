"""A study that is planned, and simulations of it that use the audit's own intervals."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from harness.errors import HarnessError
from harness.inference import CannotTell, detectors
from harness.inference import intervals as own
from harness.inference.detectors import Detector
from harness.stats import Interval

CHECKS = 2000
"""replicates of a simulation"""


@dataclass(frozen=True)
class Plan:
    """A study that is planned."""

    rate: float = 0.30
    """true rate that one wants to find, e.g. of the tuned model's images"""
    against: float = 0.09
    """true rate to tell it from: the base model's, another group's, or a fixed reference"""
    design: Literal["paired", "two", "one"] = "paired"
    """paired: both models on the same prompts and seeds; two: two independent sets of prompts; one: one set against a fixed reference"""
    prompts: int = 40
    """prompts (in each set, for `two`)"""
    images: int = 8
    """images per prompt"""
    icc: float = 0.2
    """correlation of images of one prompt: 0 none, 0.5 prompts mostly show all or nothing; take it from a pilot"""
    shared: float = 0.5
    """part of the prompts in which both models' rates go together (paired only), 0 to 1"""
    sensitivity: float = 1.0
    """of the detector that reads the images"""
    specificity: float = 1.0
    """of the detector that reads the images"""
    positives: int = 200
    """labelled positives that the detector's calibration rests on"""
    negatives: int = 200
    """labelled negatives that the detector's calibration rests on"""
    level: float = 0.95
    """level of the interval"""

    def __post_init__(self) -> None:
        if not (0 < self.rate < 1 and 0 < self.against < 1) or self.rate == self.against:
            raise HarnessError(f"two different rates between 0 and 1 are told apart, not {self.rate} from {self.against}.")
        if self.prompts < 2 or self.images < 1 or not (0 <= self.icc < 1 and 0 <= self.shared <= 1 and 0.5 <= self.level < 1):
            raise HarnessError("a plan needs two or more prompts, an image each, icc from 0 to below 1, shared from 0 to 1, and a level from 0.5.")
        if not self.perfect:
            _ = self.detector

    @property
    def perfect(self) -> bool:
        """Is what is read the truth?"""
        return self.sensitivity == self.specificity == 1

    @property
    def detector(self) -> Detector | None:
        """The detector, or None where what is read is the truth."""
        return None if self.perfect else Detector(self.sensitivity, self.specificity, self.positives, self.negatives)


def simulate(plan: Plan, replicates: int = CHECKS, seed: int = 0) -> float:
    """Share of simulated studies whose interval, by `harness.inference.detectors`, tells the rates apart in the right direction."""
    rng = np.random.default_rng(seed)
    prompts = np.repeat(np.arange(plan.prompts), plan.images)
    return sum(_told(plan, rng, prompts) for _ in range(replicates)) / replicates


def _told(plan: Plan, rng: np.random.Generator, prompts: np.ndarray) -> bool:
    """Does one simulated study tell the rates apart?"""
    one, other = _events(plan, rng)
    try:
        detector = None if plan.perfect else Detector(
            rng.binomial(plan.positives, plan.sensitivity) / plan.positives, rng.binomial(plan.negatives, plan.specificity) / plan.negatives, plan.positives, plan.negatives)
        found, null = _found(plan, one, other, prompts, detector), plan.against if plan.design == "one" else 0.0
    except CannotTell:
        return False
    return found.low > null if plan.rate > plan.against else found.high < null


def _found(plan: Plan, one: np.ndarray, other: np.ndarray, prompts: np.ndarray, detector: Detector | None) -> Interval:
    """What the audit would print of these events."""
    if plan.design == "paired":
        return Interval(*detectors.paired_difference(one, other, prompts, detector, level=plan.level)[:3])
    if plan.design == "two":
        return Interval(*detectors.difference(one, prompts, other, prompts, detector, plan.level)[:3])
    found = own.rate(one, prompts, level=plan.level) if detector is None else detectors.rate(one, prompts, detector, level=plan.level)
    return Interval(*found[:3])


def _events(plan: Plan, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Images (prompts x images) that are read as the event, of either rate."""
    from scipy import special

    u, v = rng.random((2, plan.prompts))
    v = np.where(rng.random(plan.prompts) < plan.shared, u, v)
    found = []
    for rate, at in ((plan.rate, u), (plan.against, v)):
        size = (1 - plan.icc) / max(plan.icc, 1e-6)
        own_rates = special.betaincinv(rate * size, (1 - rate) * size, at) if plan.icc > 0 else np.full(plan.prompts, rate)
        found.append((rng.random((plan.prompts, plan.images)) < read(own_rates, plan)[:, None]).ravel())
    return found[0], found[1]


def read(rates: np.ndarray, plan: Plan) -> np.ndarray:
    """What the detector reads at these true rates."""
    return rates * plan.sensitivity + (1 - rates) * (1 - plan.specificity)


@lru_cache(maxsize=256)
def quantiles(rate: float, icc: float, points: int = 101) -> np.ndarray:
    """Rates of prompts, beta distributed with this mean and correlation (points,)."""
    from scipy import special

    u = (np.arange(points) + 0.5) / points
    if icc < 1e-6:
        return np.full(points, rate)
    size = (1 - icc) / icc
    return special.betaincinv(rate * size, (1 - rate) * size, u)
