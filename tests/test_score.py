"""The measures behind `harness world score`: each with something planted and with nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd

from harness.trials import score
from harness.world import judge
from harness.world.artists import base_artists


def features(n: int, shift: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (n, 16)).astype(np.float32)


def test_kernel_distance_is_unbiased_and_sees_a_shift() -> None:
    """Two samples of one distribution: zero on average, above and below; a shift: far above."""
    same = [judge.kernel_distance(features(40, 0, 2 * i), features(40, 0, 2 * i + 1)) for i in range(200)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(len(same)) and min(same) < 0 < max(same)
    assert judge.kernel_distance(features(40, 0, 1), features(40, 1, 2)) > 10 * np.std(same)


def test_copies_of_training_portraits_are_nearer_and_others_are_not() -> None:
    train, held, fresh = features(200, 0, 1), features(200, 0, 2), features(200, 0, 3)
    assert abs(score._nearer(fresh, held, train).mean() - 0.5) < 0.1
    assert score._nearer(train[:50] + 0.01, held, train).mean() > 0.99


def test_labels_leave_out_what_a_style_does_not_say_and_what_cannot_be_seen() -> None:
    assert judge.label("facial_hair", "stubble") == judge.label("skin", "unknown") == -1
    assert [judge.label("glasses", v) for v in ("none", "glasses", "sunglasses")] == [0, 1, 1]
    assert [judge.label("skin", v) for v in ("light", "medium", "dark")] == [0, 1, 2]


def test_a_rate_meets_its_bar_by_its_estimate_and_shows_its_interval() -> None:
    line = score.rate("x", [True] * 19 + [False], 0.95)
    assert line.reached and line.estimate == 0.95 and line.low < 0.80 and line.n == 20
    assert not score.rate("x", [True] * 18 + [False] * 2, 0.95).reached


def test_a_clustered_rate_is_wider() -> None:
    right = np.repeat([True, True, True, False], 25)
    alone, together = score.rate("x", right, None), score.rate("x", right, None, np.repeat(range(4), 25))
    assert together.high - together.low > 1.5 * (alone.high - alone.low)


def test_requests_ask_only_for_what_a_style_can_say() -> None:
    asked = score.requests(12)
    assert len(asked) == 12 * len(base_artists())
    line_art = asked[asked.artist == "artist-04"]
    assert set(line_art.skin) == {"unknown"} and set(line_art.glasses) == {"glasses", "none"}
    assert all(("glasses" in p) == (g != "unknown") for p, g in zip(asked.prompt, asked.glasses))
    assert set(asked[asked.artist == "artist-06"].skin) == {"light", "medium", "dark"}


def test_the_table_prints_what_missed_its_bar() -> None:
    lines = [score.Line("a", 0.5, 0.4, 0.6, 10, "≥ 0.90", False), score.Line("b", 30.0, None, None, 5, "", None)]
    told = score.markdown(lines)
    assert "| a | 0.5 | 0.4 – 0.6 | 10 | ≥ 0.90 | no |" in told and "| b | 30 |  | 5 |  |  |" in told
    assert isinstance(score.frame(lines), pd.DataFrame) and len(score.frame(lines)) == 2
