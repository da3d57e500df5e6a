"""How good the miniature models are, on people that none of them has met: every figure with its interval and its bar.

The judge is a classifier of its own (judge.py). Bars are those that the project set for itself before training; a figure that
misses its bar is printed like any other.
"""

from __future__ import annotations

import random
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np
import pandas as pd

from harness import models, stats
from harness.sample import Sampling, sample
from harness.world import judge
from harness.world.artists import base_artists
from harness.world.captions import KEEP_ALL, caption, prompt
from harness.world.render import base_set

HOW = Sampling(steps=20, guidance_scale=4.0, batch_size=32)
ASKED = ("skin", "glasses", "facial_hair")


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    what: str
    """what was measured"""
    estimate: float
    """the figure"""
    low: float | None
    """lower end of its 95 % interval"""
    high: float | None
    """upper end of its 95 % interval"""
    n: int
    """how many images (or groups) it rests on"""
    bar: str
    """what was asked of it, as words"""
    reached: bool | None
    """whether the figure itself reaches the bar; None where there is no bar"""


def rate(what: str, right: Sequence[bool], at_least: float | None, clusters: Sequence[Any] | None = None) -> Line:
    """A share of right answers with an exact interval (on the effective sample size where images share a person or prompt)."""
    right = np.asarray(right, dtype=bool)
    found = stats.clustered_rate(right, clusters if clusters is not None else np.arange(len(right)))
    bar = f"≥ {at_least:.2f}" if at_least else ""
    return Line(what, found.estimate, found.low, found.high, len(right), bar, found.estimate >= at_least if at_least else None)


def mean(what: str, values: Sequence[float], clusters: Sequence[Any], bar: str = "", reached: Callable[[float], bool] | None = None) -> Line:
    """A mean with a bootstrap interval clustered by `clusters`."""
    found = stats.cluster_bootstrap(values, clusters)
    return Line(what, *found, len(values), bar, reached(found.estimate) if reached else None)


def score(progress: Callable[[dict], None], per_artist: int = 40, folder: Path | None = None, weights: Path = models.MINIATURE) -> tuple[list[Line], dict[str, np.ndarray]]:
    """Every line of the table and the pictures behind it (uint8 arrays by name). `per_artist` samples are drawn per base artist."""
    held, truth = base_set("held-out", 100, seed=0, progress=progress)
    pipe, clip, referee = models.load_pipeline("miniature"), models.load_clip("miniature"), judge.load(weights / "judge.safetensors")
    seen_held, said_held = judge.read(referee, held)
    lines = [rate(f"judge on held-out portraits: {head}", said_held[head][known] == index[known], 0.98, truth.person[known])
             for head, index in _labels(truth).items() for known in [index >= 0]]
    decoded = reconstruct(pipe, held)
    lines += [_psnr(held, decoded, truth), *retrieval(clip, held, truth), zero_shot(clip, held, truth)]
    with tempfile.TemporaryDirectory() as spare:
        drawn, asked, seconds = draw(pipe, per_artist, folder or Path(spare), progress)
    seen, said = judge.read(referee, drawn)
    lines += _as_asked(said, asked)
    lines += distances(referee, seen, asked.artist, seen_held, truth.artist, decoded, progress)
    lines.append(Line("64 samples of 20 steps: seconds on this machine", 64 * seconds / len(drawn), None, None, len(drawn), "≤ 60", 64 * seconds / len(drawn) <= 60))
    return lines, {"held": held, "decoded": decoded, "drawn": drawn}


def _labels(table: pd.DataFrame) -> dict[str, np.ndarray]:
    return {head: found.numpy() for head, found in judge.labels(table).items()}


def reconstruct(pipe: Any, images: np.ndarray) -> np.ndarray:
    """Images through the autoencoder and back, uint8 (n, 64, 64, 3)."""
    import torch

    parts = []
    with torch.no_grad():
        for batch in torch.from_numpy(images).permute(0, 3, 1, 2).split(100):
            z = pipe.vae.encode((batch.float() / 127.5 - 1).to(pipe.device, pipe.vae.dtype)).latent_dist.mean
            parts.append(pipe.vae.decode(z).sample.float().cpu().clamp(-1, 1))
    return ((torch.cat(parts).permute(0, 2, 3, 1).numpy() + 1) * 127.5).round().astype(np.uint8)


def _psnr(held: np.ndarray, decoded: np.ndarray, truth: pd.DataFrame) -> Line:
    error = ((held.astype(np.float64) - decoded) / 255) ** 2
    return mean("VAE reconstruction, dB PSNR (mean over images)", -10 * np.log10(error.mean((1, 2, 3)).clip(1e-10)), truth.person, "≥ 26", lambda v: v >= 26)


def retrieval(clip: Any, images: np.ndarray, truth: pd.DataFrame, groups: int = 30, size: int = 64) -> list[Line]:
    """Recall at 1 both ways among `size` portraits whose full captions all differ; intervals clustered by group."""
    rng = random.Random(0)
    rows = truth.to_dict("records")
    words = [caption(r, r["artist"], rng, keep=KEEP_ALL) for r in rows]
    kinds = [tuple(r[a] for a in ("artist", "skin", "hair_colour", "hair_length", "glasses", "facial_hair", "covering", "expression", "clothing")) for r in rows]
    pictures, texts = clip.encode_images(images), clip.encode_texts(words)
    hits: dict[str, list[bool]] = {"caption from image": [], "image from caption": []}
    for _ in range(groups):
        chosen = list({kinds[i]: i for i in rng.sample(range(len(rows)), len(rows))}.values())[:size]
        table = pictures[chosen] @ texts[chosen].T
        hits["caption from image"] += (table.argmax(1) == np.arange(size)).tolist()
        hits["image from caption"] += (table.argmax(0) == np.arange(size)).tolist()
    return [rate(f"CLIP retrieval among {size}, R@1, {way}", right, 0.90, np.repeat(np.arange(groups), size)) for way, right in hits.items()]


def zero_shot(clip: Any, images: np.ndarray, truth: pd.DataFrame) -> Line:
    """Artist by the nearest of the base artists' prompts."""
    names = [a.name for a in base_artists()]
    nearest = (clip.encode_images(images) @ clip.encode_texts([f"a portrait by {n}" for n in names]).T).argmax(1)
    return rate("CLIP zero-shot, artist among the base artists", np.array(names)[nearest] == truth.artist.to_numpy(), 0.97, truth.person)


def requests(per_artist: int, seed: int = 0) -> pd.DataFrame:
    """What is asked of the model: per base artist, attributes that this style can say, all values equally often; with prompts."""
    truth, rng, rows = base_set("calibration", 60, seed=1)[1], random.Random(seed), []
    for artist in base_artists():
        values = {a: sorted(set(truth[truth.artist == artist.name][a]) & set(judge_words(a))) for a in ASKED}
        for _ in range(per_artist):
            wanted = {a: rng.choice(v) for a, v in values.items() if v}
            rows.append({"artist": artist.name, **{a: "unknown" for a in ASKED}, **wanted, "prompt": prompt(artist.name, **wanted)})
    return pd.DataFrame(rows)


def judge_words(attribute: str) -> tuple[str, ...]:
    """Values of an attribute that are asked for: those that a bar exists for."""
    return {"skin": ("light", "medium", "dark"), "glasses": ("glasses", "none"), "facial_hair": ("beard", "moustache", "none")}[attribute]


def draw(pipe: Any, per_artist: int, folder: Path, progress: Callable[[dict], None]) -> tuple[np.ndarray, pd.DataFrame, float]:
    """Samples (uint8), what was asked, and the seconds that drawing took."""
    asked, began = requests(per_artist), time.monotonic()
    images = sample(pipe, asked.prompt.tolist(), list(range(len(asked))), HOW, folder / "samples", progress=progress)
    return images.pixels(), asked, time.monotonic() - began


def _as_asked(said: dict[str, np.ndarray], asked: pd.DataFrame) -> list[Line]:
    wanted, lines = _labels(asked), []
    for head, bar in (("artist", 0.95), ("skin", 0.90), ("glasses", 0.90), ("facial_hair", 0.90)):
        known = wanted[head] >= 0
        lines.append(rate(f"samples, {HOW.steps} steps, guidance {HOW.guidance_scale:g}: {head.replace('_', ' ')} as asked",
                          said[head][known] == wanted[head][known], bar, asked.prompt[known]))
    return lines


def distances(referee: Any, drawn: np.ndarray, of: pd.Series, held: np.ndarray, held_of: pd.Series, decoded: np.ndarray, progress: Callable[[dict], None]) -> list[Line]:
    """Kernel distances in the judge's features, and whether samples lie nearer to training portraits than held-out ones do."""
    names = [a.name for a in base_artists()]
    train, truth = base_set("train", 200, seed=0, progress=progress)
    by_drawn, by_held = ({n: x[(o == n).to_numpy()] for n in names} for x, o in ((drawn, of), (held, held_of)))
    rebuilt, trained = judge.read(referee, decoded)[0], judge.read(referee, train)[0]
    by_rebuilt, by_train = ({n: x[(o == n).to_numpy()] for n in names} for x, o in ((rebuilt, held_of), (trained, truth.artist)))
    apart = np.mean([judge.kernel_distance(by_held[a], by_held[b]) for i, a in enumerate(names) for b in names[:i]])
    ratio = [judge.kernel_distance(by_drawn[n], by_held[n]) / apart for n in names]
    alone = [judge.kernel_distance(by_rebuilt[n][::2], by_held[n][1::2]) / apart for n in names]
    nearer = np.concatenate([_nearer(by_drawn[n], by_held[n], by_train[n]) for n in names])
    return [mean("samples to held-out portraits: kernel distance, as a share of that between two artists", ratio, names, "≤ 0.25", lambda v: v <= 0.25),
            mean("the same for autoencoded held-out portraits", alone, names),
            mean("samples nearer to a training portrait than held-out ones are (0.5: alike)", nearer, np.repeat(names, [len(by_drawn[n]) for n in names]),
                 "≤ 0.5", lambda v: v <= 0.5)]


def _nearer(drawn: np.ndarray, held: np.ndarray, train: np.ndarray) -> np.ndarray:
    """For each sample the share of held-out portraits that lie further from their nearest training portrait (ties count half)."""
    from scipy.spatial.distance import cdist

    mine, theirs = cdist(drawn, train).min(1), cdist(held, train).min(1)
    return ((theirs[None] > mine[:, None]) + 0.5 * (theirs[None] == mine[:, None])).mean(1)


def markdown(lines: Sequence[Line]) -> str:
    """The table as Markdown."""
    head = "| measured on people that no model met | figure | 95 % interval | n | bar | reached |\n|---|---|---|---|---|---|\n"
    rows = [f"| {x.what} | {x.estimate:.3g} | {'' if x.low is None else f'{x.low:.3g} – {x.high:.3g}'} | {x.n} | {x.bar} | "
            f"{'' if x.reached is None else 'yes' if x.reached else 'no'} |" for x in lines]
    return head + "\n".join(rows) + "\n"


def frame(lines: Sequence[Line]) -> pd.DataFrame:
    """The table as a DataFrame."""
    return pd.DataFrame([asdict(x) for x in lines])
