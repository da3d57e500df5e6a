"""Permutations are exact, families keep their error, raters' agreement is the published figure, ranks are those of scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats as truth

from harness import stats
from harness.errors import HarnessError
from harness.inference import CannotTell, agreement, multiple, permutation, ranks

# Four raters, twelve items, labels missing: K. Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), part C.
N = None
RATERS = ([1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N], [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3], [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N], [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N])


# --- permutation ------------------------------------------------------------------------------------------------------


def test_two_small_samples_are_counted_out() -> None:
    a, b = [1.0, 2.5, 3.0, 4.2], [5.0, 6.1, 2.0, 7.7, 8.0]
    found, pool = permutation.two_samples(a, b), np.array(a + b)
    gaps = [abs(pool[list(i)].mean() - np.delete(pool, list(i)).mean()) for i in itertools.combinations(range(9), 4)]
    assert found.exact and found.p_value == pytest.approx(np.mean(np.array(gaps) >= abs(found.estimate) - 1e-12)) and found.estimate == pytest.approx(np.mean(a) - np.mean(b))


def test_images_of_one_prompt_are_dealt_together() -> None:
    rng, by_image, by_prompt = np.random.default_rng(1), [], []
    for seed in range(120):
        a, b = (np.repeat(rng.normal(size=6), 6) + 0.3 * rng.normal(size=36) for _ in range(2))
        prompts = np.repeat(np.arange(6), 6)
        by_image.append(truth.ttest_ind(a, b).pvalue)
        by_prompt.append(permutation.two_samples(a, b, prompts, prompts, seed, 1999).p_value)
    assert np.mean(np.array(by_prompt) <= 0.05) <= 0.12 < 0.3 < np.mean(np.array(by_image) <= 0.05)


def test_large_samples_are_drawn_and_find_what_is_there() -> None:
    rng = np.random.default_rng(2)
    found = permutation.two_samples(rng.normal(1.5, 1, 30), rng.normal(0, 1, 30), replicates=999)
    assert not found.exact and found.p_value <= 0.01
    with pytest.raises(CannotTell, match="needs 20"):
        permutation.two_samples([1, 2], [3, 4, 5])


def test_association_is_weats() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 5, 8))
    x, y = rng.normal(size=(5, 8)) + a.mean(axis=0) * 2, rng.normal(size=(5, 8)) + b.mean(axis=0) * 2

    def unit(v: np.ndarray) -> np.ndarray:
        return v / np.linalg.norm(v, axis=1, keepdims=True)

    s = (unit(np.concatenate([x, y])) @ unit(a).T).mean(axis=1) - (unit(np.concatenate([x, y])) @ unit(b).T).mean(axis=1)
    splits = [s[list(i)].sum() - np.delete(s, list(i)).sum() for i in itertools.combinations(range(10), 5)]
    found = permutation.association(x, y, a, b)
    assert found.exact and found.estimate == pytest.approx((s[:5].mean() - s[5:].mean()) / s.std(ddof=1))
    assert found.p_value == pytest.approx(np.mean(np.array(splits) >= s[:5].sum() - s[5:].sum() - 1e-12))
    assert permutation.association(y, x, a, b).p_value > 0.5
    with pytest.raises(CannotTell, match="four or more"):
        permutation.association(x[:3], y[:3], a, b)


# --- many questions ---------------------------------------------------------------------------------------------------


def test_false_discovery_rates_are_the_textbooks() -> None:
    p = [0.01, 0.04, 0.03, 0.005, 0.5]
    assert multiple.benjamini_hochberg(p) == pytest.approx([0.025, 0.05, 0.05, 0.025, 0.5])
    assert multiple.benjamini_yekutieli(p) == pytest.approx(np.minimum(1, np.array([0.025, 0.05, 0.05, 0.025, 0.5]) * sum(1 / i for i in range(1, 6))))
    with pytest.raises(HarnessError, match="between 0 and 1"):
        multiple.benjamini_hochberg([0.1, np.nan])


def test_max_t_keeps_the_family_and_is_sharper_than_holm_where_questions_hang_together() -> None:
    rng, hits, sharper = np.random.default_rng(4), [], []
    for _ in range(300):
        draws = np.abs(0.95 * rng.normal(size=(200, 1)) + 0.31 * rng.normal(size=(200, 10)))
        adjusted = multiple.max_t(draws[0], draws[1:])
        hits.append(adjusted.min() <= 0.05)
        raw = [(1 + (draws[1:, j] >= draws[0, j]).sum()) / 200 for j in range(10)]
        sharper.append((adjusted <= stats.holm(raw) + 1e-9).mean())
    assert np.mean(hits) <= 0.08 and np.mean(sharper) > 0.9


def test_max_t_orders_and_refuses() -> None:
    null = np.random.default_rng(5).normal(size=(99, 3))
    adjusted = multiple.max_t([0.0, 9.0, 1.0], null)
    assert adjusted[1] == 0.01 < adjusted[2] <= adjusted[0]
    with pytest.raises(CannotTell, match="19 are needed"):
        multiple.max_t([1.0, 2.0, 3.0], null[:18])
    with pytest.raises(HarnessError, match="one column"):
        multiple.max_t([1.0], null)


def test_signs_are_flipped_for_all_questions_alike() -> None:
    rng, false = np.random.default_rng(6), []
    prompts = np.repeat(np.arange(12), 5)
    for seed in range(200):
        common = np.repeat(rng.normal(size=(12, 1)), 5, axis=0) + 0.5 * rng.normal(size=(60, 6))
        false.append(multiple.sign_flips_together(common, prompts, seed, 499).min() <= 0.05)
    assert np.mean(false) <= 0.09
    planted = multiple.sign_flips_together(common + np.array([0, 0, 3, 0, 0, 0]), prompts)
    assert planted[2] < 0.01
    with pytest.raises(CannotTell, match="six or more"):
        multiple.sign_flips_together(common[:20], prompts[:20])


# --- agreement --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale, alpha", [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_is_the_published_one(scale: str, alpha: float) -> None:
    found = agreement.krippendorff(list(zip(*RATERS, strict=True)), scale)
    assert found.estimate == pytest.approx(alpha, abs=0.0005) and found.low < found.estimate <= found.high


def test_kappas_are_the_textbooks() -> None:
    a, b = np.repeat(["yes", "yes", "no", "no"], (20, 5, 10, 15)), np.repeat(["yes", "no", "yes", "no"], (20, 5, 10, 15))
    assert agreement.cohen(a, b).estimate == pytest.approx(0.4)
    # Ten items, fourteen raters, five classes: J. L. Fleiss's method on a worked example that is often reprinted, kappa 0.210.
    counts = [[0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1], [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]]
    assert agreement.fleiss([np.repeat(range(5), row).tolist() for row in counts]).estimate == pytest.approx(0.210, abs=0.0005)


def test_raters_who_guess_do_not_agree_and_clusters_widen() -> None:
    rng = np.random.default_rng(7)
    guessed = agreement.cohen(rng.integers(0, 3, 300), rng.integers(0, 3, 300))
    assert guessed.low < 0 < guessed.high
    first, sides = np.repeat(rng.integers(0, 2, 20), 10), np.repeat(np.arange(20), 10)
    second = np.where(np.repeat(rng.random(20) < 0.3, 10), 1 - first, first)
    alone, clustered = agreement.cohen(first, second), agreement.cohen(first, second, sides)
    assert clustered.high - clustered.low > 2 * (alone.high - alone.low)


def test_agreement_that_has_no_meaning_is_refused() -> None:
    with pytest.raises(CannotTell, match="one class"):
        agreement.cohen(["a"] * 20, ["a"] * 20)
    with pytest.raises(CannotTell, match="10 or more"):
        agreement.cohen(["a", "b"], ["a", "b"])
    with pytest.raises(HarnessError, match="some are missing"):
        agreement.fleiss([[1, 2, None]] * 20)
    with pytest.raises(CannotTell, match="two labels"):
        agreement.krippendorff([[1, None]] * 20)


# --- ranks ------------------------------------------------------------------------------------------------------------


def test_auc_covers_by_artist_and_would_not_by_item() -> None:
    rng, covered, artists = np.random.default_rng(8), {"artist": [], "item": []}, np.repeat(np.arange(20), 10)
    for _ in range(300):
        a, b = (np.repeat(rng.normal(size=20), 10) * 0.7 + rng.normal(size=200) * 0.714 for _ in range(2))
        for name, labels in (("artist", (artists, artists + 20)), ("item", (None, None))):
            found = ranks.auc(a + 1, b, *labels)
            covered[name].append(found.low <= truth.norm.cdf(2**-0.5) <= found.high)
    assert 0.91 <= np.mean(covered["artist"]) <= 0.985 and np.mean(covered["item"]) < 0.8


def test_auc_is_that_of_the_rank_sum_and_perfect_is_a_bound() -> None:
    a, b = [3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5]
    assert ranks.auc(a, b).estimate == pytest.approx(truth.mannwhitneyu(a, b).statistic / 30)
    perfect = ranks.auc(range(10, 20), range(10))
    assert perfect[0] == perfect[2] == 1 and perfect.low == pytest.approx(1 - stats.zero_events_bound(10))
    with pytest.raises(CannotTell, match="5 or more"):
        ranks.auc([1, 2, 3], [4, 5, 6])


def test_a_better_score_is_better_and_an_equal_one_is_not() -> None:
    rng, covered = np.random.default_rng(9), []
    for _ in range(200):
        a, b = rng.normal(0.8, 1, 60), rng.normal(size=60)
        same = ranks.auc_difference((a + rng.normal(size=60), a + rng.normal(size=60)), (b + rng.normal(size=60), b + rng.normal(size=60)))
        covered.append(same.low <= 0 <= same.high)
    assert 0.9 <= np.mean(covered) <= 0.99
    better = ranks.auc_difference((a * 1.0, rng.normal(size=60)), (b * 1.0, rng.normal(size=60)))
    assert better.low > 0


def test_rank_correlation_is_exact_when_small() -> None:
    x, y = [1, 2, 3, 4, 5, 6], [2, 1, 4, 3, 6, 5]
    orders = [truth.spearmanr(x, each).statistic for each in itertools.permutations(y)]
    found = ranks.spearman(x, y)
    assert found.p_value == pytest.approx(np.mean(np.abs(orders) >= abs(found.estimate) - 1e-9), abs=0.01) and (found.low, found.high) == (-1, 1)
    assert ranks.spearman(range(12), range(12)).low < 1
    with pytest.raises(CannotTell, match="that vary"):
        ranks.spearman([1, 1, 1, 1, 1], range(5))
