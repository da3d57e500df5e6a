"""Intervals cover what they claim, bounds are the exact ones, ranks are exact."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats as truth

from harness import stats
from harness.errors import HarnessError


def clustered(rng: np.random.Generator, k: int, m: int, icc: float) -> tuple[np.ndarray, np.ndarray]:
    """k prompts of m images, mean 0, variance 1, share `icc` of it between prompts."""
    between = rng.normal(size=(k, 1)) * np.sqrt(icc)
    return (between + rng.normal(size=(k, m)) * np.sqrt(1 - icc)).ravel(), np.repeat(np.arange(k), m)


def covers(icc: float, k: int, by_image: bool) -> float:
    rng, hits, runs = np.random.default_rng(1), 0, 500
    for run in range(runs):
        values, prompts = clustered(rng, k, 10, icc)
        labels = np.arange(len(values)) if by_image else prompts
        _, low, high = stats.cluster_bootstrap(values, labels, seed=run, replicates=500)
        hits += low <= 0 <= high
    return hits / runs


@pytest.mark.parametrize("k", [12, 30])
def test_interval_by_prompt_covers(k: int) -> None:
    assert 0.92 <= covers(0.5, k, by_image=False) <= 0.98


def test_counting_images_one_by_one_would_not_cover() -> None:
    assert covers(0.5, 12, by_image=True) < 0.75


def test_bootstrap_is_deterministic_and_needs_two_clusters() -> None:
    values, prompts = clustered(np.random.default_rng(0), 12, 4, 0.3)
    assert stats.cluster_bootstrap(values, prompts) == stats.cluster_bootstrap(values, prompts)
    assert stats.cluster_bootstrap(values, prompts) != stats.cluster_bootstrap(values, prompts, seed=1)
    with pytest.raises(HarnessError, match="two or more clusters"):
        stats.cluster_bootstrap([1, 2, 3], ["a", "a", "a"])


@pytest.mark.parametrize("values, labels", [([1, np.nan], [0, 1]), ([1, 2], [0]), ([], [])])
def test_bad_rows_are_refused(values: list, labels: list) -> None:
    with pytest.raises(HarnessError):
        stats.cluster_bootstrap(values, labels)


def test_rates_are_exact() -> None:
    for k, n in [(1, 20), (30, 100), (19, 20)]:
        reference = truth.binomtest(k, n).proportion_ci(0.95, method="exact")
        assert stats.rate_interval(k, n)[1:] == pytest.approx((reference.low, reference.high), abs=1e-9)


def test_zero_events_are_a_bound() -> None:
    assert stats.zero_events_bound(300) == pytest.approx(1 - 0.05 ** (1 / 300))
    assert round(100 * stats.zero_events_bound(300), 2) == 0.99
    assert stats.rate_interval(0, 300) == (0, 0, stats.zero_events_bound(300))
    assert stats.rate_interval(300, 300).low == pytest.approx(1 - stats.zero_events_bound(300))
    with pytest.raises(HarnessError):
        stats.rate_interval(3, 2)


def test_clustered_rate_is_wider_than_the_naive_and_covers() -> None:
    rng, hits, naive, runs = np.random.default_rng(5), 0, 0, 1000
    prompts = np.repeat(np.arange(28), 8)
    for _ in range(runs):
        # beta(1/3, 1): mean 0.25, intra-cluster correlation 1 / (1 + 4/3) = 0.43
        events = rng.random(224) < np.repeat(rng.beta(1 / 3, 1, 28), 8)
        _, low, high = stats.clustered_rate(events, prompts)
        plain = stats.rate_interval(int(events.sum()), 224)
        hits += low <= 0.25 <= high
        naive += plain.low <= 0.25 <= plain.high
    assert 0.93 <= hits / runs <= 0.99
    assert naive / runs < 0.80


def test_clustered_rate_without_clustering_is_near_the_exact_one() -> None:
    events = np.random.default_rng(2).random(400) < 0.3
    ours, exact = stats.clustered_rate(events, np.arange(400)), stats.rate_interval(int(events.sum()), 400)
    assert ours == pytest.approx(exact, abs=0.005)
    assert stats.clustered_rate(np.zeros(300, bool), np.repeat(np.arange(30), 10)) == stats.rate_interval(0, 300)


def test_rank_counts_ties_against_the_claim() -> None:
    assert stats.permutation_rank(1.0, np.zeros(19)) == pytest.approx(0.05)
    assert stats.permutation_rank(1.0, [1.0] + [0.0] * 18) == pytest.approx(0.10)
    assert stats.permutation_rank(5, []) == 1
    assert [stats.controls_needed(a) for a in (0.05, 0.01, 0.1)] == [19, 99, 9]
    with pytest.raises(HarnessError):
        stats.permutation_rank(float("nan"), [0.0])


def test_rank_is_uniform_under_the_null() -> None:
    draws = np.random.default_rng(3).normal(size=(2000, 20))
    p = [stats.permutation_rank(row[0], row[1:]) for row in draws]
    assert 0.035 <= np.mean(np.asarray(p) <= 0.05) <= 0.065


def test_sign_flips_enumerate_and_agree_with_scipy() -> None:
    values, prompts = clustered(np.random.default_rng(4), 9, 3, 0.2)
    values = values + 0.5
    sums = values.reshape(9, 3).sum(1)
    every = [abs(np.dot(s, sums)) >= abs(sums.sum()) - 1e-9 for s in itertools.product([-1, 1], repeat=9)]
    assert stats.sign_flip_p(values, prompts) == pytest.approx(np.mean(every))
    many, labels = clustered(np.random.default_rng(6), 40, 5, 0.2)
    expected = truth.ttest_1samp((many + 0.15).reshape(40, 5).mean(1), 0).pvalue
    assert stats.sign_flip_p(many + 0.15, labels) == pytest.approx(expected, abs=0.03)
    assert stats.sign_flip_p([0, 0, 0], [1, 2, 3]) == 1


def test_no_change_is_a_bound_and_few_changes_are_conservative() -> None:
    prompts, nothing = np.repeat(np.arange(30), 10), np.zeros(300, bool)
    bound = stats.rate_interval(0, 300, 0.975).high
    assert stats.share_difference(nothing, nothing, prompts) == pytest.approx((0, -bound, bound))
    rng, hits = np.random.default_rng(9), 0
    for _ in range(300):
        base = rng.random(120) < 0.3
        tuned = base ^ (~base & (rng.random(120) < 0.04 / 0.7))
        _, low, high = stats.share_difference(tuned, base, np.repeat(np.arange(12), 10))
        hits += low <= 0.04 <= high
    assert hits >= 0.95 * 300


def test_many_changes_take_the_bootstrap() -> None:
    prompts, rng = np.repeat(np.arange(40), 5), np.random.default_rng(2)
    base, tuned = rng.random(200) < 0.3, rng.random(200) < 0.6
    assert stats.share_difference(tuned, base, prompts) == stats.paired_contrast(tuned, base, prompts)


def test_holm_by_hand() -> None:
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


@pytest.mark.parametrize("background, rank", [(32, 1), (200, 2)])
def test_exceedances_of_alike_scores_are_seldom_called(background: int, rank: int) -> None:
    rng, n, called, runs = np.random.default_rng(7), 100, 0, 3000
    for _ in range(runs):
        scores = rng.normal(size=background + n)
        threshold = np.sort(scores[:background])[-rank]
        called += stats.exceedance_p((scores[background:] > threshold).sum(), n, rank, background) <= 0.05
    assert called / runs <= 0.06
    assert stats.exceedance_p(n, n, rank, background) < 1e-6
    assert stats.exceedance_p(0, n, rank, background) == 1


def test_a_finding_refuses_nonsense() -> None:
    good = stats.cannot_tell("style", "artist-07", "too few prompts", n=3)
    assert list(stats.table([good]).columns) == (
        "question subject estimate low high level n clusters floor power p_value calibration domain verdict abstained why".split())
    for bad in ({"verdict": "proven"}, {"estimate": float("nan")}, {"estimate": 1.0, "low": 2.0, "high": 3.0}):
        with pytest.raises(HarnessError):
            good.but(**bad)
