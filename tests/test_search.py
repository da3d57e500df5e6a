"""Exact, from the disk, each picture once; and whatever is wrong with an index is said."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
from PIL import Image

from harness import models
from harness.audit import search
from harness.consent import files, scrub
from harness.embed import Embeddings, embed
from harness.errors import HarnessError
from harness.images import ImageSet, open_set
from drawn import ColourLayout, folder, portraits


def quiet(event: object) -> None:
    pass


def unit(n: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, dim), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def names(n: int) -> list[str]:
    return [hashlib.sha256(str(i).encode()).hexdigest() for i in range(n)]


class Numbers:
    """Stands for a CLIP where no picture is looked at."""

    sha256, dim, logit_scale = "a" * 64, 16, 1.0


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    made = folder(tmp_path / "set", portraits(11, 0))
    (tmp_path / "set" / "samples.csv").unlink()
    (tmp_path / "set" / "twice.png").write_bytes(made.paths[2].read_bytes())
    return open_set(tmp_path / "set")


@pytest.mark.parametrize("rows", [1, 7, 64, 5000])
def test_blocks_of_any_size_give_the_answers_of_faiss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(search, "BLOCK", 64)
    vectors, asked = unit(1000), unit(30, seed=1)
    flat = faiss.IndexFlatIP(16)
    flat.add(vectors)
    for start in range(0, 1000, max(rows, 100)):
        search.write(tmp_path, Embeddings(vectors[start:start + max(rows, 100)], names(1000)[start:start + max(rows, 100)], Numbers.sha256))
    index = search.open_index(tmp_path, Numbers())
    pieces = search.Index(tuple(search.Block(vectors[i:i + rows]) for i in range(0, 1000, rows)), index.sha256, Numbers.sha256, 16)
    truth, order = flat.search(asked, 9)
    kept = search.nearest(asked, index, 9)
    assert [index.names(row) for row in kept.rows] == [[names(1000)[i] for i in row] for row in order]
    assert np.allclose(kept.cosines, truth, atol=1e-6)
    for held in (pieces, vectors):
        assert np.array_equal(search.nearest(asked, held, 9).rows, order)


def test_a_folder_of_which_only_some_pictures_are_asked(tmp_path: Path) -> None:
    vectors, every = unit(300), names(300)
    for start in range(0, 300, 100):
        search.write(tmp_path, Embeddings(vectors[start:start + 100], every[start:start + 100], Numbers.sha256))
    wanted = np.random.default_rng(3).permutation(300)[:40]
    index = search._only(search.open_index(tmp_path, Numbers()), np.unique(search._digests([every[i] for i in wanted])))
    found = search.nearest(unit(5, seed=2), index, 40)
    assert {name for name in index.names(found.rows[0])} == {every[i] for i in wanted}
    assert index.names(found.rows[:, 0]) == [every[wanted[i]] for i in (unit(5, seed=2) @ vectors[wanted].T).argmax(axis=1)]
    assert np.array_equal(index.vectors(index.find([every[wanted[7]], every[wanted[3]]])), vectors[wanted[[7, 3]]])
    with pytest.raises(HarnessError, match="not in the index"):
        index.find(["0" * 64])


def test_a_picture_that_two_files_hold_counts_once(tmp_path: Path) -> None:
    vectors, every = unit(60), names(60)
    for part in (slice(0, 40), slice(20, 60)):
        search.write(tmp_path, Embeddings(vectors[part], every[part], Numbers.sha256))
    index = search.open_index(tmp_path, Numbers())
    some = search._only(index, np.unique(search._digests(every[10:50])))
    assert (len(index), len(some)) == (60, 40)
    for held, wanted in ((index, every), (some, every[10:50])):
        assert np.array_equal(held.vectors(held.find(wanted)), vectors[[every.index(name) for name in wanted]])


def test_each_picture_goes_through_once_and_a_killed_pass_goes_on(images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "KEEP", 4)

    class Dies(ColourLayout):
        def encode_images(self, pictures: list[Image.Image], batch_size: int = 64) -> np.ndarray:
            if self.calls >= 8:
                raise KeyboardInterrupt
            return super().encode_images(pictures)

    dying, clip = Dies(), ColourLayout()
    with pytest.raises(KeyboardInterrupt):
        search.build(images, dying, tmp_path / "index", quiet)
    index = search.build(images, clip, tmp_path / "index", quiet)
    assert (len(images), len(index), dying.calls, clip.calls) == (12, 11, 8, 3)
    truth = embed(images, ColourLayout(), progress=quiet)
    assert np.array_equal(index.vectors(index.find(truth.sha256)), truth.vectors)
    assert search.build(images, clip, tmp_path / "index", quiet).names(range(11)) == index.names(range(11)) and clip.calls == 3
    assert len(search.index_of(truth)) == 11
    fewer = search.build(images.where(np.arange(12) < 5), clip, tmp_path / "index", quiet)
    assert set(fewer.names(range(5))) == set(images.table["sha256"][:5])


def test_vectors_are_mapped_not_copied(tmp_path: Path) -> None:
    search.write(tmp_path, Embeddings(unit(50), names(50), Numbers.sha256))
    block = search.open_index(tmp_path, Numbers()).blocks[0]
    assert isinstance(block.open(), np.memmap) and block.source[1] % 64 == 0


def test_memory_stays_flat(tmp_path: Path) -> None:
    vectors = unit(80_000, 128)
    for start in range(0, 80_000, search.KEEP):
        part = vectors[start:start + search.KEEP]
        search.write(tmp_path, Embeddings(part, [f"{start + i:064x}" for i in range(len(part))], Numbers.sha256))
    code = ("import re, sys; from types import SimpleNamespace; import faiss, numpy as np; from harness.audit import search\n"
            "read = lambda f: int(re.search(f + r':\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024\n"
            "index = search.open_index(__import__('pathlib').Path(sys.argv[1]), SimpleNamespace(sha256='a' * 64, dim=128)); q = index.vectors(range(64))\n"
            "few = search.Index(index.blocks[:9], index.sha256[:9 * search.KEEP], '', 128); search.nearest(q, few, 10); before = read('VmHWM')\n"
            "search.nearest(q, index, 10); print(read('VmHWM') - before, len(index))")
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc, which this system does not have")
    grown, rows = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True).stdout.split()
    assert int(rows) == 80_000 and float(grown) < 6, "another 20 MB of vectors, and hardly more memory"


def test_a_withdrawal_finds_the_vectors_and_what_it_leaves_still_works(images: ImageSet, tmp_path: Path) -> None:
    index = search.build(images, ColourLayout(), tmp_path / "index", quiet)
    path, (gone, other) = next((tmp_path / "index").glob("*.npz")), images.table["sha256"][:2]
    before = index.vectors(index.find([other]))
    assert gone in files.embedded(path)
    path.write_bytes(scrub.Scrub(frozenset({gone})).vectors(path.read_bytes()))
    with pytest.raises(HarnessError, match="changed since the index was opened"):
        index.vectors([3])
    left = search.open_index(tmp_path / "index", ColourLayout())
    assert len(left) == len(index) - 1 and gone not in left.names(range(len(left)))
    assert np.array_equal(left.vectors(left.find([other])), before)


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def not_numbers(path: Path) -> None:
    search.write(path.parent, _Raw(np.full((3, 16), np.nan, np.float32), names(3)))


def too_long(path: Path) -> None:
    search.write(path.parent, _Raw(2 * unit(3), names(3)))


class _Raw:
    """Vectors that Embeddings would refuse."""

    def __init__(self, vectors: np.ndarray, sha256: list[str]) -> None:
        self.vectors, self.sha256, self.clip_sha256 = vectors, sha256, Numbers.sha256


@pytest.mark.parametrize(("harm", "said"), [(damaged, "not a file of vectors"), (not_numbers, "unit vectors"), (too_long, "unit vectors")])
def test_a_damaged_index_is_named(tmp_path: Path, harm: object, said: str) -> None:
    harm(search.write(tmp_path, Embeddings(unit(50), names(50), Numbers.sha256)))
    with pytest.raises(HarnessError, match=said):
        search.open_index(tmp_path, Numbers())


def test_another_clips_index_is_refused(images: ImageSet, tmp_path: Path) -> None:
    class Other(ColourLayout):
        sha256 = "f" * 64

    search.build(images, ColourLayout(), tmp_path / "index", quiet)
    with pytest.raises(HarnessError, match="another CLIP"):
        search.build(images, Other(), tmp_path / "index", quiet)


@pytest.mark.parametrize("k", [0, 51])
def test_more_than_there_are_cannot_be_asked_for(k: int) -> None:
    with pytest.raises(HarnessError, match="ask for 1 to 50"):
        search.nearest(unit(1), unit(50), k)


def test_queries_that_are_no_numbers_and_vectors_that_are_none() -> None:
    with pytest.raises(HarnessError, match="queries"):
        search.nearest(np.full((1, 16), np.nan), unit(50), 3)
    with pytest.raises(HarnessError, match="queries"):
        search.nearest(unit(1, 8), unit(50), 3)
    with pytest.raises(HarnessError, match="not numbers"):
        search.nearest(unit(1), np.full((50, 16), np.nan, np.float32), 3)


def test_words_beyond_the_context_and_none_at_all() -> None:
    clip = models.load_clip()
    fits = "word " * 38  # 40 tokens with beginning and end
    assert not search.is_cut(clip, fits) and search.is_cut(clip, fits + "more")
    assert search.text_vectors(clip, [fits]).shape == (1, clip.dim)
    for text, said in ((fits + "more", "longer than this CLIP reads"), ("  ", "no words")):
        with pytest.raises(HarnessError, match=said):
            search.text_vectors(clip, [text])
