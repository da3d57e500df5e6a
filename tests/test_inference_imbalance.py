"""A fair population reads zero, an unfair one its true imbalance, and what cannot be corrected is shown."""

from __future__ import annotations

import numpy as np
import pytest

from harness.errors import HarnessError
from harness.inference import CannotTell, imbalance

RUNS = 400


def drawn(rng: np.random.Generator, off: float, scope: str, prompts: int = 30, images: int = 8) -> np.ndarray:
    """Two classes; every prompt off by so much, half of them either way, or all of them one way."""
    x = rng.binomial(images, 0.5 + off * (np.resize((1, -1), prompts) if scope == "prompts" else 1), prompts)
    return np.stack([x, images - x], axis=1)


@pytest.mark.parametrize("kind, scope", [("squared", "prompts"), ("root", "prompts"), ("entropy", "prompts"), ("variation", "overall"), ("squared", "overall")])
def test_fair_reads_zero_where_the_plain_measure_does_not(kind: str, scope: str) -> None:
    rng = np.random.default_rng(1)
    found = [imbalance.measure(drawn(rng, 0, scope), None, kind, scope, replicates=199) for _ in range(RUNS)]
    estimates, plain = np.array([f.interval.estimate for f in found]), np.mean([f.plain for f in found])
    assert abs(estimates.mean()) < 4 * estimates.std() / RUNS**0.5 + 0.003
    assert np.mean([f.p_value <= 0.05 for f in found]) <= 0.08
    assert plain == pytest.approx(np.mean([f.plain_floor for f in found]), abs=0.01)


def test_the_plain_floor_is_the_figure_that_a_fair_model_is_known_to_score() -> None:
    found = imbalance.measure(drawn(np.random.default_rng(2), 0, "prompts"), kind="variation")
    assert found.plain_floor == pytest.approx(0.137, abs=0.002)


@pytest.mark.parametrize("off", [0.1, 0.2, 0.3])
@pytest.mark.parametrize("kind, scope", [("root", "prompts"), ("variation", "overall")])
def test_a_true_imbalance_is_read(kind: str, scope: str, off: float) -> None:
    rng = np.random.default_rng(3)
    found = [imbalance.measure(drawn(rng, off, scope), None, kind, scope, replicates=199) for _ in range(RUNS)]
    assert np.mean([f.interval.estimate for f in found]) == pytest.approx(off, abs=0.015)
    assert np.mean([f.interval.low <= off <= f.interval.high for f in found]) > 0.9
    assert off < 0.2 or np.mean([f.p_value <= 0.05 for f in found]) > 0.9


def test_unfair_prompts_can_make_a_fair_whole() -> None:
    counts = np.array([[8, 0], [0, 8]] * 15)
    every, whole = (imbalance.measure(counts, None, "squared", scope) for scope in imbalance.SCOPES)
    assert every.interval.estimate == pytest.approx(0.5) and every.p_value < 0.01
    assert abs(whole.interval.estimate) < 0.02 and whole.p_value > 0.5


def test_more_classes_against_a_reference() -> None:
    rng, reference = np.random.default_rng(4), (0.6, 0.3, 0.1)
    fair, even = ([imbalance.measure(rng.multinomial(10, shares, 40), reference, "squared", replicates=199) for _ in range(200)] for shares in (reference, (1 / 3,) * 3))
    assert np.mean([f.interval.estimate for f in fair]) == pytest.approx(0, abs=0.004)
    assert np.mean([f.interval.estimate for f in even]) == pytest.approx(sum((1 / 3 - r) ** 2 for r in reference), abs=0.005)


@pytest.mark.parametrize("kind, most", [("entropy", 0.05), ("variation", 0.05)])
def test_what_bias_is_left_is_shown_and_is_a_bound(kind: str, most: float) -> None:
    rng = np.random.default_rng(5)
    for off in (0.05, 0.1, 0.4):
        found = [imbalance.measure(drawn(rng, off, "prompts"), kind=kind) for _ in range(RUNS)]
        p = np.array([0.5 + off, 0.5 - off])
        truth = off if kind == "variation" else 1 + (p * np.log2(p)).sum()
        estimates = np.array([f.interval.estimate for f in found])
        assert found[0].residual < most
        assert abs(estimates.mean() - truth) <= found[0].residual + 3 * estimates.std() / RUNS**0.5
    assert imbalance.measure(drawn(rng, 0, "prompts", images=40), kind=kind).residual < found[0].residual / 1.5


def test_prompts_of_different_sizes() -> None:
    rng, sizes = np.random.default_rng(6), np.resize((4, 8, 12), 30)
    x = rng.binomial(sizes, 0.5)
    found = imbalance.measure(np.stack([x, sizes - x], axis=1), kind="variation")
    assert found.interval.low < 0 < found.interval.high and found.plain > 0.1


def test_counts_come_from_rows() -> None:
    counts = imbalance.table(["a", "b", "a", "c"], ["p", "p", "q", "q"], ["a", "b", "c"])
    assert counts.tolist() == [[1, 1, 0], [1, 0, 1]]
    with pytest.raises(HarnessError, match="`cannot tell` is none"):
        imbalance.table(["a", "cannot tell"], ["p", "q"], ["a", "b"])


@pytest.mark.parametrize("given, said", [
    ({"kind": "gini"}, "not as gini"), ({"reference": (0.5, 0.6)}, "sum 1"), ({"reference": (0.3, 0.7), "kind": "entropy"}, "even shares"), ({"scope": "overall"}, "take variation")])
def test_what_has_no_meaning_is_refused(given: dict, said: str) -> None:
    with pytest.raises(HarnessError, match=said):
        imbalance.measure(np.full((30, 2), 4), **given)


@pytest.mark.parametrize("counts", [np.full((9, 2), 4), np.array([[1, 0]] * 30), np.full((15, 2), 4)])
def test_too_few_prompts_or_images_cannot_tell(counts: np.ndarray) -> None:
    with pytest.raises(CannotTell, match="or more prompts"):
        imbalance.measure(counts)
