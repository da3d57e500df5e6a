"""Does one picture come from another? A small descriptor that finds crops, resizing, JPEG, mirror images and recolouring.

A descriptor is a sketch of 40 × 40 cells: lightness and two colour differences. Two sketches are laid over each other, straight and
mirrored, as a whole or as a crop down to three fifths of the side. Then the lightness of one is explained from the colours of the
other by a smooth function, which undoes a recolouring. The distance is what stays unexplained at the worst place, measured against
the lines that are drawn there: another smile on the same face is another picture, the same drawing in other colours is not.

How often it misses and how often it cries wolf is measured, on drawn portraits, by benchmarks/near_duplicates.py. A sketch shows
roughly what the picture shows: keep it as one keeps a thumbnail.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
from PIL import Image

from harness.errors import HarnessError

NEAR = 0.55
"""The operating point: pictures at most this far apart are near-duplicates. On the tuning split of benchmarks/near_duplicates.py it is the
smallest at which 95 % of all crops, and of every other kind of copy, are found."""
FAR = 2.0
"""Distance of pictures of which neither can be laid over the other; nothing is further."""
SIDE = 40
"""Cells along each side of a sketch."""
VERSION = 1
HEAD = struct.Struct(">BHH")
SIZE = HEAD.size + 3 * SIDE * SIDE
"""Bytes of a descriptor: version, width and height of the picture, then lightness, blue and red of every cell."""
FINE = 160
"""Side to which a picture is brought before its cells are read."""
CELL, PIXEL = 0.17, 0.1
"""Variance, in cells squared, of what a cell sees of the picture, and of what a pixel as large as a cell saw."""
SOFT, TIGHT = 0.25, 0.02
"""Blur (variance in cells squared) that both pictures get before they are compared, and the least that reads a sketch without gaps."""
COARSE = 16
"""Cells along each side when windows are looked for."""
ALIKE, ALIKE_WHOLE = 0.55, 0.25
"""Least correlation of edges at which a window, or the whole picture, is looked at closely."""
TRIES = 3
"""Ways of laying one over the other that are looked at closely, the likeliest first."""
LOOK = 12
"""Pictures of a library that `matches` looks at closely, the likeliest first."""
HAZE = (4.0, 4.0, 2.0, 2.0, 1.0, 1.0, 0.5, 0.5, 0.0, 0.0, 0.0)
"""Further blur in each round of fitting: from far misplaced to exact."""
PATIENCE, HOPELESS = 3, 0.1
"""Rounds after which a fit is given up when more than this share of the lightness is unexplained."""
BORDER = 2
"""Cells along the border that do not count: there a crop has seen less than the picture it was taken from."""
FLOOR = 0.02
"""Share of a picture's contrast that counts as drawn everywhere, so that flat places do not divide by nothing."""
_GREY = np.asarray([0.299, 0.587, 0.114], np.float32)


def descriptor(image: Image.Image) -> bytes:
    """The descriptor (SIZE bytes) of a picture of any size and mode."""
    fine = np.asarray(image.convert("RGB").resize((FINE, FINE), Image.Resampling.BICUBIC), np.float32) / 255
    shrink = _sampler(np.zeros(1), np.ones(1), SIDE, CELL, FINE)[0]
    cells = np.einsum("yr,rcd,xc->dyx", shrink, fine, shrink, optimize=True)
    light = np.einsum("dyx,d->yx", cells, _GREY)
    planes = np.stack([light, (1 + cells[2] - light) / 2, (1 + cells[0] - light) / 2])
    head = HEAD.pack(VERSION, min(image.width, 65535), min(image.height, 65535))
    return head + np.round(255 * planes.clip(0, 1)).astype(np.uint8).tobytes()


def is_near(a: bytes, b: bytes) -> bool:
    """Is one picture a near-duplicate of the other, at the published operating point?"""
    return distance(a, b) <= NEAR


def distance(a: bytes, b: bytes) -> float:
    """Distance (0 to FAR, symmetric) of two descriptors. Raises HarnessError for what is none."""
    one, two = (_read(blob) for blob in sorted((bytes(a), bytes(b))))
    if a == b:
        return 0.0
    ways = sorted(_ways(one, two, True) + _ways(two, one, False), key=lambda way: -way.alike)[:TRIES]
    return min((_fitted(way) for way in ways), default=FAR)


def matches(queries: Sequence[bytes], library: Sequence[bytes], look: int = LOOK) -> list[list[tuple[int, float]]]:
    """For each query the near-duplicates in a library, nearest first, as (index in the library, distance).

    Only the `look` pictures whose edges are most alike are compared closely; a duplicate beyond them is missed.
    """
    alike = np.maximum(_likeness(queries, library), _likeness(library, queries).T)
    found = []
    for query, row in zip(queries, alike, strict=True):
        away = [(int(i), distance(query, library[i])) for i in np.argsort(-row, kind="stable")[:look]]
        found.append(sorted(((i, d) for i, d in away if d <= NEAR), key=lambda pair: pair[1]))
    return found


# --- sketches ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Sketch:
    """A descriptor, unpacked."""

    colours: np.ndarray
    """float32 (3, SIDE, SIDE): lightness, blue and red less lightness"""
    blur: np.ndarray
    """(2,): variance in cells squared, across and down, of what a cell saw"""
    coarse: np.ndarray
    """(2,): cells that a pixel covers, across and down, where that is more than one"""
    edges: np.ndarray
    """float32 (2, COARSE²): edges of the whole picture, straight and mirrored, of length 1"""
    windows: np.ndarray
    """float32 (windows, COARSE²): edges of every window, of length 1"""


@lru_cache(maxsize=512)
def _read(blob: bytes) -> _Sketch:
    if len(blob) != SIZE or blob[0] != VERSION:
        raise HarnessError(f"not a perceptual descriptor of version {VERSION} ({len(blob)} bytes, wanted {SIZE}); make it again from the picture.")
    planes = np.frombuffer(blob, np.uint8, offset=HEAD.size).reshape(3, SIDE, SIDE) / np.float32(255)
    colours = np.concatenate([planes[:1], 2 * planes[1:] - 1])
    ratio = SIDE / np.maximum(1, HEAD.unpack_from(blob)[1:])
    edges = _edges(colours)
    whole = _cut(edges, _WINDOWS[:1])[0]
    return _Sketch(colours, CELL + PIXEL * ratio**2, np.maximum(1, ratio), _unit(np.stack([whole, whole[:, ::-1]])), _unit(_cut(edges, _WINDOWS)))


def _edges(colours: np.ndarray) -> np.ndarray:
    """Length of the gradient over all colours (Di Zenzo 1986), strong edges held down."""
    padded = np.pad(colours, ((0, 0), (1, 1), (1, 1)), mode="edge")
    across, down = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2], padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    return np.log1p(20 * np.sqrt((across**2 + down**2).sum(axis=0)))


def _sampler(first: np.ndarray, last: np.ndarray, cells: int, blur: np.ndarray | float, source: int = SIDE) -> np.ndarray:
    """(k, cells, source): rows that read `cells` places between first and last (k shares of the side), with a Gaussian view."""
    at = first[:, None] + (last - first)[:, None] * (np.arange(cells) + 0.5) / cells
    away = ((source * at - 0.5).clip(0, source - 1)[..., None] - np.arange(source)) * (SIDE / source)
    weight = np.exp(-(away**2) / (2 * np.broadcast_to(blur, first.shape)[:, None, None]))
    return (weight / weight.sum(axis=2, keepdims=True)).astype(np.float32)


def _cut(plane: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """(k, COARSE, COARSE): windows (k, 4: left, right, top, bottom) of a plane."""
    blur = np.maximum(SOFT, ((windows[:, 1::2] - windows[:, ::2]) * SIDE / COARSE) ** 2 / 6)
    across = _sampler(windows[:, 0], windows[:, 1], COARSE, blur[:, 0])
    down = _sampler(windows[:, 2], windows[:, 3], COARSE, blur[:, 1])
    return down @ plane @ across.swapaxes(1, 2)


def _unit(planes: np.ndarray) -> np.ndarray:
    """(k, cells²): rows without their mean, of length 1."""
    rows = planes.reshape(len(planes), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def _window_list() -> np.ndarray:
    """(k, 4): the whole, then square crops and strips, side by side within a coarse cell."""
    def starts(scale: float) -> np.ndarray:
        return np.linspace(0, 1 - scale, 1 + int(np.ceil((1 - scale) * COARSE / 1.2 - 1e-9)))

    scales = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)
    square = [(x, x + s, y, y + s) for s in scales for x, y in product(starts(s), repeat=2)]
    strips = [(x, x + s) for s in scales for x in starts(s)]
    return np.asarray([(0, 1, 0, 1), *square, *((*s, 0, 1) for s in strips), *((0, 1, *s) for s in strips)], np.float32)


_WINDOWS = _window_list()


# --- laying one over the other ----------------------------------------------------------------------------------------


class _Way(NamedTuple):
    """One way in which `part` may show `whole`, or a window of it."""

    alike: float
    whole: _Sketch
    window: np.ndarray
    part: _Sketch
    mirrored: bool


def _ways(whole: _Sketch, part: _Sketch, uncropped: bool) -> list[_Way]:
    """The likeliest crop, and the whole picture where that is asked for, straight and mirrored."""
    alike = whole.windows @ part.edges.T
    crops = [(int(alike[1:, m].argmax()) + 1, m, ALIKE) for m in (0, 1)]
    wholes = [(0, m, ALIKE_WHOLE) for m in (0, 1)] if uncropped else []
    return [_Way(float(alike[i, m]), whole, _WINDOWS[i], part, bool(m)) for i, m, least in crops + wholes if alike[i, m] >= least]


def _likeness(parts: Sequence[bytes], wholes: Sequence[bytes]) -> np.ndarray:
    """(n, m): highest correlation of a part's edges with those of any window of a whole, straight or mirrored."""
    edges = np.concatenate([_read(blob).edges for blob in parts]) if parts else np.zeros((0, COARSE**2), np.float32)
    best = [(_read(blob).windows @ edges.T).max(axis=0).reshape(-1, 2).max(axis=1) for blob in wholes]
    return np.stack(best, axis=1) if best else np.zeros((len(parts), 0), np.float32)


def _fitted(way: _Way) -> float:
    """What stays unexplained when the window has been moved and stretched to fit (Lucas and Kanade 1981, colours set free)."""
    best, window = FAR, way.window
    for done, haze in enumerate(HAZE):
        inside, other = _overlaid(way, window, haze)
        left, guess = _explain(inside, other[0])
        if done >= PATIENCE and _core(left**2).mean() > HOPELESS * (_core(other[0]).var() + 1e-4):
            break
        if not haze:
            best = min(best, _worst(left, other[0]), _worst(_explain(other, inside[0])[0], inside[0]))
        window = _moved(window, left, guess)
    return best


def _overlaid(way: _Way, window: np.ndarray, haze: float) -> tuple[np.ndarray, np.ndarray]:
    """Colours (3, SIDE, SIDE) of the window and of the part, on the same cells and equally sharp."""
    scale = window[1::2] - window[::2]
    seen = way.whole.blur / scale**2
    common = np.maximum(seen, way.part.blur) + SOFT * np.maximum(way.whole.coarse / scale, way.part.coarse) ** 2 + haze
    part = way.part.colours[..., ::-1] if way.mirrored else way.part.colours
    return _seen_through(way.whole.colours, window, (common - seen) * scale**2), _seen_through(part, _WINDOWS[0], common - way.part.blur)


def _seen_through(colours: np.ndarray, window: np.ndarray, blur: np.ndarray) -> np.ndarray:
    across, down = (_sampler(window[[i]], window[[i + 1]], SIDE, max(float(blur[i // 2]), TIGHT))[0] for i in (0, 2))
    return down @ colours @ across.T


def _explain(colours: np.ndarray, light: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(left over, guess), each (SIDE, SIDE): `light` as a quadratic of `colours`; after the first round outliers count less."""
    y, b, r = colours.reshape(3, -1).astype(np.float64)
    terms = np.stack([np.ones_like(y), y, b, r, y * y, y * b, y * r, b * b, b * r, r * r])
    weighted = terms
    for _ in range(3):
        guess = np.linalg.solve(weighted @ terms.T + 1e-3 * np.eye(10), weighted @ light.ravel()) @ terms
        left = light.ravel() - guess
        weighted = terms / (1 + (left / (1.5 * np.median(np.abs(left)) + 0.01)) ** 2)
    return left.reshape(SIDE, SIDE), guess.reshape(SIDE, SIDE)


def _moved(window: np.ndarray, left: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """The window after a step of Gauss and Newton on its four sides."""
    down, across = np.gradient(guess)
    place = (np.arange(SIDE) + 0.5) / SIDE
    slopes = np.stack([across * (1 - place), across * place, down * (1 - place)[:, None], down * place[:, None]])
    slopes, rest = np.stack([_core(slope).ravel() for slope in slopes]), _core(left).ravel()
    step = np.linalg.solve(slopes @ slopes.T + 1e-4 * np.eye(4), slopes @ rest).clip(-2, 2)
    return (window + np.repeat(window[1::2] - window[::2], 2) * step / SIDE).astype(np.float32)


def _worst(left: np.ndarray, light: np.ndarray) -> float:
    """Largest local share of what is drawn in `light` that was left over."""
    down, across = np.gradient(light)
    drawn = _smooth(down**2 + across**2, 9.0) + FLOOR * (float(light.std()) + 0.02) ** 2
    return float(np.sqrt(_core(_smooth(left**2, 1.0) / drawn).max()))


def _core(plane: np.ndarray) -> np.ndarray:
    return plane[BORDER:-BORDER, BORDER:-BORDER]


def _smooth(plane: np.ndarray, blur: float) -> np.ndarray:
    spread = _spread(blur)
    return spread @ plane @ spread.T


@lru_cache(maxsize=None)
def _spread(blur: float) -> np.ndarray:
    """(SIDE, SIDE): smooths a column."""
    return _sampler(np.zeros(1), np.ones(1), SIDE, blur)[0]
