"""One pass a picture, by content; nothing of another CLIP, nothing that is not a number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness import embed
from harness.errors import HarnessError
from harness.images import ImageSet, open_set
from drawn import ColourLayout, crossed, folder, portraits

QUIET = {"progress": lambda event: None}


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    return folder(tmp_path / "set", portraits(6, 0), **crossed(3, 2))


def test_each_picture_goes_through_once(images: ImageSet, tmp_path: Path) -> None:
    clip = ColourLayout()
    first = embed.embed(images, clip, tmp_path / "cache", **QUIET)
    again = embed.embed(images, clip, tmp_path / "cache", **QUIET)
    assert clip.calls == 6
    assert np.array_equal(first.vectors, again.vectors)
    assert first.sha256 == list(images.table["sha256"])
    assert np.allclose(first.vectors, clip.encode_images(list(images.decoded())))
    assert not list((tmp_path / "cache").glob("*.tmp"))


def test_the_key_is_the_content_not_the_name(images: ImageSet, tmp_path: Path) -> None:
    clip = ColourLayout()
    first = embed.embed(images, clip, tmp_path / "cache", **QUIET)
    renamed = folder(tmp_path / "renamed", list(images.decoded())[::-1], file=[f"x{i}.png" for i in range(6)])
    second = embed.embed(renamed, clip, tmp_path / "cache", **QUIET)
    assert clip.calls == 6
    assert np.array_equal(second.vectors, first.vectors[::-1])


def test_a_set_larger_than_one_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "BATCH", 4)
    monkeypatch.setattr(embed, "KEEP_EVERY", 4)
    clip, seen = ColourLayout(), []
    images = folder(tmp_path / "set", portraits(10, 3))
    result = embed.embed(images, clip, tmp_path / "cache", progress=seen.append)
    assert [event["step"] for event in seen] == [4, 8, 10]
    assert np.allclose(result.vectors, clip.encode_images(list(images.decoded())))


def test_a_changed_file_is_noticed(images: ImageSet) -> None:
    portraits(1, 99)[0].save(images.paths[2])
    with pytest.raises(HarnessError, match="changed since"):
        embed.embed(images, ColourLayout(), **QUIET)


def test_nan_and_unnormalised_vectors_are_refused(images: ImageSet) -> None:
    class Broken(ColourLayout):
        def encode_images(self, images: list, batch_size: int = 64) -> np.ndarray:
            return super().encode_images(images) * factor

    for factor in (np.nan, 2.0):
        with pytest.raises(HarnessError, match="not numbers|length 1"):
            embed.embed(images, Broken(), **QUIET)


def test_another_clips_vectors_are_refused(images: ImageSet, tmp_path: Path) -> None:
    class Other(ColourLayout):
        sha256 = "f" * 64

    mine, other = ColourLayout(), Other()
    embed.embed(images, mine, tmp_path / "cache", **QUIET)
    cache = next((tmp_path / "cache").glob("*.npz"))
    cache.rename(cache.with_name(f"clip-{other.sha256[:16]}.npz"))
    with pytest.raises(HarnessError, match="another CLIP"):
        embed.embed(images, other, tmp_path / "cache", **QUIET)


def test_a_damaged_cache_is_named(images: ImageSet, tmp_path: Path) -> None:
    clip = ColourLayout()
    embed.embed(images, clip, tmp_path / "cache", **QUIET)
    cache = next((tmp_path / "cache").glob("*.npz"))
    cache.write_bytes(cache.read_bytes()[:200])
    with pytest.raises(HarnessError, match="not an embeddings file"):
        embed.embed(images, clip, tmp_path / "cache", **QUIET)


def test_saved_vectors_come_back_with_prompts_and_seeds(images: ImageSet, tmp_path: Path) -> None:
    clip = ColourLayout()
    made = embed.embed(open_set(images.folder), clip, **QUIET)
    back = embed.load(embed.save(made, tmp_path / "control.npz"), clip)
    assert np.abs(back.vectors - made.vectors).max() < 1e-3
    assert list(back.table["prompt"]) == list(images.table["prompt"])
    assert [str(s) for s in images.table["seed"]] == list(back.table["seed"])
    assert len(back.where(np.arange(6) < 2)) == 2
