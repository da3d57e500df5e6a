"""One decode and one pass through CLIP for every picture, kept by the hash of its bytes and of the weights.

All scorers share these vectors. A cache belongs to one CLIP; a renamed file keeps its vector, a changed one gets another.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from harness.errors import HarnessError
from harness.images import ImageSet, atomic_write, decode, sha256
from harness.progress import printer

if TYPE_CHECKING:
    import pandas as pd

BATCH = 64
KEEP_EVERY = 2048
"""New vectors between two writes of the cache: a killed pass over many images goes on from there."""


class Encoder(Protocol):
    """What is needed of a CLIP (`harness.models.Clip` has it)."""

    sha256: str
    dim: int
    logit_scale: float

    def encode_images(self, images: Any, batch_size: int = 64) -> np.ndarray: ...

    def encode_texts(self, texts: list[str]) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Unit vectors of an image set, in its order."""

    vectors: np.ndarray
    """float32 (n, d), rows of length 1"""
    sha256: list[str]
    """hash of each image's bytes"""
    clip_sha256: str
    """hash of the weights that made them"""
    table: pd.DataFrame | None = None
    """the image set's own table, for prompts and seeds"""

    def __post_init__(self) -> None:
        _check_vectors(self.vectors, len(self.sha256))
        if self.table is not None and len(self.table) != len(self.sha256):
            raise HarnessError(f"embeddings: {len(self.sha256)} vectors and a table of {len(self.table)} rows.")

    def __len__(self) -> int:
        return len(self.sha256)

    def where(self, mask: Any) -> Embeddings:
        """The rows where the mask (n booleans) is true."""
        keep = np.flatnonzero(np.asarray(mask, dtype=bool))
        rows = None if self.table is None else self.table.iloc[keep].reset_index(drop=True)
        return Embeddings(self.vectors[keep], [self.sha256[i] for i in keep], self.clip_sha256, rows)


def embed(images: ImageSet, clip: Encoder, cache: Path | None = None,
          progress: Callable[[Mapping[str, Any]], None] | None = None) -> Embeddings:
    """Embeddings of an image set; only pictures that the cache folder does not know go through CLIP.

    Every file is read once and its hash compared with the set's. Raises HarnessError for a file that changed, for
    values that are not numbers and for a cache of another CLIP; BadImage for a broken picture.
    """
    show, known = progress or printer(), _read_cache(cache, clip)
    names, since = [], 0
    for batch in _batches(images):
        names += [digest for digest, _ in batch]
        fresh = {digest: raw for digest, raw in batch if digest not in known}
        known |= _encode(fresh, clip)
        since += len(fresh)
        if cache is not None and since >= KEEP_EVERY:
            _write_cache(cache, clip, known)
            since = 0
        show({"stage": "embed", "step": len(names), "of": len(images)})
    if cache is not None and since:
        _write_cache(cache, clip, known)
    vectors = np.stack([known[name] for name in names]) if names else np.zeros((0, clip.dim), np.float32)
    return Embeddings(vectors, names, clip.sha256, images.table.reset_index(drop=True))


def _batches(images: ImageSet) -> Iterator[list[tuple[str, bytes]]]:
    """(hash, bytes) of every file, a batch at a time; refuses a file that is not the one the table names."""
    batch = []
    for path, expected in zip(images.paths, images.table["sha256"], strict=True):
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise HarnessError(f"{path}: cannot be read ({error.strerror}).") from error
        if sha256(raw) != expected:
            raise HarnessError(f"{path}: changed since the image set was opened; open the folder again.")
        batch.append((expected, raw))
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _encode(fresh: dict[str, bytes], clip: Encoder) -> dict[str, np.ndarray]:
    """Vectors of pictures by hash, checked."""
    if not fresh:
        return {}
    vectors = np.asarray(clip.encode_images([decode(raw) for raw in fresh.values()]), dtype=np.float32)
    _check_vectors(vectors, len(fresh))
    return dict(zip(fresh, vectors, strict=True))


def _check_vectors(vectors: np.ndarray, n: int) -> None:
    """n rows of length 1 and nothing that is not a number."""
    if vectors.ndim != 2 or len(vectors) != n:
        raise HarnessError(f"embeddings: shape {vectors.shape} for {n} images.")
    if not np.isfinite(vectors).all():
        raise HarnessError("embeddings: CLIP gave values that are not numbers; its weights or the cache are damaged.")
    if n and np.abs(np.linalg.norm(vectors, axis=1) - 1).max() > 1e-3:
        raise HarnessError("embeddings: rows are not of length 1; they come from something other than this harness.")


def save(embeddings: Embeddings, path: Path) -> Path:
    """Vectors, hashes and the table's prompts and seeds as one .npz file (half precision)."""
    table = embeddings.table
    extra = {} if table is None else {f"table_{name}": table[name].astype(str).to_numpy(dtype=np.str_)
                                      for name in ("prompt", "seed") if name in table}
    return _write(path, embeddings.clip_sha256, embeddings.sha256, embeddings.vectors.astype(np.float16), extra)


def load(path: Path, clip: Encoder) -> Embeddings:
    """Embeddings that `save` wrote; raises HarnessError for those of another CLIP."""
    import pandas as pd

    stored = _read(path, clip.sha256)
    vectors = stored["vectors"].astype(np.float32)
    table = pd.DataFrame({"sha256": stored["sha256"]} | {
        key.removeprefix("table_"): stored[key] for key in stored if key.startswith("table_")})
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return Embeddings(unit, [str(s) for s in stored["sha256"]], clip.sha256, table)


def _cache_file(folder: Path, clip: Encoder) -> Path:
    return Path(folder) / f"clip-{clip.sha256[:16]}.npz"


def _read_cache(folder: Path | None, clip: Encoder) -> dict[str, np.ndarray]:
    """hash -> vector, empty where there is no cache yet."""
    if folder is None or not _cache_file(folder, clip).exists():
        return {}
    stored = _read(_cache_file(folder, clip), clip.sha256)
    _check_vectors(stored["vectors"], len(stored["sha256"]))
    return dict(zip(map(str, stored["sha256"]), stored["vectors"], strict=True))


def _write_cache(folder: Path, clip: Encoder, known: dict[str, np.ndarray]) -> None:
    """Everything known, and whatever another process has added meanwhile."""
    merged = _read_cache(folder, clip) | known
    _write(_cache_file(folder, clip), clip.sha256, list(merged), np.stack(list(merged.values())), {})


def _write(path: Path, clip_sha256: str, names: list[str], vectors: np.ndarray, extra: dict[str, np.ndarray]) -> Path:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, clip_sha256=np.str_(clip_sha256), sha256=np.asarray(names, dtype=np.str_),
                        vectors=vectors, **extra)
    return atomic_write(path, buffer.getvalue())


def _read(path: Path, clip_sha256: str) -> dict[str, np.ndarray]:
    """All arrays of a file; never a pickle, never those of another CLIP."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
            owner = str(arrays["clip_sha256"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise HarnessError(f"{path}: not an embeddings file ({error}); delete it, it will be made again.") from error
    if owner != clip_sha256:
        raise HarnessError(f"{path}: made by another CLIP ({owner[:12]}, wanted {clip_sha256[:12]}); "
                           "choose another cache folder or delete it.")
    return arrays
