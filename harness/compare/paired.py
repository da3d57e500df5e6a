"""Two runs' findings, held against each other: pair by pair where prompts and seeds are shared, else by their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from harness import stats
from harness.runs.rows import problems
from harness.stats import Finding, Interval

if TYPE_CHECKING:
    import pandas as pd

DIFFERS, NOISE, UNSURE, SAME = "differs", "inside the noise", "cannot tell", "the same"
KEY = ["prompt", "seed"]
MIN_SEEDS = 3
"""Below this many seeds that serve several prompts nobody can tell what belongs to the seeds."""
ROUNDING = 1e-9
"""Widths below this share of the largest change are rounding, and stand for no width at all."""


@dataclass(frozen=True)
class Contrast:
    """One finding in two runs: B minus A."""

    question: str
    """which audit asked"""
    subject: str
    """whom or what it is about; `x → y` where the two runs ask about different ones"""
    a: float | None
    """A's estimate, over all of its pictures"""
    b: float | None
    """B's estimate, over all of its pictures"""
    estimate: float | None = None
    """mean of B minus A over the shared pairs; unpaired: difference of the estimates"""
    low: float | None = None
    """lower end of its interval"""
    high: float | None = None
    """upper end of its interval"""
    pairs: int = 0
    """prompts with a seed that both runs have values for; 0: unpaired"""
    prompts: int = 0
    """prompts among them; unpaired: the fewer prompts of the two"""
    p: float | None = None
    """p of no difference, adjusted for the number of findings (Holm); unpaired: read off the two intervals"""
    says: str = UNSURE
    """differs, inside the noise, the same (every value of every pair), cannot tell"""
    why: str = ""
    """what that rests on"""

    @property
    def paired(self) -> bool:
        """Whether it rests on shared prompts and seeds."""
        return self.pairs > 0


def contrasts(findings: Sequence[Sequence[Finding]], rows: Sequence[pd.DataFrame], level: float = 0.95) -> list[Contrast]:
    """B minus A of every finding that both runs have; `findings` and `rows` are those of A first and then of B."""
    found = []
    for pair in partners(*findings):
        subject = " → ".join(dict.fromkeys(f.subject for f in pair))
        bare = Contrast(pair[0].question, subject, pair[0].estimate, pair[1].estimate)
        if bare.a is None or bare.b is None:
            found.append(replace(bare, why=f"{'A' if bare.a is None else 'B'} has no number for it."))
            continue
        mine = [_of(table, f) for table, f in zip(rows, pair, strict=True)]
        sound = all(len(t) and not problems(t, [(f.question, f.subject, f.estimate)]) for t, f in zip(mine, pair, strict=True))
        shared = mine[0].merge(mine[1], on=KEY, suffixes=("_a", "_b")) if sound else []
        found.append(_paired(bare, shared, [len(t) for t in mine], level) if len(shared) else _unpaired(bare, *pair, sound, level))
    return _judged(found, level)


def partners(a: Sequence[Finding], b: Sequence[Finding]) -> Iterable[tuple[Finding, Finding]]:
    """Findings of the same question and subject, and the only ones of a question that is asked of one subject on each side."""
    theirs = {(f.question, f.subject): f for f in b}
    for one in a:
        only = all([f.question for f in side].count(one.question) == 1 for side in (a, b))
        other = theirs.get((one.question, one.subject)) or next((f for f in b if only and f.question == one.question), None)
        if other is not None:
            yield one, other


def _of(table: pd.DataFrame, finding: Finding) -> pd.DataFrame:
    """The rows of one finding; prompt and seed as text, since a table read back from a file has lost its types."""
    mine = table[(table["question"] == finding.question) & (table["subject"] == finding.subject)]
    return mine.assign(prompt=mine["prompt"].astype(str), seed=mine["seed"].astype(str)).reset_index(drop=True)


# --- pairs ------------------------------------------------------------------------------------------------------------


def _paired(bare: Contrast, shared: pd.DataFrame, counts: Sequence[int], level: float) -> Contrast:
    now, before = shared["value_b"].to_numpy(float), shared["value_a"].to_numpy(float)
    prompts = int(shared["prompt"].nunique())
    part = "" if {*counts} == {len(shared)} else f"{len(shared)} shared pairs of {counts[0]} in A and {counts[1]} in B."
    held = replace(bare, estimate=float((now - before).mean()), pairs=len(shared), prompts=prompts, why=part)
    if (now == before).all():
        held = replace(held, says=SAME, why=f"{part} Every value is the same.".strip())
    if prompts < 2:
        return held if held.says == SAME else replace(held, why=f"{part} Only 1 prompt is shared; an interval needs more.".strip())
    interval, p, how = difference(now, before, shared["prompt"], shared["seed"], level)
    held = replace(held, p=p, why=f"{held.why} {how}".strip())
    return replace(held, low=interval.low, high=interval.high) if interval else held


def difference(now: np.ndarray, before: np.ndarray, prompts: Sequence, seeds: Sequence,
               level: float = 0.95) -> tuple[Interval | None, float | None, str]:
    """Mean of now - before (n,) with its interval, its p, and a word on how: clustered by prompt, or by prompt and seed.

    Where a seed serves several prompts its noise is shared too, and the clusters are crossed; seeds of one prompt each
    lie inside the prompts. Values that are 0, 1 or -1 get exact bounds where few prompts changed, or few did not, and no
    bound beyond what such values can reach. Other changes that show no spread have no interval and no p: None, None.
    Where fewer than MIN_SEEDS seeds serve the prompts the p is None: an interval stands there, and nothing is concluded.
    """
    change, labels, draws = np.asarray(now - before, float), [str(p) for p in prompts], [str(s) for s in seeds]
    crossed = len({*zip(labels, draws)}) > len(set(draws)) > 1
    if crossed:
        (interval, p), how = crossed_mean(change, labels, draws, level), "Seeds serve several prompts, so the interval is clustered both ways."
        few = len(set(draws)) < MIN_SEEDS
        how += f" Only {len(set(draws))} seeds do, which is too few to tell how much other seeds would differ." if few else ""
    else:
        interval, p = stats.paired_contrast(now, before, labels, level), stats.sign_flip_p(change, labels)
        how = "All pairs share one seed, so the interval is about that seed." if len(set(draws)) == 1 else ""
    narrow = interval.high - interval.low <= ROUNDING * np.abs(change).max()
    if {*now, *before} <= {-1.0, 0.0, 1.0}:
        interval, more = _guarded(interval, narrow, now, before, labels, level)
        p = max(p, stats.sign_flip_p(change, labels))
        return interval, None if crossed and few else p, f"{more} {how}".strip()
    if not narrow:
        return interval, None if crossed and few else p, how
    alike = f"Between {'prompts or seeds' if crossed else 'prompts'} the change does not vary at all, so one cannot tell how wide the interval is."
    return None, None, alike if change.any() else ""


def _guarded(interval: Interval, narrow: bool, now: np.ndarray, before: np.ndarray, labels: Sequence[str], level: float) -> tuple[Interval, str]:
    """An interval of steps, with exact bounds where few prompts moved or few stayed, within what steps can reach."""
    reach, sides = 2.0 if min(now.min(), before.min()) < 0 else 1.0, []
    for moved, word, none in ((now != before, "changed", "no pair changed"), (now == before, "did not change", "every pair changed")):
        count = len({label for label, one in zip(labels, moved, strict=True) if one})
        sides += [f"only {count} prompt{'s' * (count > 1)} {word}" if count else none] if count < stats.MIN_CLUSTERS else []
    how = ""
    if sides or narrow:
        exact = _steps(now, before, labels, level)
        interval = Interval(interval.estimate, min(interval.low, exact.low), max(interval.high, exact.high))
        told = " and ".join(sides) or "the change does not vary"
        how = f"{told[0].upper()}{told[1:]}, so the bounds are exact ones."
    if interval.low < -reach or interval.high > reach:
        how = f"{how} They end at ±{reach:g}, which such values cannot leave." if how else f"The interval ends at ±{reach:g}, which such values cannot leave."
    return Interval(interval.estimate, max(interval.low, -reach), min(interval.high, reach)), how


def _steps(now: np.ndarray, before: np.ndarray, labels: Sequence[str], level: float) -> Interval:
    """Exact bounds of a mean change of values in {0, 1} or {-1, 0, 1}: a sum of steps gained less steps lost.

    Each step's rate has an interval on the effective sample size, all of them together at `level` (Bonferroni), as
    `stats.share_difference` does for one step. So no change at all is a bound and not a zero.
    """
    change, sizes = now - before, (1, 2) if min(now.min(), before.min()) < 0 else (1,)
    each = 1 - (1 - level) / (2 * len(sizes))
    gained = [_rate(change >= size, labels, each) for size in sizes]
    lost = [_rate(change <= -size, labels, each) for size in sizes]
    low = sum(g.low for g in gained) - sum(l.high for l in lost)
    return Interval(float(change.mean()), low, sum(g.high for g in gained) - sum(l.low for l in lost))


def _rate(events: np.ndarray, labels: Sequence[str], level: float) -> Interval:
    """A rate with exact bounds; where all pictures agree each prompt counts once, for how alike its pictures are is not seen."""
    if events.all() or not events.any():
        count = len(set(labels))
        return stats.rate_interval(count * bool(events.all()), count, level)
    return stats.clustered_rate(events, labels, level)


def crossed_mean(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], level: float = 0.95) -> tuple[Interval, float]:
    """Mean of values (n,) and its two-sided p, clustered both ways: by `rows` and by `columns` (n labels each).

    Variance by rows plus by columns minus by cells (Cameron, Gelbach, Miller, J. Bus. Econ. Stat. 29, 2011, section 2.3),
    never below either alone; t on the fewer clusters less one.
    """
    from scipy import stats as distributions

    by = [np.unique(labels, return_inverse=True)[1] for labels in (np.asarray(rows), np.asarray(columns))]
    counts = [int(index.max()) + 1 for index in by]
    cells = np.unique(np.stack(by), axis=1, return_inverse=True)[1].ravel()
    one, other, both = (_variance(values, index) for index in (*by, cells))
    error, freedom = math.sqrt(max(one + other - both, one, other)), min(counts) - 1
    mean, reach = float(values.mean()), float(distributions.t.ppf((1 + level) / 2, freedom)) * error
    p = 1.0 if mean == 0 else 0.0 if error == 0 else float(2 * distributions.t.sf(abs(mean) / error, freedom))
    return Interval(mean, mean - reach, mean + reach), p


def _variance(values: np.ndarray, index: np.ndarray) -> float:
    """Variance of the mean between the clusters that `index` names, with k / (k - 1)."""
    sums, k = np.bincount(index, weights=values - values.mean()), int(index.max()) + 1
    return float(k / (k - 1) * (sums**2).sum() / len(values) ** 2) if k > 1 else 0.0


# --- no pairs, and the last word --------------------------------------------------------------------------------------


def _unpaired(bare: Contrast, one: Finding, other: Finding, sound: bool, level: float) -> Contrast:
    """From the two intervals alone, as if the runs had nothing in common (Zou and Donner, Stat. Med. 27, 2008)."""
    reason = "no prompt and seed is shared" if sound else "its estimate is not the mean of values that both runs wrote down"
    held = replace(bare, estimate=bare.b - bare.a, prompts=min(one.clusters, other.clusters), why=f"Unpaired: {reason}.")
    ends = [one.low, one.high, other.low, other.high]
    if None in ends or {one.level, other.level} != {level}:
        return replace(held, why=held.why + f" The two intervals are not both there at {level:.0%}.")
    low = math.hypot(bare.b - ends[2], ends[1] - bare.a)
    high = math.hypot(ends[3] - bare.b, bare.a - ends[0])
    if min(low, high) <= ROUNDING * max(abs(bare.a), abs(bare.b)):
        return replace(held, why=held.why + " An interval without width says nothing of how wide the difference's is.")
    p = _read_off(held.estimate, low if held.estimate > 0 else high, held.prompts, level)
    return replace(held, low=held.estimate - low, high=held.estimate + high, p=p, why=held.why + " Its p is read off the two intervals.")


def _read_off(estimate: float, reach: float, prompts: int, level: float) -> float:
    """Two-sided p of an estimate whose interval reaches so far towards zero; t on the prompts less one."""
    from scipy import stats as distributions

    t = distributions.t(max(1, prompts - 1))
    return float(2 * t.sf(abs(estimate) / reach * t.ppf((1 + level) / 2)))


def _judged(found: Sequence[Contrast], level: float) -> list[Contrast]:
    """Adjusts the p values together, of pairs and of intervals, and says which differences are more than noise."""
    tested = [i for i, c in enumerate(found) if c.p is not None]
    adjusted = dict(zip(tested, stats.holm([found[i].p for i in tested]).tolist(), strict=True))
    return [_judge(replace(c, p=adjusted.get(i)), level) for i, c in enumerate(found)]


def _judge(c: Contrast, level: float) -> Contrast:
    if c.low is None or c.says == SAME:
        return c
    if c.prompts < stats.MIN_CLUSTERS:
        return replace(c, why=f"{c.why} Only {c.prompts} prompts; an interval needs at least {stats.MIN_CLUSTERS}.".strip())
    if c.p is None:
        return c
    beyond = (c.low > 0 or c.high < 0) and c.p <= 1 - level
    return replace(c, says=DIFFERS if beyond else NOISE)
