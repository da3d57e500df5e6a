"""Intervals for clustered, crossed and rare events cover what they claim, and say which form they took."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special
from scipy import stats as truth

from harness import stats
from harness.errors import HarnessError
from harness.inference import CannotTell, intervals

RUNS = 400


def beta_binomial(rng: np.random.Generator, rate: float, icc: float, k: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    p = np.full(k, rate) if icc == 0 else rng.beta(rate * (1 - icc) / icc, (1 - rate) * (1 - icc) / icc, k)
    return (rng.random((k, m)) < p[:, None]).ravel(), np.repeat(np.arange(k), m)


def crossed(rng: np.random.Generator, k: int, s: int, a: float, b: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    y = rng.normal(size=(k, 1)) * a**0.5 + rng.normal(size=(1, s)) * b**0.5 + rng.normal(size=(k, s)) * (1 - a - b) ** 0.5
    return y.ravel(), np.repeat(np.arange(k), s), np.tile(np.arange(s), k)


@pytest.mark.parametrize("rate, icc", [(0.1, 0.3), (0.3, 0.0), (0.9, 0.3)])
def test_a_rate_covers_where_events_are_common(rate: float, icc: float) -> None:
    rng = np.random.default_rng(1)
    found = [intervals.rate(*beta_binomial(rng, rate, icc, 60, 8)) for _ in range(RUNS)]
    assert 0.92 <= np.mean([f.low <= rate <= f.high for f in found]) <= 0.98
    assert np.mean([f.form == intervals.SCORE for f in found]) > 0.9


@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_a_rare_rate_is_conservative_and_says_so_where_the_effective_number_is_too_short(rate: float) -> None:
    rng, k, m = np.random.default_rng(2), 30, 10
    drawn = [beta_binomial(rng, rate, 0.5, k, m) for _ in range(RUNS)]
    found = [intervals.rate(*each) for each in drawn]
    assert np.mean([f.low <= rate <= f.high for f in found]) >= 0.95
    assert np.mean([f.form == intervals.CONSERVATIVE for f in found]) > 0.8
    by_image = [stats.clustered_rate(*each) for each in drawn]
    assert np.mean([f.low <= rate <= f.high for f in by_image]) < 0.93


def test_a_smaller_granted_correlation_shortens_the_conservative_form() -> None:
    flags, prompts = np.arange(300) < 2, np.repeat(np.arange(30), 10)
    wide, narrow = (intervals.rate(flags, prompts, icc=icc) for icc in (1.0, 0.0))
    assert wide[1:3] == pytest.approx(stats.rate_interval(0.2, 30)[1:]) and narrow[1:3] == pytest.approx(stats.rate_interval(2, 300)[1:])
    none = intervals.rate(np.zeros(300, dtype=bool), prompts)
    assert (none.low, none.high) == (0, pytest.approx(1 - 0.025 ** (1 / 30)))
    with pytest.raises(HarnessError, match="between 0 and 1"):
        intervals.rate(flags, prompts, icc=2)


def test_prompts_that_are_all_alike_by_chance_have_no_empty_interval() -> None:
    found = intervals.rate([True, False] * 20, np.repeat(np.arange(20), 2))
    assert found.form == intervals.CONSERVATIVE and found.low < 0.3 < 0.7 < found.high


@pytest.mark.parametrize("a, b", [(0.0, 0.0), (0.3, 0.3), (0.0, 0.4)])
def test_crossed_seeds_cover_and_one_way_does_not(a: float, b: float) -> None:
    rng, both, one = np.random.default_rng(3), [], []
    for _ in range(RUNS):
        values, prompts, seeds = crossed(rng, 30, 12, a, b)
        for covered, found in ((both, intervals.cluster_t(values, prompts, seeds)), (one, intervals.cluster_t(values, prompts))):
            covered.append(found.low <= 0 <= found.high)
    assert 0.92 <= np.mean(both) <= 0.985
    assert b == 0 or np.mean(one) < 0.8


def test_a_crossed_rate_covers() -> None:
    rng, covered = np.random.default_rng(4), []
    for _ in range(RUNS):
        values, prompts, seeds = crossed(rng, 30, 20, 0.2, 0.2)
        found = intervals.rate(values < special.ndtri(0.3), prompts, seeds)
        covered.append(found.low <= 0.3 <= found.high)
    assert 0.92 <= np.mean(covered) <= 0.98


def test_a_balanced_grid_has_the_variance_of_its_mean_squares() -> None:
    values, prompts, seeds = crossed(np.random.default_rng(5), 20, 15, 0.3, 0.3)
    y = values.reshape(20, 15)
    residual = y - y.mean(axis=0) - y.mean(axis=1, keepdims=True) + y.mean()
    squares = 15 * y.mean(axis=1).var(ddof=1) + 20 * y.mean(axis=0).var(ddof=1) - (residual**2).sum() / (19 * 14)
    assert intervals.mean(values, prompts, seeds).variance == pytest.approx(squares / 300)


def test_one_way_equals_the_t_interval_of_cluster_means() -> None:
    values = np.random.default_rng(6).normal(size=(12, 5))
    found, t = intervals.cluster_t(values.ravel(), np.repeat(list("abcdefghijkl"), 5)), truth.ttest_1samp(values.mean(axis=1), 0).confidence_interval()
    assert found[1:] == pytest.approx((t.low, t.high))


def test_one_large_prompt_costs_degrees_of_freedom() -> None:
    prompts = [0] * 100 + list(range(1, 11))
    assert intervals.mean(np.arange(110.0), prompts).df == 1.0
    assert intervals.mean(np.arange(110.0), np.repeat(np.arange(11), 10)).df == pytest.approx(10)


def test_a_grid_that_is_half_empty_or_filled_twice_is_refused() -> None:
    with pytest.raises(CannotTell, match="at least half"):
        intervals.mean(np.arange(6.0), [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5])
    with pytest.raises(HarnessError, match="average them first"):
        intervals.mean([1.0, 2.0, 3.0], [0, 0, 1], [0, 0, 1])


@pytest.mark.parametrize("values, labels, said", [([1, np.nan], [0, 1], "not a number"), ([1, 2], [0], "one label"), ([1, 2], [0, 0], "two or more"), ([], [], "no value")])
def test_bad_rows_are_refused(values: list, labels: list, said: str) -> None:
    for function in (intervals.cluster_t, intervals.bootstrap):
        with pytest.raises(HarnessError, match=said):
            function(values, labels)


def test_score_is_wilsons() -> None:
    for k, n in [(0, 20), (3, 50), (49, 50)]:
        known = truth.binomtest(k, n).proportion_ci(method="wilson")
        assert intervals.score(k, n)[1:] == pytest.approx((known.low, known.high), abs=1e-12)


def test_the_fast_bootstrap_is_the_plain_one() -> None:
    rng = np.random.default_rng(7)
    values, prompts = rng.normal(size=200) + np.repeat(rng.normal(size=25), 8), np.repeat(np.arange(25), 8)
    ragged = np.sort(rng.integers(0, 25, 200))
    for labels in (prompts, ragged):
        mine, plain = intervals.bootstrap(values, labels, replicates=20_000), stats.cluster_bootstrap(values, labels, replicates=20_000)
        assert mine == pytest.approx(plain, abs=0.02)
    assert intervals.bootstrap(values, prompts) == intervals.bootstrap(values, prompts) != intervals.bootstrap(values, prompts, seed=1)


def test_the_pivot_covers_skewed_scores_better_than_the_percentile() -> None:
    rng, covered = np.random.default_rng(8), {"pivot": [], "percentile": []}
    for seed in range(300):
        values, prompts = np.exp(1.2 * rng.normal(size=30)), np.arange(30)
        for name, function in (("pivot", intervals.pivotal_bootstrap), ("percentile", intervals.bootstrap)):
            found = function(values, prompts, seed=seed, replicates=499)
            covered[name].append(found.low <= np.exp(0.72) <= found.high)
    assert np.mean(covered["pivot"]) > 0.90 and np.mean(covered["pivot"]) > np.mean(covered["percentile"]) + 0.02
    with pytest.raises(CannotTell, match="ten or more"):
        intervals.pivotal_bootstrap([1, 2, 3], [0, 1, 2])
