"""Exact nearest neighbours among the vectors of a folder, by picture and by words, without the vectors ever lying in memory together.

Vectors are kept in files of `KEEP` pictures each, in the format of the embedding caches, so that a withdrawal finds them; their
numbers lie unpacked and aligned, so that they are mapped from the disk. A search goes through them block by block with FAISS's own
exact kernel (the one of IndexFlatIP) and keeps the best of each.

Source: Johnson, Douze and Jégou, "Billion-scale similarity search with GPUs", IEEE Trans. Big Data 7 (2021); faiss.ai.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.embed import Embeddings, Encoder, embed
from harness.errors import HarnessError
from harness.images import ImageSet, atomic_write, sha256
from harness.progress import printer

KEEP = 4096
"""Pictures in one file of vectors; a pass that was killed goes on from the last whole file."""
BLOCK = 16384
"""Rows that are searched at a time (a multiple of FAISS's own blocks, so that sums are formed in the same order)."""
# A zip's local header (30 bytes) and name "vectors.npy" (11); this extra field brings the array to byte 64.
_PAD = struct.pack("<HH19x", 0x6C68, 19)


@dataclass(frozen=True, eq=False)
class Block:
    """Some vectors: an array, or their place in a file; perhaps only some of the rows."""

    source: np.ndarray | tuple[Path, int, int, int]
    """float32 (n, d), or file, first byte, n, d"""
    keep: np.ndarray | None = None
    """rows that count; None for all"""
    stamp: tuple[int, int] | None = None
    """of the file when it was opened: a withdrawal may rewrite it meanwhile"""

    def __len__(self) -> int:
        rows = len(self.source) if isinstance(self.source, np.ndarray) else self.source[2]
        return rows if self.keep is None else len(self.keep)

    def open(self) -> np.ndarray:
        """float32 (n, d); mapped anew for each use, so that what was read does not stay in memory. Raises HarnessError for a changed file."""
        if isinstance(self.source, np.ndarray):
            whole = self.source
        else:
            path, offset, rows, dim = self.source
            if not path.is_file() or self.stamp not in (None, _stamp(path)):
                raise HarnessError(f"{path}: changed since the index was opened (a withdrawal does that); run this again.")
            whole = np.memmap(path, np.float32, "r", offset, (rows, dim))
        return whole if self.keep is None else whole[self.keep]


@dataclass(frozen=True, eq=False)
class Index:
    """Unit vectors of distinct pictures, in blocks; row i belongs to the picture with hash i."""

    blocks: tuple[Block, ...]
    """the vectors"""
    sha256: np.ndarray
    """(n,) of 32 bytes each; `names` gives text, `find` the rows of names"""
    clip_sha256: str
    """hash of the weights that made them"""
    dim: int
    """length of a vector"""

    def __len__(self) -> int:
        return len(self.sha256)

    def names(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Hashes of some rows, as text."""
        return [name.ljust(32, b"\0").hex() for name in self.sha256[np.asarray(rows, dtype=np.int64)].tolist()]

    def find(self, names: Sequence[str]) -> np.ndarray:
        """int64 (m,): the rows of some hashes. Raises HarnessError for one that is not in the index."""
        order, wanted = np.argsort(self.sha256, kind="stable"), _digests(names)
        rows = order[np.searchsorted(self.sha256, wanted, sorter=order).clip(0, len(self) - 1)] if len(self) else np.zeros(len(wanted), np.int64)
        strange = np.flatnonzero(self.sha256[rows] != wanted) if len(self) else np.arange(len(wanted))
        if len(strange):
            raise HarnessError(f"{len(strange)} pictures are not in the index, the first is {names[strange[0]][:12]}; build it from the same folder.")
        return rows

    def vectors(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """float32 (m, d): some rows, in the order given; only they are read."""
        wanted = np.asarray(rows, dtype=np.int64)
        found, start = np.zeros((len(wanted), self.dim), np.float32), 0
        for block in self.blocks:
            here = np.flatnonzero((wanted >= start) & (wanted < start + len(block)))
            if len(here):
                found[here] = block.open()[wanted[here] - start]
            start += len(block)
        return found


class Neighbours(NamedTuple):
    """The nearest rows of every query, the nearest first."""

    cosines: np.ndarray
    """float32 (queries, k)"""
    rows: np.ndarray
    """int64 (queries, k)"""


def nearest(queries: np.ndarray, vectors: Index | np.ndarray, k: int, threads: int | None = None) -> Neighbours:
    """The k rows with the largest inner product with each query (q, d), exact.

    `vectors` are an Index, or an array (n, d) that may be mapped. Raises HarnessError for a k beyond the rows, other lengths, and
    values that are not numbers in the queries or among the answers.
    """
    import faiss

    asked = np.ascontiguousarray(queries, dtype=np.float32)
    dim, total = (vectors.dim if isinstance(vectors, Index) else vectors.shape[1]), len(vectors)
    if not 1 <= k <= total:
        raise HarnessError(f"asked for the {k} nearest of {total} pictures; ask for 1 to {total}.")
    if asked.ndim != 2 or asked.shape[1] != dim or not np.isfinite(asked).all():
        raise HarnessError(f"a search among vectors of length {dim} needs queries (q, {dim}) of numbers; these are {asked.shape}, or hold values that are none.")
    best, start = faiss.ResultHeap(len(asked), k, keep_max=True), 0
    with _threads(threads):
        for block in _arrays(vectors):
            cosines, rows = faiss.knn(asked, block, min(k, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
            best.add_result(np.ascontiguousarray(cosines), rows + start)
            start += len(block)
    best.finalize()
    if (best.I < 0).any():
        raise HarnessError("the search met vectors that are not numbers; the index is damaged: delete it, it will be made again.")
    return Neighbours(best.D, best.I)


def _arrays(vectors: Index | np.ndarray) -> Iterator[np.ndarray]:
    """float32 arrays of about `BLOCK` rows, one after the other; smaller blocks are put together, as FAISS is slow on those."""
    if not isinstance(vectors, Index):
        yield from (np.ascontiguousarray(vectors[i:i + BLOCK], dtype=np.float32) for i in range(0, len(vectors), BLOCK))
        return
    waiting: list[np.ndarray] = []
    for block in vectors.blocks:
        waiting += [block.open()] if len(block) else []
        if sum(map(len, waiting)) >= BLOCK:
            yield waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
            waiting = []
    if waiting:
        yield waiting[0] if len(waiting) == 1 else np.concatenate(waiting)


@contextmanager
def _threads(n: int | None) -> Iterator[None]:
    """So many threads of FAISS, and as many as before afterwards."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(n or before)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def text_vectors(clip: Encoder, texts: Sequence[str]) -> np.ndarray:
    """float32 (n, d) of words to search by. Raises HarnessError for empty ones and for more than the CLIP reads."""
    for text in texts:
        if not text.strip():
            raise HarnessError("there are no words to search by; write some.")
        if is_cut(clip, text):
            raise HarnessError(f"the text {text[:40]!r}… is longer than this CLIP reads; shorten it, or its end would count for nothing.")
    return clip.encode_texts(list(texts))


def is_cut(clip: Encoder, text: str) -> bool:
    """Does the CLIP's tokenizer cut a text off? With room for one token more, the end of a text that fits stays where it was."""
    tokenizer: Any = getattr(clip, "tokenizer", None)
    if tokenizer is None:
        return False
    read = tokenizer([text])[0]
    return not bool((tokenizer([text], context_length=len(read) + 1)[0][:len(read)] == read).all())


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when a file is replaced."""
    said = path.stat()
    return said.st_ino, said.st_mtime_ns


def _digests(names: Sequence[str]) -> np.ndarray:
    """Hashes as 32 bytes each: a million of them are 32 MB."""
    return np.frombuffer(bytes.fromhex("".join(names)), "S32")


def index_of(seen: Embeddings) -> Index:
    """An Index over vectors that are in memory; of pictures that stand in the set twice it has one."""
    names, rows = np.unique(_digests(seen.sha256), return_index=True)
    dim = seen.vectors.shape[1]
    return Index((Block(np.ascontiguousarray(seen.vectors[rows], dtype=np.float32)),), names, seen.clip_sha256, dim)


def build(images: ImageSet, clip: Encoder, folder: Path, progress: Callable[[Mapping[str, Any]], None] | None = None) -> Index:
    """The Index of an image set, one row for each distinct picture; only pictures that `folder` does not hold go through CLIP.

    Pictures are decoded `KEEP` at a time and their vectors written at once, so that memory stays flat and a killed pass goes on.
    Raises HarnessError for an empty set, a changed file, a folder with vectors of another CLIP, and values that are not numbers.
    """
    if not len(images):
        raise HarnessError(f"{images.folder}: no picture to embed.")
    show, held = progress or printer(), open_index(Path(folder), clip)
    wanted, first = np.unique(_digests(list(images.table["sha256"])), return_index=True)
    fresh = np.sort(first[~np.isin(wanted, held.sha256)])
    for start in range(0, len(fresh), KEEP):
        part = ImageSet(images.folder, images.table.iloc[fresh[start:start + KEEP]].reset_index(drop=True))
        write(Path(folder), embed(part, clip, progress=lambda event, base=start: show(event | {"step": base + event["step"], "of": len(fresh)})))
    return _only(open_index(Path(folder), clip) if len(fresh) else held, wanted)


def write(folder: Path, seen: Embeddings) -> Path:
    """One file of vectors, whole or not at all; named by what is in it."""
    name = sha256("".join(seen.sha256).encode())[:16]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as out:
        arrays = {"vectors": np.ascontiguousarray(seen.vectors, dtype="<f4"), "sha256": np.asarray(seen.sha256, dtype="U64"), "clip_sha256": np.str_(seen.clip_sha256)}
        for key, array in arrays.items():
            raw, info = io.BytesIO(), zipfile.ZipInfo(f"{key}.npy")
            np.lib.format.write_array(raw, np.asanyarray(array), allow_pickle=False)
            info.extra = _PAD if key == "vectors" else b""
            out.writestr(info, raw.getvalue())
    return atomic_write(folder / f"index-{name}.npz", buffer.getvalue())


def open_index(folder: Path, clip: Encoder) -> Index:
    """Everything that a folder of vectors holds, each picture once; empty where there is nothing yet.

    Every vector is read and checked. Raises HarnessError for a damaged file, one of another CLIP, and values that are not numbers.
    """
    blocks, names, dim = [], [np.zeros(0, "S32")], clip.dim
    for path in sorted(folder.glob("index-*.npz")):
        block, held, owner = _file(path)
        if owner != clip.sha256:
            raise HarnessError(f"{path}: made by another CLIP ({owner[:12]}, wanted {clip.sha256[:12]}); choose another folder for the vectors, or delete it.")
        if np.shape(array := block.open())[1:] != (dim,) or len(array) != len(held) or not _unit(array):
            raise HarnessError(f"{path}: not {len(held)} unit vectors of length {dim}; delete it, it will be made again.")
        blocks.append(block)
        names.append(held)
    every = Index(tuple(blocks), np.concatenate(names), clip.sha256, dim)
    return every if len(np.unique(every.sha256)) == len(every) else _only(every, np.unique(every.sha256))


def _unit(array: np.ndarray) -> bool:
    """Are all rows numbers, and of length 1?"""
    lengths = np.einsum("ij,ij->i", array, array)
    return bool((np.abs(lengths - 1) <= 2e-3).all())


def _only(index: Index, wanted: np.ndarray) -> Index:
    """The Index of some pictures (sorted, distinct hashes); of a picture held twice the first row."""
    first = np.zeros(len(index), bool)
    first[np.unique(index.sha256, return_index=True)[1]] = True
    keep, start, blocks = first & np.isin(index.sha256, wanted), 0, []
    if keep.all():
        return index
    for block in index.blocks:
        here = np.flatnonzero(keep[start:start + len(block)])
        blocks.append(block if len(here) == len(block) else replace(block, keep=here if block.keep is None else block.keep[here]))
        start += len(block)
    return Index(tuple(blocks), index.sha256[keep], index.clip_sha256, index.dim)


def _file(path: Path) -> tuple[Block, np.ndarray, str]:
    """Block, hashes and CLIP of one file; vectors that lie packed in it (a withdrawal has rewritten it) are read into memory."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            names, owner = _digests(stored["sha256"].tolist()), str(stored["clip_sha256"])
            stamp, place = _stamp(path), _place(path)
            return Block(place or np.ascontiguousarray(stored["vectors"], dtype=np.float32), stamp=stamp), names, owner
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, struct.error) as error:
        raise HarnessError(f"{path}: not a file of vectors ({error}); delete it, it will be made again.") from error


def _place(path: Path) -> tuple[Path, int, int, int] | None:
    """Where the vectors lie in a file, if they can be mapped: stored as they are, float32, by rows, on a multiple of 4 bytes."""
    with zipfile.ZipFile(path) as held, open(path, "rb") as file:
        info = held.getinfo("vectors.npy")
        file.seek(info.header_offset)
        head = file.read(30)
        file.seek(info.header_offset + 30 + sum(struct.unpack("<HH", head[26:30])))
        if info.compress_type != zipfile.ZIP_STORED or np.lib.format.read_magic(file) != (1, 0):
            return None
        shape, by_columns, kind = np.lib.format.read_array_header_1_0(file)
        fits = kind == np.dtype("<f4") and not by_columns and len(shape) == 2 and file.tell() % 4 == 0
        return (path, file.tell(), *shape) if fits else None
