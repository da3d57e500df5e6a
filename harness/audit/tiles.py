"""How alike two small pictures are, pixel by pixel: as a whole in colour, and by masked tiles of their structure.

An output is compared with windows of a work, straight and mirrored, so that a crop or a flip does not hide a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
from PIL import Image

SIZE, WHOLE = 32, 24
"""Sides in pixels at which tiles and whole pictures are compared."""
TILE = 8
"""Side of a tile in pixels."""
KEPT = 0.75
"""Share of a work's structure that counts: the best matched part, so that a quarter may be covered or changed."""
STABLE = 4.0
"""Added to a product of standard deviations (grey levels squared): flatter tiles carry no structure."""
FLATTEST = 20.0
"""Smallest norm that a whole picture is divided by: an empty one matches nothing."""
WINDOWS = ((1.0, 0.5, 0.5), *product((0.93, 0.86, 0.79), (0, 0.5, 1), (0, 0.5, 1)))
"""(scale, left, top) of the windows of a work that an output is compared with."""
_GREY = np.asarray([0.299, 0.587, 0.114], np.float32)
_BATCH = 32


def whole(images: np.ndarray, works: np.ndarray, moved: bool = True) -> np.ndarray:
    """Colour correlation (n, m) in [-1, 1] at 24 pixels; uint8 (n, s, s, 3) against (m, s, s, 3).

    With `moved` the best over 28 windows of the work and their mirror images.
    """
    return _best(images, works, WHOLE, _flatten, lambda a, b: a @ b.T, moved)


def masked(images: np.ndarray, works: np.ndarray, moved: bool = True) -> np.ndarray:
    """Mean correlation (n, m) of luminance tiles over the best-matched 75 % of the work's structure; as `whole`.

    A tile weighs as much as its standard deviation in the work, so that empty walls do not make two pictures alike.
    """
    return _best(images, works, SIZE, _tiles, _alike, moved)


def _best(images: np.ndarray, works: np.ndarray, size: int, prepare: Callable[[np.ndarray], np.ndarray],
          compare: Callable[[np.ndarray, np.ndarray], np.ndarray], moved: bool) -> np.ndarray:
    """The highest likeness of every image to any window of every work."""
    query = prepare(_window(images, WINDOWS[0], size))
    best = np.full((len(images), len(works)), -1.0)
    for window in _windows(works, size, moved):
        reference = prepare(window)
        for start in range(0, len(images), _BATCH):
            part = slice(start, start + _BATCH)
            best[part] = np.maximum(best[part], compare(query[part], reference))
    return best


def _windows(works: np.ndarray, size: int, moved: bool) -> Iterator[np.ndarray]:
    for window in WINDOWS if moved else WINDOWS[:1]:
        cut = _window(works, window, size)
        yield cut
        if moved:
            yield cut[:, :, ::-1]


def _window(pictures: np.ndarray, window: tuple[float, float, float], size: int) -> np.ndarray:
    """One window of every picture, at `size` pixels, float32 (n, size, size, 3)."""
    scale, left, top = window
    side = pictures.shape[1]
    room = side * (1 - scale)
    box = (left * room, top * room, left * room + side * scale, top * room + side * scale)
    cut = [np.asarray(Image.fromarray(p).resize((size, size), Image.Resampling.BOX, box=box)) for p in pictures]
    return np.stack(cut).astype(np.float32) if cut else np.zeros((0, size, size, 3), np.float32)


def _flatten(pictures: np.ndarray) -> np.ndarray:
    """Rows of length 1 (shorter for empty pictures), each channel's mean taken away."""
    rows = (pictures - pictures.mean(axis=(1, 2), keepdims=True)).reshape(len(pictures), -1)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), FLATTEST)


def _tiles(pictures: np.ndarray) -> np.ndarray:
    """Luminance tiles (n, tiles, TILE * TILE), each with its own mean taken away."""
    grey = pictures @ _GREY
    n, side = grey.shape[0], SIZE // TILE
    cut = grey.reshape(n, side, TILE, side, TILE).swapaxes(2, 3).reshape(n, side * side, TILE * TILE)
    return cut - cut.mean(axis=2, keepdims=True)


def _alike(query: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Correlation by tile, weighted, over the best-matched share of each reference's structure: (n, m)."""
    covariance = np.einsum("ntd,mtd->nmt", query, reference, optimize=True) / query.shape[2]
    spread, weight = query.std(axis=2), reference.std(axis=2)
    likeness = covariance / (spread[:, None] * weight[None] + STABLE)
    order = np.argsort(-likeness, axis=2)
    mass = np.take_along_axis(np.broadcast_to(weight[None] + 1e-3, likeness.shape), order, 2)
    before = mass.cumsum(axis=2) - mass
    used = np.clip(KEPT * mass.sum(axis=2, keepdims=True) - before, 0, mass)
    return (np.take_along_axis(likeness, order, 2) * used).sum(axis=2) / used.sum(axis=2)
