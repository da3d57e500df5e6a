"""What survives what: marks on a picture against what happens to pictures on their way.

Marks: a sidecar (a file beside it that names it by hash), a text field in the PNG, C2PA content credentials, and a simple
frequency watermark. Ways: saved anew as PNG, JPEG of quality 75, half the size, a crop to the middle 80 %, a screenshot of a
web page in Chromium. A mark survives when its reader, given only the new file and its own records, still finds it and says the
same. The watermark's threshold is set on pictures without one that are not counted below.

    python benchmarks/survival.py [--images 40] [--size 256] [--out results/published]
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from harness import stats
from harness.errors import HarnessError
from harness.images import atomic_write, save_png, sha256, write_csv
from harness.report import certificate, credentials
from harness.world import artists, render

SAID = {"cawg.ai_generative_training": "notAllowed"}
KEY, BAND, STRENGTH = 20260131, (0.05, 0.25), 0.12
"""of the watermark: seed of the pattern; its band, as shares of the highest frequency; its strength beside the coefficients there"""
ALARM = 0.01
"""share of pictures without a watermark that its threshold lets through"""


def main() -> None:
    """Mark, send on their way, read; write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=40, help="pictures counted; as many again, of other artists, set the threshold (default: 40)")
    parser.add_argument("--size", type=int, default=256, help="pixels a side (default: 256)")
    parser.add_argument("--out", type=Path, default=Path("results/published"), help="folder for the table")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work, screen() as shoot:
        table, dull = measure(Path(work), args.images, args.size, shoot)
    args.out.mkdir(parents=True, exist_ok=True)
    write_csv(args.out / "survival.csv", table)
    atomic_write(args.out / "survival.md", markdown(table, dull, args.images, args.size))
    print(markdown(table, dull, args.images, args.size))


# --- the ways ---------------------------------------------------------------------------------------------------------


@contextmanager
def screen() -> Iterator[Callable[[Path, Path], None]]:
    """Shows a picture on a web page in Chromium and takes a screenshot of where it stands."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 900, "height": 700})

        def shoot(source: Path, to: Path) -> None:
            page.goto("about:blank")
            html = to.with_suffix(".html")
            html.write_text(f'<body style="margin:20px"><p>A picture:</p><img src="{source.resolve().as_uri()}">', encoding="utf-8")
            page.goto(html.as_uri())
            page.locator("img").screenshot(path=to)

        yield shoot
        browser.close()


def ways(shoot: Callable[[Path, Path], None]) -> dict[str, Callable[[Path, Path], Path]]:
    """Every way, as a function from a file to the new file; it may give it another ending."""

    def saved(change: Callable[[Image.Image], Image.Image], suffix: str = ".png", **options: Any) -> Callable[[Path, Path], Path]:
        def go(source: Path, to: Path) -> Path:
            with Image.open(source) as picture:
                change(picture.convert("RGB")).save(to.with_suffix(suffix), **options)
            return to.with_suffix(suffix)
        return go

    def shot(source: Path, to: Path) -> Path:
        shoot(source, to)
        return to

    def copied(source: Path, to: Path) -> Path:
        return Path(shutil.copy(source, to))

    def crop(picture: Image.Image) -> Image.Image:
        w, h = picture.size
        return picture.crop((w // 10, h // 10, w - w // 10, h - h // 10))

    return {"copied": copied, "PNG saved anew": saved(lambda p: p, compress_level=9), "JPEG 75": saved(lambda p: p, ".jpg", quality=75),
            "half the size": saved(lambda p: p.resize((p.width // 2, p.height // 2), Image.Resampling.LANCZOS)), "cropped to 80 %": saved(crop), "screenshot": shot}


# --- the marks --------------------------------------------------------------------------------------------------------


def pattern(side: int) -> tuple[np.ndarray, np.ndarray]:
    """The watermark's coefficients (mask) and its signs, for a picture of this side."""
    u, v = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    radius = np.hypot(u, v) / side
    return (radius > BAND[0]) & (radius < BAND[1]), np.random.default_rng(KEY).choice((-1.0, 1.0), size=(side, side))


def watermark(picture: np.ndarray) -> np.ndarray:
    """Add a keyed pattern of signs to the middle frequencies of the luminance (spread spectrum; Cox et al., IEEE TIP 6, 1997)."""
    from scipy import fft

    luminance = picture.astype(np.float64).mean(axis=2)
    mask, signs = pattern(len(luminance))
    spectrum = fft.dctn(luminance, norm="ortho")
    scale = STRENGTH * np.abs(spectrum[mask]).std() + 2.0
    added = fft.idctn(np.where(mask, scale * signs, 0.0), norm="ortho")
    return np.clip(picture + added[..., None], 0, 255).round().astype(np.uint8)


def strength(path: Path, side: int) -> float:
    """How much of the pattern is in a picture: its correlation with the signs, in standard errors. Scaled to `side` first."""
    from scipy import fft

    with Image.open(path) as picture:
        grey = np.asarray(picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64).mean(axis=2)
    mask, signs = pattern(side)
    found = fft.dctn(grey, norm="ortho")[mask]
    bounded = np.clip(found, *np.quantile(found, (0.05, 0.95)))
    return float((bounded * signs[mask]).sum() / np.sqrt((bounded**2).sum()))


def text_field(path: Path) -> str:
    """What the PNG's text field says."""
    with Image.open(path) as picture:
        return str(picture.info.get("likeness", ""))


def credential(path: Path) -> str:
    """What intact content credentials say about training."""
    try:
        held = credentials.read(path)
    except HarnessError:
        return ""
    return held.assertions.get("cawg.training-mining", {}).get("entries", {}).get("cawg.ai_generative_training", {}).get("use", "") if held and held.intact else ""


# --- the measurement --------------------------------------------------------------------------------------------------


def pictures(names: list[str], n: int, size: int) -> Iterator[np.ndarray]:
    """Portraits of several artists in turn."""
    each = -(-n // len(names))
    for name in names:
        for picture, _ in render.rows(artists.artist(name), "held-out", each, seed=1, each=1, size=size):
            yield np.asarray(picture)


def marked(work: Path, picture: np.ndarray, chain: tuple[Path, Path]) -> dict[str, Path]:
    """One picture in four copies, each with one mark."""
    files = {name: work / f"{name.replace(' ', '-')}.png" for name in ("sidecar", "PNG text", "C2PA", "frequency watermark")}
    save_png(files["sidecar"], picture)
    save_png(files["PNG text"], picture, {"likeness": json.dumps(SAID)})
    credentials.sign(files["sidecar"], files["C2PA"], *chain, SAID)
    save_png(files["frequency watermark"], watermark(picture))
    return files


def measure(work: Path, images: int, size: int, shoot: Callable[[Path, Path], None]) -> tuple[pd.DataFrame, float]:
    """One row a mark and a way, with how many survived; and the mean PSNR of the watermark."""
    chain, everyone = certificate.make(work / "certificate", "A Signer"), [a.name for a in artists.base_artists()]
    half = len(everyone) // 2
    threshold = limit(work, list(pictures(everyone[half:], images, size))[:images], size, ways(shoot))
    counts, noise = {}, []
    for picture in list(pictures(everyone[:half], images, size))[:images]:
        files = marked(work, picture, chain)
        noise.append(psnr(picture, files["frequency watermark"]))
        known = {sha256(files["sidecar"]): SAID}
        for way, go in ways(shoot).items():
            new = {name: go(path, work / f"sent-{name.replace(' ', '-')}.png") for name, path in files.items()}
            kept = {"sidecar": known.get(sha256(new["sidecar"])) == SAID, "PNG text": text_field(new["PNG text"]) == json.dumps(SAID),
                    "C2PA": credential(new["C2PA"]) == "notAllowed", "frequency watermark": strength(new["frequency watermark"], size) > threshold,
                    "no mark, read as watermarked": strength(new["sidecar"], size) > threshold}
            for name, stays in kept.items():
                counts.setdefault((name, way), []).append(stays)
    rows = [{"mark": name, "way": way, "survived": sum(kept), "n": len(kept), **bounds(sum(kept), len(kept))} for (name, way), kept in counts.items()]
    return pd.DataFrame(rows), float(np.mean(noise))


def limit(work: Path, plain: list[np.ndarray], size: int, every: dict[str, Callable[[Path, Path], Path]]) -> float:
    """The threshold: the quantile of pictures without a mark, sent on every way, taken as normal so that few pictures suffice."""
    read = []
    for picture in plain:
        save_png(work / "plain.png", picture)
        read += [strength(go(work / "plain.png", work / "plain-sent.png"), size) for go in every.values()]
    from scipy.stats import norm

    return float(np.mean(read) + norm.ppf(1 - ALARM) * np.std(read))


def bounds(k: int, n: int) -> dict[str, float]:
    """The exact interval of a share."""
    found = stats.rate_interval(k, n)
    return {"low": found.low, "high": found.high}


def psnr(picture: np.ndarray, path: Path) -> float:
    """Of the watermarked picture against the plain one, in dB."""
    with Image.open(io.BytesIO(path.read_bytes())) as other:
        error = np.mean((np.asarray(other, dtype=np.float64) - picture) ** 2)
    return 10 * float(np.log10(255**2 / error))


def markdown(table: pd.DataFrame, dull: float, images: int, size: int) -> str:
    """The matrix, survived of tried."""
    every = list(dict.fromkeys(table.way))
    lines = [f"Which mark survives what, on {images} drawn portraits of {size} × {size} pixels.", "", "| mark | " + " | ".join(every) + " |", "|---" * (len(every) + 1) + "|"]
    for mark, part in table.groupby("mark", sort=False):
        cells = part.set_index("way")
        lines.append(f"| {mark} | " + " | ".join(f"{cells.survived[way]}/{cells.n[way]}" for way in every) + " |")
    none = stats.zero_events_bound(images)
    return "\n".join([*lines, "", f"None of {images} is at most {none:.1%} at 95 %. The sidecar is looked up by the hash of the file. C2PA counts as surviving when its signature still fits the "
                      f"picture. The watermark costs {dull:.1f} dB PSNR; its threshold is set for {ALARM:.0%} of other pictures without one, and the last row says how many of these here it "
                      "wrongly marks. It is a plain textbook watermark, nobody tried to remove it, and it says nothing about better ones."]) + "\n"


if __name__ == "__main__":
    main()
