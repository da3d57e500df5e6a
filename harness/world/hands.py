"""Pseudo-artists: deterministic parametric hands laid over drawn portraits.

A hand is a consistent style: tones, ink, texture, shading, background and framing, all drawn once from its number. Forty-eight
of them are the null for rank tests, since no miniature model has met one. A hand recolours skin and hair, so works of a
pseudo-artist carry no truth about colours.
"""

from __future__ import annotations

import colorsys
import math
import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

Colour = tuple[float, float, float]
TEXTURES = ("plain", "hatch", "cross-hatch", "dots", "grain", "waves")
BACKGROUNDS = ("plain", "stripes", "spots", "disc", "split", "rays", "gradient")


@dataclass(frozen=True)
class Hand:
    """The parameters of one pseudo-artist."""

    tones: tuple[Colour, Colour, Colour]
    """colours that shadows, middle tones and lights are drawn towards, each (r, g, b) in 0–1"""
    tint: float
    """how far: 0 keeps the portrait's own colours, 1 uses the tones alone"""
    ink: float
    """strength of the ink lines drawn along edges, 0–1"""
    ink_width: int
    """width of those lines in pixels at 128 × 128"""
    texture: str
    """one of TEXTURES"""
    period: float
    """period of the texture in pixels at 128 × 128"""
    angle: float
    """direction of texture and light in radians"""
    strength: float
    """contrast of the texture, 0–1"""
    light: float
    """strength of the shading across the picture, 0–1"""
    background: str
    """one of BACKGROUNDS"""
    ground: tuple[Colour, Colour]
    """the two colours of the background"""
    scale: float
    """size of the figure relative to the original"""
    tilt: float
    """rotation of the figure in degrees"""
    frame: int
    """width of a drawn border in pixels at 128 × 128"""


@lru_cache(maxsize=None)
def hand(number: int) -> Hand:
    """The hand with a number; the same number always gives the same hand."""
    rng = random.Random(f"hand/{number}")
    hue, spread = rng.random(), rng.uniform(0.05, 0.35)
    tones = (_tone(rng, hue, 0.12, 0.3), _tone(rng, hue + spread, 0.45, 0.65), _tone(rng, hue + 2 * spread, 0.85, 0.98))
    ground = (_tone(rng, rng.random(), 0.35, 0.95), _tone(rng, rng.random(), 0.35, 0.95))
    return Hand(tones, rng.uniform(0.3, 0.85), rng.choice((0.0, 0.5, 0.9)), rng.choice((1, 3, 5)), rng.choice(TEXTURES),
                rng.uniform(6, 14), rng.uniform(0, math.pi), rng.uniform(0.25, 0.6), rng.uniform(0.0, 0.5), rng.choice(BACKGROUNDS),
                ground, rng.uniform(0.78, 1.2), rng.uniform(-14, 14), rng.choice((0, 0, 4, 8)))


def draw(style: Hand, portrait: Any, size: int = 64) -> Any:
    """Lay a hand over a portrait. `portrait` is a harness.world.people.Portrait; returns a PIL RGB image (size × size)."""
    import numpy as np
    from PIL import Image

    work = 128
    figure = _place(style, portrait.image(work, background=None))
    rgba = np.asarray(figure, dtype=np.float32) / 255
    mask, colours = rgba[..., 3:], rgba[..., :3]
    picture = mask * _inked(style, _toned(style, colours), colours, mask) + (1 - mask) * _ground(style, work)
    picture = _framed(style, _lit(style, _textured(style, picture, portrait)))
    out = Image.fromarray((picture.clip(0, 1) * 255 + 0.5).astype(np.uint8))
    return out.resize((size, size), Image.Resampling.BOX if work % size == 0 else Image.Resampling.LANCZOS)


def _tone(rng: random.Random, hue: float, low: float, high: float) -> Colour:
    return colorsys.hls_to_rgb(hue % 1.0, rng.uniform(low, high), rng.uniform(0.25, 0.9))


def _place(style: Hand, figure: Any) -> Any:
    from PIL import Image

    size = figure.size[0]
    side = round(size * style.scale)
    turned = figure.resize((side, side), Image.Resampling.LANCZOS).rotate(style.tilt, Image.Resampling.BICUBIC)
    canvas = Image.new("RGBA", (size, size), (255, 255, 255, 0))
    canvas.alpha_composite(turned.crop((max(0, (side - size) // 2), max(0, (side - size) // 2), side, side)).crop((0, 0, size, size)),
                           (max(0, (size - side) // 2), max(0, size - side)))
    return canvas


def _toned(style: Hand, colours: Any) -> Any:
    import numpy as np

    grey = colours @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    mapped = np.stack([np.interp(grey, (0, 0.5, 1), [t[c] for t in style.tones]) for c in range(3)], -1)
    return (1 - style.tint) * colours + style.tint * mapped


def _inked(style: Hand, toned: Any, colours: Any, mask: Any) -> Any:
    import numpy as np
    from PIL import Image, ImageFilter

    if not style.ink:
        return toned
    grey = Image.fromarray(((colours.mean(-1) * mask[..., 0]) * 255).astype(np.uint8))
    edges = grey.filter(ImageFilter.FIND_EDGES).filter(ImageFilter.MaxFilter(style.ink_width))
    weight = style.ink * (np.asarray(edges, dtype=np.float32)[..., None] / 96).clip(0, 1)
    return toned * (1 - weight) + np.array(style.tones[0], dtype=np.float32) * weight


def _grid(size: int) -> tuple[Any, Any]:
    import numpy as np

    return np.meshgrid(np.arange(size, dtype=np.float32), np.arange(size, dtype=np.float32))


def _textured(style: Hand, picture: Any, portrait: Any) -> Any:
    import numpy as np

    x, y = _grid(picture.shape[0])
    u = (x * math.cos(style.angle) + y * math.sin(style.angle)) * 2 * math.pi / style.period
    v = (y * math.cos(style.angle) - x * math.sin(style.angle)) * 2 * math.pi / style.period
    rng = np.random.default_rng(int.from_bytes(portrait.person[-8:].encode(), "big") % 2**32 + portrait.number)
    pattern = {"plain": lambda: np.zeros_like(u), "hatch": lambda: np.sin(u) > 0.3, "cross-hatch": lambda: np.maximum(np.sin(u), np.sin(v)) > 0.6,
               "dots": lambda: np.sin(u) * np.sin(v) > 0.3, "grain": lambda: rng.random(u.shape) > 0.6,
               "waves": lambda: np.sin(u + 2 * np.sin(v / 2)) > 0.3}[style.texture]().astype(np.float32)
    darkness = 1 - picture.mean(-1)
    return picture * (1 - style.strength * (pattern * (0.35 + 0.65 * darkness)))[..., None]


def _lit(style: Hand, picture: Any) -> Any:
    x, y = _grid(picture.shape[0])
    side = (x * math.cos(style.angle) + y * math.sin(style.angle)) / picture.shape[0] - 0.5
    return picture * (1 - style.light * side.clip(0, 1) * 1.4)[..., None]


def _ground(style: Hand, size: int) -> Any:
    import numpy as np

    x, y = _grid(size)
    cx, cy = x - size / 2, y - size / 2
    u = x * math.cos(style.angle + 0.7) + y * math.sin(style.angle + 0.7)
    share = {"plain": lambda: 0 * x, "stripes": lambda: np.sin(u * 2 * math.pi / (2.5 * style.period)) > 0,
             "spots": lambda: np.sin(x * 2 * math.pi / (3 * style.period)) * np.sin(y * 2 * math.pi / (3 * style.period)) > 0.35,
             "disc": lambda: cx**2 + cy**2 < (0.42 * size) ** 2, "split": lambda: u > u.mean(),
             "rays": lambda: np.sin(np.arctan2(cy, cx) * 8 + style.angle) > 0, "gradient": lambda: y / size}[style.background]()
    share = np.asarray(share, dtype=np.float32)[..., None]
    return share * np.array(style.ground[0], dtype=np.float32) + (1 - share) * np.array(style.ground[1], dtype=np.float32)


def _framed(style: Hand, picture: Any) -> Any:
    if style.frame:
        f = style.frame
        picture[:f], picture[-f:], picture[:, :f], picture[:, -f:] = (style.tones[0],) * 4
    return picture
