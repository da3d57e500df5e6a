"""Copies: planted ones are found and named, works that copy nothing are not, and the threshold's own error is said."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from drawn import ColourLayout, crossed, folder, portraits
from harness import stats
from harness.audit import copies, tiles
from harness.embed import embed
from harness.errors import HarnessError
from harness.images import ImageSet

TRAINED, PROMPTS, EACH = 24, 12, 4
WORKS = portraits(TRAINED, 1)


def see(images: ImageSet) -> object:
    return embed(images, ColourLayout(), progress=lambda event: None)


def flip(picture: Image.Image) -> Image.Image:
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def crop(picture: Image.Image) -> Image.Image:
    return picture.resize(picture.size, Image.Resampling.BICUBIC, box=(3, 1, 61, 59))


def jpeg(picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=40)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def recolour(picture: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(picture) * [0.75, 0.95, 0.8] + [30, 0, 10]).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageSet, ImageSet, Path]:
    root = tmp_path_factory.mktemp("copies")
    return folder(root / "training", WORKS), folder(root / "held", portraits(120, 2)), root


def audit(sets: tuple, name: str, planted: list[Image.Image]) -> pd.DataFrame:
    n = PROMPTS * EACH
    outputs = folder(sets[2] / name, planted + portraits(n - len(planted), 3), **crossed(PROMPTS, EACH))
    return copies.score(outputs, sets[0], sets[1], see)


@pytest.mark.parametrize("change", [flip, crop, jpeg, recolour])
def test_planted_copies_are_found_and_named(sets: tuple, change: Callable) -> None:
    rows = audit(sets, change.__name__, [change(w) for w in WORKS])
    flagged = copies.flag(rows).set_index("file")["flagged"]
    planted = [f"{i:05d}.png" for i in range(TRAINED)]
    assert flagged[planted].mean() >= 0.8
    assert flagged.drop(planted).mean() <= 0.05
    closest = rows[rows["group"] == "output"].set_index("file").loc[planted, "closest_work"]
    assert (closest == planted).mean() >= 0.95
    outputs = ImageSet(sets[2] / change.__name__, rows[rows["group"] == "output"])
    pairs = copies.gallery(rows, outputs, sets[0], 4)
    assert list(pairs["output"].table["file"]) == list(pairs["closest work"].table["file"])
    assert set(pairs["output"].table["file"]) <= set(planted)
    found = copies.finding(rows, "artist-31")
    assert found.verdict == "found" and found.low > found.floor
    assert found.low <= found.estimate <= found.high and (found.n, found.clusters) == (48, 12)


def test_where_nothing_is_planted_nothing_is_found(sets: tuple) -> None:
    rows = audit(sets, "none", [])
    found = copies.finding(rows, "artist-31")
    assert found.verdict in ("not found", "cannot tell") and found.p_value > 0.05
    quiet = rows[(rows["group"] == "held out") | (rows["score"] < copies.threshold(rows)[0])]
    zero = copies.finding(quiet, "artist-31")
    assert zero.verdict == "not found" and zero.estimate == 0
    assert zero.high == stats.zero_events_bound(zero.n)
    assert f"{stats.zero_events_bound(zero.clusters):.1%}" in zero.why
    assert "120 held-out works" in zero.why


def test_two_flagged_in_a_crowd_is_no_verdict(sets: tuple) -> None:
    rows = audit(sets, "none again", [])
    quiet = rows[(rows["group"] == "held out") | (rows["score"] < copies.threshold(rows)[0])]
    some = quiet.assign(score=quiet["score"].where(quiet.index != quiet.index[0], 99.0))
    found = copies.finding(some, "artist-31")
    assert found.verdict == "cannot tell" and "1 flagged" in found.why
    assert found.estimate == pytest.approx(1 / found.n)


def test_too_few_held_out_works_cannot_tell(sets: tuple) -> None:
    rows = audit(sets, "few", WORKS)
    few = rows[(rows["group"] == "output") | (rows.groupby("group").cumcount() < 18)]
    found = copies.finding(few, "artist-31")
    assert found.verdict == "cannot tell" and "at least 19" in found.why


def test_the_threshold_holds_its_false_alarm_rate() -> None:
    rng = np.random.default_rng(0)
    over = []
    for _ in range(400):
        rows = pd.DataFrame({"group": ["held out"] * 199, "score": rng.normal(size=199)})
        over.append((rng.normal(size=200) > copies.threshold(rows, 0.05)[0]).mean())
    assert np.mean(over) == pytest.approx(0.05, abs=0.004)
    assert copies.threshold(pd.DataFrame({"group": ["held out"] * 20, "score": range(20)}), 0.01) == (19.0, 1)


def test_a_repeated_work_does_not_hide_its_copies(sets: tuple, tmp_path: Path) -> None:
    repeated = folder(tmp_path / "repeated", WORKS[:23] + [WORKS[0]] * 6)
    outputs = folder(tmp_path / "outputs", [jpeg(WORKS[0])] * 12, **crossed(12, 1))
    rows = copies.score(outputs, repeated, sets[1], see)
    assert copies.flag(rows)["flagged"].all()
    assert len(copies.study(repeated, see(repeated)).names) == 23


def test_sets_that_overlap_or_are_too_small_are_refused(sets: tuple, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="were trained on"):
        copies.score(sets[1], sets[0], sets[0], see)
    with pytest.raises(HarnessError, match="at least 5 distinct"):
        copies.score(sets[1], folder(tmp_path / "same", [WORKS[0]] * 9), sets[1], see)


def test_masked_tiles_forgive_what_covers_a_quarter() -> None:
    pictures = np.stack([np.asarray(p) for p in WORKS])
    covered = pictures.copy()
    covered[:, 32:, :32] = 255
    alike = tiles.masked(covered, pictures, moved=False)
    assert (alike.argmax(axis=1) == np.arange(TRAINED)).mean() >= 0.9
    assert np.allclose(np.diag(tiles.masked(pictures, pictures, moved=False)), 1, atol=0.05)
    blank = np.full((1, 64, 64, 3), 200, np.uint8)
    assert tiles.masked(blank, pictures).max() < 0.1 and tiles.whole(blank, pictures).max() < 0.1
