"""``harness power``: how many prompts and images does it take to tell one rate from another with this detector?

The chance to tell them apart is that of the very interval that the audit prints (`harness.inference.detectors`): that it leaves out zero, or
the reference. Prompts differ among each other (`icc`), and a detector's errors shrink what is left of a true difference.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from harness.errors import HarnessError
from harness.inference import CannotTell, detectors
from harness.inference import intervals as own
from harness.inference.detectors import Detector
from harness.inference.intervals import Mean
from harness.inference.studies import CHECKS, Plan, quantiles, read, simulate

MOST = 20_000
"""prompts beyond which nobody goes"""
CLEAR = {"paired": 20, "two": 12, "one": 12}
"""Prompts that must be expected to show the event, and its absence (paired: to change), before the formula is trusted."""


class Power(NamedTuple):
    """The chance to tell, and how it was found."""

    power: float
    method: str
    """formula, or simulation of so many replicates"""


def power(plan: Plan, seed: int = 0) -> Power:
    """Chance that the interval tells the two rates apart: by formula where enough prompts are expected to show the event and its absence, else by simulation."""
    if min(expected(plan)) >= CLEAR[plan.design]:
        return Power(formula(plan), "formula")
    return Power(simulate(plan, CHECKS, seed), f"simulation, {CHECKS:,} replicates")


def expected(plan: Plan) -> tuple[float, float]:
    """Prompts that are expected to show the event at least once as read, and its absence, for the rate where they are fewest.

    Paired: prompts in which the two models' images are expected to differ, given twice.
    """
    if plan.design == "paired":
        p, q, weight = _prompt_rates(plan)
        a, b = read(p, plan), read(q, plan)
        same = float(weight @ (a * b + (1 - a) * (1 - b)) ** plan.images)
        return (plan.prompts * (1 - same),) * 2
    rates = (plan.rate, plan.against) if plan.design == "two" else (plan.rate,)
    shown = [read(quantiles(rate, plan.icc), plan) for rate in rates]
    with_event, without = (min(1 - float(np.mean(missing**plan.images)) for missing in each) for each in ([1 - q for q in shown], shown))
    return plan.prompts * with_event, plan.prompts * without


# --- formula ----------------------------------------------------------------------------------------------------------


def formula(plan: Plan) -> float:
    """Power by the noncentral t distribution at the distance to the nearest sample in which the interval no longer tells.

    Paired differences are a t test on prompts. Else the read rates and the calibration's rates are moved together, each in proportion to its
    variance, until the interval touches the null (first-order reliability: Hasofer and Lind, J. Eng. Mech. 100, 1974).
    """
    from scipy import stats

    df, t = plan.prompts - 1, own.t_quantile(plan.prompts - 1, plan.level)
    distance = _paired_distance(plan) if plan.design == "paired" else _touching(plan) + t
    return float(stats.nct.sf(t, df, distance))


def _paired_distance(plan: Plan) -> float:
    """Mean read difference in standard errors."""
    p, q, weight = _prompt_rates(plan)
    a, b = read(p, plan), read(q, plan)
    gap = float(weight @ (a - b))
    between, within = float(weight @ (a - b - gap) ** 2), float(weight @ (a * (1 - a) + b * (1 - b))) / plan.images
    return abs(gap) / math.sqrt((between + within) / plan.prompts)


def _touching(plan: Plan) -> float:
    """Standard errors from the expected sample to the nearest one whose interval touches the null; negative where it does not tell."""
    from scipy.optimize import brentq

    rates = (plan.rate, plan.against) if plan.design == "two" else (plan.rate,)
    centers = [float(read(np.array(rate), plan)) for rate in rates]
    worth = [_worth(rate, plan) for rate in rates]
    # Gradient of the read difference: rates count fully, a calibration only where it shifts what a fixed reference would read.
    steps = [(c * (1 - c) / n, sign) for c, n, sign in zip(centers, worth, (1, -1), strict=False)]
    errors = [] if plan.perfect or plan.design == "two" else [
        (plan.sensitivity * (1 - plan.sensitivity) / plan.positives, -plan.against), (plan.specificity * (1 - plan.specificity) / plan.negatives, 1 - plan.against)]
    scale = math.sqrt(sum(v * g * g for v, g in (*steps, *errors)))
    way = math.copysign(1, plan.against - plan.rate)

    def margin(s: float) -> float:
        moved = [c + way * s * v * g / scale for c, (v, g) in zip((*centers, plan.sensitivity, plan.specificity), (*steps, *(errors or [(0, 0)] * 2)), strict=True)]
        try:
            return _margin(plan, [min(1 - 1e-9, max(1e-9, each)) for each in moved[:-2]], worth, *(min(1.0, max(0.0, each)) for each in moved[-2:]))
        except CannotTell:  # so far from what is expected, the calibration would be refused: nothing is told
            return -1.0

    ends = np.linspace(-12, 40, 105)
    signs = [margin(float(s)) for s in ends]
    for left, right, before, after in zip(ends, ends[1:], signs, signs[1:], strict=False):
        if before > 0 >= after:
            return float(brentq(margin, left, right))
    return float(ends[-1]) if signs[0] > 0 else float(ends[0])


def _margin(plan: Plan, centers: list[float], worth: list[float], sensitivity: float, specificity: float) -> float:
    """By how much the interval of such a sample leaves out the null, in the direction of the true difference."""
    found = [own.score_interval(Mean(c, c * (1 - c) / n, plan.prompts - 1, 0), plan.level) for c, n in zip(centers, worth, strict=True)]
    up = plan.rate > plan.against
    if plan.design == "two":
        (p, low, high), (q, q_low, q_high) = found
        return p - q - math.hypot(p - low, q_high - q) if up else q - p - math.hypot(high - p, q - q_low)
    detector = None if plan.perfect else Detector(sensitivity, specificity, plan.positives, plan.negatives)
    read = found[0] if detector is None else detectors.corrected(found[0], detector, plan.level)
    return read.low - plan.against if up else plan.against - read.high


def _worth(rate: float, plan: Plan) -> float:
    """Independent images that carry as much as these: the read rate's binomial variance over its clustered one."""
    j = plan.sensitivity + plan.specificity - 1
    center = float(read(np.array(rate), plan))
    between = j * j * plan.icc * rate * (1 - rate)
    return center * (1 - center) / ((between + (center * (1 - center) - between) / plan.images) / plan.prompts)


def _prompt_rates(plan: Plan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both models' rates in a population of prompts, and the weight of each prompt: in `shared` of them the rates go together."""
    a, b = quantiles(plan.rate, plan.icc), quantiles(plan.against, plan.icc)
    n = len(a)
    weight = np.concatenate([np.full(n, plan.shared / n), np.full(n * n, (1 - plan.shared) / n**2)])
    return np.concatenate([a, np.repeat(a, n)]), np.concatenate([b, np.tile(b, n)]), weight


# --- planning ---------------------------------------------------------------------------------------------------------


def prompts_needed(plan: Plan, wanted: float = 0.8) -> int:
    """Fewest prompts with which the formula holds and reaches the power `wanted`; raises CannotTell where 20,000 do not."""
    def enough(prompts: int) -> bool:
        study = replace(plan, prompts=prompts)
        return min(expected(study)) >= CLEAR[plan.design] and formula(study) >= wanted

    if not enough(MOST):
        raise CannotTell(f"{MOST:,} prompts do not tell {plan.rate:.1%} from {plan.against:.1%} with power {wanted:.0%}: the event is too rare, or the calibration too small.")
    low, high = 2, MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def sentence(plan: Plan, found: Power) -> str:
    """The plan and its power in plain words."""
    sets = {"paired": "the same prompts and seeds for both models", "two": "two sets of prompts", "one": "one set of prompts against a fixed reference"}[plan.design]
    reader = "read without error" if plan.perfect else (
        f"read with sensitivity {plan.sensitivity:.0%} and specificity {plan.specificity:.0%} (calibrated on {plan.positives} + {plan.negatives} images)")
    return (f"{plan.prompts} prompts of {plan.images} images ({sets}; correlation within a prompt {plan.icc:g}), {reader}: "
            f"{plan.rate:.1%} is told from {plan.against:.1%} with power {found.power:.0%} ({found.method}).")


EXAMPLES = """
How many images, over how many prompts, to tell 30 % from 9 % with a detector of sensitivity 0.95 and specificity 0.88?

    harness power --rate 0.30 --against 0.09 --sensitivity 0.95 --specificity 0.88

More images of a prompt help little where they resemble each other (icc): the table shows what they are worth. A pilot of 20 prompts
gives an idea of icc; when in doubt, take 0.3. `--check` simulates the plan with the audit's own intervals.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``harness power``."""
    from harness import params

    params.add_arguments(parser, Plan)
    parser.add_argument("--wanted", type=float, default=0.8, help="power that the table of needed prompts aims at (default 0.8)")
    parser.add_argument("--check", action="store_true", help="hold the formula against a simulation of the plan")
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, EXAMPLES


def main(args: argparse.Namespace) -> int:
    """Print the power of the plan, and how many prompts it takes with fewer or more images of each."""
    from harness import params

    plan = params.from_args(Plan, args)
    if not 0.05 < args.wanted < 1:
        raise HarnessError(f"a power that can be wanted lies between 0.05 and 1, not at {args.wanted}.")
    print(sentence(plan, power(plan)))
    if args.check:
        print(f"simulated: {simulate(plan):.1%} of {CHECKS:,} studies; the formula says {formula(plan):.1%}")
    print(f"\nfor power {args.wanted:.0%}:\n  images of a prompt   prompts   images in all" + ("" if plan.design == "one" else ", of each"))
    for images in sorted({1, 2, 4, 8, 16, 32, plan.images}):
        prompts = prompts_needed(replace(plan, images=images), args.wanted)
        print(f"  {images:>18}   {prompts:>7,}   {images * prompts:>13,}")
    return 0
