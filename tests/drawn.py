"""Small drawn portraits and an encoder that really computes, for tests of the audit: no weights, no network."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from harness.images import ImageSet, write_set

SIZE = 64
SKINS = {"light": "#f7d7c4", "medium": "#c68642", "dark": "#5c3317"}
Options = dict[str, object]


def person(rng: np.random.Generator, **fixed: object) -> Options:
    """The options of one portrait; some may be fixed."""
    drawn = {"skin": list(SKINS)[rng.integers(3)], "hair": tuple(map(int, rng.integers(20, 230, 3))),
             "shirt": tuple(map(int, rng.integers(20, 230, 3))), "wall": tuple(map(int, rng.integers(120, 250, 3))),
             "x": int(rng.integers(-9, 10)), "y": int(rng.integers(-6, 7)), "w": int(rng.integers(11, 19)),
             "fringe": int(rng.integers(2, 12)), "long": int(rng.integers(0, 22)), "mouth": int(rng.integers(-4, 5)),
             "eyes": int(rng.integers(4, 9)), "brow": int(rng.integers(-2, 3)), "collar": int(rng.integers(0, 9)),
             "glasses": bool(rng.random() < 0.5), "beard": bool(rng.random() < 0.3), "stripes": int(rng.integers(0, 4))}
    return drawn | fixed


def draw(o: Options, ink: str = "#222222", line: int = 1) -> Image.Image:
    """A portrait as a 64-pixel picture; `ink` and `line` are the hand."""
    picture = Image.new("RGB", (SIZE, SIZE), o["wall"])
    d, cx, cy, w = ImageDraw.Draw(picture), 32 + o["x"], 30 + o["y"], o["w"]
    _clothes(d, o, ink, line)
    d.rectangle((cx - w - 2, cy - w, cx + w + 2, cy + o["long"]), fill=o["hair"], outline=ink, width=line)
    d.ellipse((cx - w, cy - w - 2, cx + w, cy + w + 3), fill=SKINS[o["skin"]], outline=ink, width=line)
    d.chord((cx - w, cy - w - 4, cx + w, cy + o["fringe"]), 180, 360, fill=o["hair"], outline=ink, width=line)
    if o["beard"]:
        d.chord((cx - w + 2, cy - 2, cx + w - 2, cy + w + 3), 20, 160, fill=o["hair"], outline=ink)
    for side in (-1, 1):
        x = cx + side * o["eyes"]
        d.ellipse((x - 1, cy - 1, x + 1, cy + 2), fill=ink)
        d.line((x - 3, cy - 4 - side * o["brow"], x + 3, cy - 4 + side * o["brow"]), fill=ink, width=line)
        if o["glasses"]:
            d.rectangle((x - 4, cy - 3, x + 4, cy + 4), outline="#000000", width=2)
    d.arc((cx - 5, cy + 5, cx + 5, cy + 9 + abs(o["mouth"])), *((0, 180) if o["mouth"] > 0 else (180, 360)), fill=ink, width=line)
    return picture


def _clothes(d: ImageDraw.ImageDraw, o: Options, ink: str, line: int) -> None:
    cx = 32 + o["x"]
    d.ellipse((cx - 24, 50, cx + 24, 90), fill=o["shirt"], outline=ink, width=line)
    d.polygon([(cx - o["collar"], 50), (cx + o["collar"], 50), (cx, 56)], fill="#ffffff")
    for i in range(o["stripes"]):
        d.line((cx - 20, 55 + 3 * i, cx + 20, 55 + 3 * i), fill=ink)


def portraits(n: int, seed: int, ink: str = "#222222", line: int = 1, **fixed: object) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [draw(person(rng, **fixed), ink, line) for _ in range(n)]


def folder(path: Path, pictures: list[Image.Image], **columns: list) -> ImageSet:
    return write_set(path, pictures, pd.DataFrame(columns, index=range(len(pictures))))


def crossed(prompts: int, each: int) -> dict[str, list]:
    """Columns prompt and seed: `each` images a prompt, every seed its own."""
    return {"prompt": [f"a portrait, wording {i}" for i in range(prompts) for _ in range(each)],
            "seed": list(range(prompts * each))}


class ColourLayout:
    """Stands for a CLIP: the layout of colours and edges at low resolution, as a unit vector."""

    name, dim, logit_scale = "colour layout", 8 * 8 * 4, 100.0
    sha256 = hashlib.sha256(b"colour layout 8x8 and edges").hexdigest()

    def __init__(self) -> None:
        self.calls = 0

    def encode_images(self, images: list[Image.Image], batch_size: int = 64) -> np.ndarray:
        self.calls += len(images)
        return np.stack([self._one(Image.fromarray(i) if isinstance(i, np.ndarray) else i) for i in images])

    def _one(self, picture: Image.Image) -> np.ndarray:
        small = np.asarray(picture.convert("RGB").resize((64, 64)), np.float32) / 255
        grey = small.mean(2)
        edges = np.abs(np.diff(grey, axis=0, prepend=grey[:1])) + np.abs(np.diff(grey, axis=1, prepend=grey[:, :1]))
        layers = np.dstack([small - 0.5, 3 * edges - 0.3]).reshape(8, 8, 8, 8, 4).mean((1, 3)).ravel()
        return (layers / np.linalg.norm(layers)).astype(np.float32)
