"""Does one picture come from another? A small descriptor that finds crops, resizing, JPEG, mirror images and recolouring.

A descriptor is a sketch of 32 × 32 cells (lightness and two colour differences). Two sketches are laid over each other, straight
and mirrored, in every crop down to three fifths of the side; then one picture's lightness is explained from the other's colours by
a smooth function, which undoes any recolouring. What stays unexplained at the worst place, measured against the lines that are
drawn there, is the distance. So another smile on the same face is another picture, and the same drawing in other colours is not.

A sketch shows roughly what the picture shows. Keep it as one keeps a thumbnail, and delete it with the picture.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from PIL import Image

from harness.errors import HarnessError

SIDE = 32
"""Cells along each side of a sketch."""
VERSION = 1
HEAD = struct.Struct(">BHH")
SIZE = HEAD.size + 2 * SIDE * SIDE
"""Bytes of a descriptor: version, width and height of the picture, lightness (8 bit) and two colour differences (4 bit) a cell."""
FAR = 2.0
"""Distance of pictures that cannot be laid over each other."""
NEAR = 0.5
"""Operating point: at most this distance is a near-duplicate (fixed by benchmarks/near_duplicates.py on its tuning split)."""
COARSE = 16
"""Cells along each side when windows are looked for."""
ALIKE = 0.5
"""Least correlation of edges at which a window is looked at closely."""
SCALES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)
STEPS = (0.04, 0.02, 0.01, 0.005)
MOVES = np.asarray([(1, 1, 0, 0), (0, 0, 1, 1), (1, -1, 0, 0), (0, 0, 1, -1), (1, -1, 1, -1), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)], np.float32)
"""Directions in which a window (left, right, top, bottom) is moved and stretched to fit."""
SOFT = 0.25
"""Variance (cells squared) of the blur that both pictures get at least."""


def descriptor(image: Image.Image) -> bytes:
    """The descriptor (SIZE bytes) of a picture of any size."""
    small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    rgb = np.asarray(small, np.float32) / 255
    light = rgb @ np.asarray([0.299, 0.587, 0.114], np.float32)
    blue, red = (np.clip(np.round(7.5 * (1 + rgb[..., c] - light)), 0, 15).astype(np.uint8) for c in (2, 0))
    head = HEAD.pack(VERSION, min(image.width, 65535), min(image.height, 65535))
    return head + np.round(255 * light).astype(np.uint8).tobytes() + (16 * blue + red).tobytes()


def is_near(a: bytes, b: bytes) -> bool:
    """Is one picture a near-duplicate of the other, at the published operating point?"""
    return distance(a, b) <= NEAR


def distance(a: bytes, b: bytes) -> float:
    """Distance (0 to FAR, symmetric) of two descriptors. Raises HarnessError for what is none."""
    if a == b:
        _read(a)
        return 0.0
    first, second = sorted((bytes(a), bytes(b)))
    return min(_one_in_other(_read(first), _read(second)), _one_in_other(_read(second), _read(first)))


@dataclass(frozen=True, eq=False)
class _Sketch:
    """A descriptor, unpacked."""

    colours: np.ndarray
    """float32 (3, SIDE, SIDE): lightness, blue and red less lightness"""
    blur: tuple[float, float]
    """variance, in cells squared, across and down, of what one cell saw of the picture"""
    edges: np.ndarray
    """float32 (SIDE, SIDE): square root of the gradient's length over all colours"""
    windows: np.ndarray
    """float32 (windows, COARSE * COARSE): edges of every window, each of length 1"""


@lru_cache(maxsize=512)
def _read(blob: bytes) -> _Sketch:
    if len(blob) != SIZE or blob[0] != VERSION:
        raise HarnessError(f"not a perceptual descriptor of version {VERSION} ({len(blob)} bytes, wanted {SIZE}); make it again from the picture.")
    _, width, height = HEAD.unpack_from(blob)
    light = np.frombuffer(blob, np.uint8, SIDE * SIDE, HEAD.size).reshape(SIDE, SIDE) / np.float32(255)
    packed = np.frombuffer(blob, np.uint8, SIDE * SIDE, HEAD.size + SIDE * SIDE).reshape(SIDE, SIDE)
    colours = np.stack([light, (packed >> 4) / np.float32(7.5) - 1, (packed & 15) / np.float32(7.5) - 1]).astype(np.float32)
    edges = _edges(colours)
    return _Sketch(colours, (_seen(width), _seen(height)), edges, _unit(_cut(edges, _WINDOWS, COARSE)))


def _seen(pixels: int) -> float:
    """Variance of a cell's view: the resampling filter is a triangle, a pixel is a box."""
    ratio = SIDE / max(1, pixels)
    return max(1.0, ratio) ** 2 / 6 + ratio**2 / 12


def _edges(colours: np.ndarray) -> np.ndarray:
    padded = np.pad(colours, ((0, 0), (1, 1), (1, 1)), mode="edge")
    across, down = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2], padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    return np.sqrt(np.sqrt((across**2 + down**2).sum(axis=0)))


def _sampler(left: np.ndarray, right: np.ndarray, cells: int, blur: np.ndarray | float) -> np.ndarray:
    """(k, cells, SIDE): rows that read `cells` places between left and right (shares of the side), with a Gaussian view."""
    at = left[:, None] + (right - left)[:, None] * (np.arange(cells) + 0.5) / cells
    away = (SIDE * at - 0.5).clip(0, SIDE - 1)[..., None] - np.arange(SIDE)
    weight = np.exp(-(away**2) / (2 * np.broadcast_to(blur, left.shape)[:, None, None]))
    return (weight / weight.sum(axis=2, keepdims=True)).astype(np.float32)


def _cut(plane: np.ndarray, windows: np.ndarray, cells: int) -> np.ndarray:
    """(k, cells, cells): windows (k, 4: left, right, top, bottom) of a plane, each at the same number of cells."""
    blur = np.maximum(SOFT, ((windows[:, 1::2] - windows[:, ::2]) * SIDE / cells) ** 2 / 6)
    across = _sampler(windows[:, 0], windows[:, 1], cells, blur[:, 0])
    down = _sampler(windows[:, 2], windows[:, 3], cells, blur[:, 1])
    return down @ plane @ across.swapaxes(1, 2)


def _unit(planes: np.ndarray) -> np.ndarray:
    """(k, cells²) rows without mean, of length 1."""
    rows = planes.reshape(len(planes), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def _starts(scale: float) -> np.ndarray:
    """Where windows of a scale begin: evenly, not further apart than one cell of the coarse grid."""
    return np.linspace(0, 1 - scale, 1 + int(np.ceil((1 - scale) * COARSE / 1.2 - 1e-9)))


def _window_list() -> np.ndarray:
    same = [(x, x + s, y, y + s) for s in SCALES for x, y in product(_starts(s), repeat=2)]
    strips = [(x, x + s) for s in SCALES[1:] for x in _starts(s)]
    return np.asarray(same + [(*s, 0, 1) for s in strips] + [(0, 1, *s) for s in strips], np.float32)


_WINDOWS = _window_list()


def _one_in_other(whole: _Sketch, part: _Sketch) -> float:
    """Distance under the assumption that `part` shows `whole` or a crop of it, straight or mirrored."""
    best = FAR
    for mirrored in (False, True):
        colours, edges = (z[..., ::-1] if mirrored else z for z in (part.colours, part.edges))
        alike = whole.windows @ _unit(_cut(edges, _WINDOWS[:1], COARSE))[0]
        if alike.max() < ALIKE:
            continue
        window = _fit(whole, edges, _WINDOWS[int(alike.argmax())])
        best = min(best, _unexplained(whole, window, colours, part.blur))
    return best


def _fit(whole: _Sketch, edges: np.ndarray, window: np.ndarray) -> np.ndarray:
    """The window, moved and stretched until the edges agree best."""
    target = _unit(_cut(edges, _WINDOWS[:1], SIDE))[0]
    best = float((_unit(_cut(whole.edges, window[None], SIDE)) @ target)[0])
    for step in STEPS:
        for _ in range(4):
            tried = window + step * np.concatenate([MOVES, -MOVES])
            score = _unit(_cut(whole.edges, tried, SIDE)) @ target
            if score.max() <= best:
                break
            best, window = float(score.max()), tried[int(score.argmax())]
    return window


def _unexplained(whole: _Sketch, window: np.ndarray, colours: np.ndarray, blur: tuple[float, float]) -> float:
    """What of the one cannot be explained from the other, laid over each other at the same sharpness."""
    scale = window[1::2] - window[::2]
    seen = np.asarray(whole.blur) / scale**2
    common = np.maximum(seen, blur) + SOFT / np.minimum(scale, 1) ** 2
    inside = _look(whole.colours, window, (common - seen) * scale**2)
    other = _look(colours, _WINDOWS[0], common - blur)
    return min(_worst(inside, other[0]), _worst(other, inside[0]))


def _look(colours: np.ndarray, window: np.ndarray, blur: np.ndarray) -> np.ndarray:
    across = _sampler(window[None, 0], window[None, 1], SIDE, max(blur[0], 0.02))[0]
    down = _sampler(window[None, 2], window[None, 3], SIDE, max(blur[1], 0.02))[0]
    return down @ colours @ across.T


def _worst(colours: np.ndarray, light: np.ndarray) -> float:
    """Largest local share of `light` (SIDE, SIDE) that a quadratic of `colours` (3, SIDE, SIDE) leaves over."""
    y, b, r = colours.reshape(3, -1).astype(np.float64)
    terms = np.stack([np.ones_like(y), y, b, r, y * y, y * b, y * r, b * b, b * r, r * r], axis=1)
    goal, weight = light.ravel().astype(np.float64), np.ones(SIDE * SIDE)
    for _ in range(3):
        scaled = terms * weight[:, None]
        left = goal - terms @ np.linalg.solve(scaled.T @ terms + 1e-3 * np.eye(10), scaled.T @ goal)
        weight = 1 / (1 + (left / (1.5 * np.median(np.abs(left)) + 0.01)) ** 2)
    padded = np.pad(light, 1, mode="edge")
    slope = (padded[1:-1, 2:] - padded[1:-1, :-2]) ** 2 + (padded[2:, 1:-1] - padded[:-2, 1:-1]) ** 2
    local, wide = _gauss(1.0), _gauss(3.0)
    drawn = wide @ (slope / 4) @ wide.T + 0.02 * (float(light.std()) + 0.02) ** 2
    return float(np.sqrt(((local @ left.reshape(SIDE, SIDE) ** 2 @ local.T) / drawn).max()))


@lru_cache(maxsize=None)
def _gauss(sigma: float) -> np.ndarray:
    """(SIDE, SIDE): smooths a column."""
    return _sampler(np.zeros(1), np.ones(1), SIDE, sigma**2)[0]
