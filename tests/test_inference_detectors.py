"""A detector's errors are taken out of a rate, its calibration's uncertainty is carried, and a useless one is refused."""

from __future__ import annotations

import numpy as np
import pytest

from harness.errors import HarnessError
from harness.inference import CannotTell, detectors, intervals
from harness.inference.detectors import Detector

READER = Detector(0.95, 0.88, 100, 100)
PROMPTS = np.repeat(np.arange(40), 8)


def read(rng: np.random.Generator, rate: float, icc: float = 0.2) -> np.ndarray:
    p = rng.beta(rate * (1 - icc) / icc, (1 - rate) * (1 - icc) / icc, 40)
    return (rng.random((40, 8)) < (p * 0.95 + (1 - p) * 0.12)[:, None]).ravel()


def again(rng: np.random.Generator) -> Detector:
    return Detector(rng.binomial(100, 0.95) / 100, rng.binomial(100, 0.88) / 100, 100, 100)


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_a_corrected_rate_covers_and_the_uncorrected_one_does_not(rate: float) -> None:
    rng, right, wrong = np.random.default_rng(1), [], []
    for _ in range(300):
        flags = read(rng, rate)
        found, plain = detectors.rate(flags, PROMPTS, again(rng)), intervals.rate(flags, PROMPTS)
        right.append(found.low <= rate <= found.high)
        wrong.append(plain.low <= rate <= plain.high)
    assert 0.92 <= np.mean(right) <= 0.985
    assert np.mean(wrong) < (0.05 if rate == 0.05 else 0.9)


def test_without_the_calibrations_uncertainty_it_would_not_cover() -> None:
    rng, sure = np.random.default_rng(2), []
    for _ in range(300):
        known = again(rng)
        found = detectors.rate(read(rng, 0.05), PROMPTS, Detector(known.sensitivity, known.specificity, 1e9, 1e9))
        sure.append(found.low <= 0.05 <= found.high)
    assert np.mean(sure) < 0.88


def test_the_estimate_is_rogan_and_gladens() -> None:
    flags = np.arange(320) % 4 == 0
    assert detectors.rate(flags, PROMPTS, READER).estimate == pytest.approx((0.25 + 0.88 - 1) / 0.83)
    assert detectors.rate(np.arange(320) % 20 == 0, PROMPTS, READER).estimate == 0
    perfect = detectors.rate(flags, PROMPTS, Detector(1, 1, 1e9, 1e9))
    assert perfect[:3] == pytest.approx(intervals.rate(flags, PROMPTS)[:3], abs=1e-6)


@pytest.mark.parametrize("reader, said", [((0.5, 0.5, 100, 100), "no better than chance"), ((0.9, 0.9, 5, 100), "label at least 10")])
def test_a_useless_calibration_is_refused(reader: tuple, said: str) -> None:
    with pytest.raises(CannotTell, match=said):
        Detector(*reader)
    with pytest.raises(HarnessError, match="between 0 and 1"):
        Detector(1.2, 0.9, 100, 100)


def test_a_detector_that_may_be_no_better_than_chance_is_refused() -> None:
    with pytest.raises(CannotTell, match="beyond doubt"):
        detectors.rate(np.arange(320) % 4 == 0, PROMPTS, Detector(0.6, 0.5, 20, 20))


def test_a_calibration_of_clustered_labels_counts_for_less() -> None:
    called = np.concatenate([np.repeat([True] * 16 + [False] * 4, 10), np.repeat([False] * 18 + [True] * 2, 10)])
    truth, artists = np.repeat([True, False], 200), np.repeat(np.arange(40), 10)
    alone, clustered = detectors.calibrated(truth, called), detectors.calibrated(truth, called, artists)
    assert (alone.sensitivity, alone.specificity, alone.positives) == (0.8, 0.9, pytest.approx(200, rel=0.01))
    assert 10 <= clustered.positives <= 20
    assert detectors.calibrated(truth, truth, artists).positives == 20  # nothing went wrong: an artist is one trial
    with pytest.raises(CannotTell, match="positives and negatives"):
        detectors.calibrated([True] * 20, [True] * 20)


@pytest.mark.parametrize("reader", [None, READER])
def test_a_paired_difference_covers(reader: Detector | None) -> None:
    rng, covered = np.random.default_rng(3), []
    for _ in range(300):
        tuned, base = read(rng, 0.35), read(rng, 0.1)
        found = detectors.paired_difference(tuned, base, PROMPTS, again(rng) if reader else None)
        covered.append(found.low <= (0.25 if reader else 0.25 * 0.83) <= found.high)
    assert 0.92 <= np.mean(covered) <= 0.985


def test_a_difference_of_two_sets_of_prompts_covers_and_is_divided_by_what_the_detector_leaves() -> None:
    rng, covered = np.random.default_rng(4), []
    for _ in range(300):
        a, b = read(rng, 0.35), read(rng, 0.1)
        found = detectors.difference(a, PROMPTS, b, PROMPTS + 100, READER)
        covered.append(found.low <= 0.25 <= found.high)
        assert found.estimate == pytest.approx((a.mean() - b.mean()) / 0.83)
    assert 0.92 <= np.mean(covered) <= 0.99


def test_no_change_is_a_bound_and_not_a_zero() -> None:
    nothing = np.zeros(320, dtype=bool)
    found = detectors.paired_difference(nothing, nothing, PROMPTS)
    assert found.form == intervals.CONSERVATIVE and found.low < -0.05 < 0.05 < found.high and found.estimate == 0
    one_way = detectors.paired_difference(np.arange(320) < 3, nothing, PROMPTS)
    assert one_way.low < 0 < one_way.estimate < one_way.high


def test_more_classes_are_corrected_and_stay_shares() -> None:
    rng, names = np.random.default_rng(5), ("light", "medium", "dark")
    matrix, truth = np.array([[0.9, 0.08, 0.02], [0.1, 0.8, 0.1], [0.02, 0.13, 0.85]]), np.array([0.7, 0.28, 0.02])
    confusion = {name: dict(zip(names, (row * 200).astype(int).tolist(), strict=True)) for name, row in zip(names, matrix, strict=True)}
    covered = []
    for _ in range(60):
        labels = [rng.choice(names, p=row @ matrix) for row in rng.dirichlet(truth * 5, 40) for _ in range(8)]
        found = detectors.inverse_confusion(labels, PROMPTS, confusion, replicates=299)
        assert sum(each.estimate for each in found.values()) == pytest.approx(1) and min(each.low for each in found.values()) >= 0
        covered += [found[name].low <= each <= found[name].high for name, each in zip(names, truth, strict=True)]
    assert np.mean(covered) > 0.9


def test_a_reader_that_confuses_everything_or_meets_a_new_class_is_refused() -> None:
    same = {"a": {"a": 50, "b": 50}, "b": {"a": 48, "b": 52}}
    with pytest.raises(CannotTell, match="merge those"):
        detectors.inverse_confusion(["a", "b"] * 160, PROMPTS, same)
    with pytest.raises(HarnessError, match="`c`, a class"):
        detectors.inverse_confusion(["a", "c"] * 160, PROMPTS, same)
    with pytest.raises(CannotTell, match="10 labelled"):
        detectors.inverse_confusion(["a", "b"] * 160, PROMPTS, {"a": {"a": 3}, "b": {"b": 50}})
