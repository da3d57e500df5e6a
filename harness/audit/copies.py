"""Did an output copy a training work?

Three readings of every output against every training work: CLIP's cosine, colour correlation of the whole picture, and
correlation of masked tiles. Each is taken relative to the output's own next-nearest works (Carlini et al. 2023, section
4.2; masked tiles after Webster 2023), in units of what the training works show among themselves; the highest counts. Works of the same artist that were
never trained on set the threshold. Its false-alarm rate is an estimate from that many works, and the test carries that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness import stats
from harness.audit import instrument, same_weights
from harness.audit.tiles import masked, whole
from harness.embed import Embeddings
from harness.errors import HarnessError
from harness.images import ImageSet
from harness.stats import Finding

if TYPE_CHECKING:
    import pandas as pd

READINGS = ("cosine", "whole", "tiles")
PIXELS = 64
"""Pictures are read at this side (centre crop) before the pixel readings scale them down."""
NEIGHBOURS = 5
"""Next-nearest works whose mean distance is the background of the nearest one."""
SAME_WORK = 0.985
"""Two training works whose whole pictures correlate above this count as one: a repeated work is no background of its own."""
NOISE = 0.02
"""Added to distances (1 - likeness): differences below it are compression and rounding."""
MIN_TRAINING = 5


@dataclass(frozen=True, eq=False)
class Works:
    """The distinct training works and what is known of them before any output is seen."""

    names: list[str]
    """their files"""
    vectors: Embeddings
    """their embeddings"""
    pixels: np.ndarray
    """uint8 (m, 64, 64, 3)"""
    scale: np.ndarray
    """(3, 2): median, and 95th percentile less median, of the works' own nearness to each other, by reading"""


def score(outputs: ImageSet, training: ImageSet, held_out: ImageSet,
          see: Callable[[ImageSet], Embeddings]) -> pd.DataFrame:
    """One row per output, then one per held-out work (column `group`): score, closest work, which reading found it.

    `see` embeds an image set. A reading is log(mean distance to the next-nearest works / distance to this work), in
    units of what the training works show among themselves; `score` is the highest over readings and works. The held-out works
    have no part in it, so that they can judge it. Raises HarnessError where one of them was trained on.
    """
    import pandas as pd

    both = set(training.table["sha256"]) & set(held_out.table["sha256"])
    if both:
        raise HarnessError(f"{len(both)} held-out works were trained on; hold other works out.")
    works = study(training, see(training))
    return pd.concat([_rows(images, see(images), works).assign(group=group)
                      for group, images in (("output", outputs), ("held out", held_out))], ignore_index=True)


def study(training: ImageSet, vectors: Embeddings) -> Works:
    """The training works without repeats, with the scale of their nearness to each other, each left out of its own."""
    pixels = training.pixels(PIXELS)
    alike = whole(pixels, pixels, moved=False)
    keep = np.asarray([i for i in range(len(pixels)) if not (alike[i, :i] > SAME_WORK).any()], dtype=np.int64)
    if len(keep) < MIN_TRAINING:
        raise HarnessError(f"the copy audit needs at least {MIN_TRAINING} distinct training works, here are {len(keep)} "
                           f"among {len(training)}.")
    kept, pixels = vectors.where(np.isin(np.arange(len(pixels)), keep)), pixels[keep]
    away = _distances(kept, pixels, kept, pixels)
    away[:, np.arange(len(keep)), np.arange(len(keep))] = np.inf
    nearness = _relative(away).max(axis=2)
    middle = np.median(nearness, axis=1)
    spread = np.maximum(np.quantile(nearness, 0.95, axis=1) - middle, 0.05)
    return Works([training.table["file"].iloc[i] for i in keep], kept, pixels, np.stack([middle, spread], axis=1))


def _relative(away: np.ndarray) -> np.ndarray:
    """log(mean distance to the nearest other works / distance to this one), (3, n, m) from distances (3, n, m)."""
    ordered = np.sort(away, axis=2)
    k = min(NEIGHBOURS, int(np.isfinite(ordered[0, 0]).sum()) - 1)
    others = ordered[:, :, 1:k + 1].mean(axis=2, keepdims=True)
    return np.log(others) - np.log(away)


def _distances(vectors: Embeddings, pixels: np.ndarray, to: Embeddings, works: np.ndarray) -> np.ndarray:
    """(3, n, m): 1 - likeness by reading, with the noise floor added."""
    same_weights(vectors, to)
    likeness = np.stack([vectors.vectors @ to.vectors.T, whole(pixels, works), masked(pixels, works)])
    return np.maximum(1 - likeness, 0).astype(np.float64) + NOISE


def _rows(images: ImageSet, vectors: Embeddings, works: Works) -> pd.DataFrame:
    """One row an image: the highest standardised reading, the work and the kind of reading that gave it."""
    away = _distances(vectors, images.pixels(PIXELS), works.vectors, works.pixels)
    standard = (_relative(away) - works.scale[:, 0, None, None]) / works.scale[:, 1, None, None]
    n, m = standard.shape[1:]
    best = standard.transpose(1, 0, 2).reshape(n, -1).argmax(axis=1)
    reading, closest, row = best // m, best % m, np.arange(n)
    table = images.table.reset_index(drop=True)
    likeness = {name: 1 + NOISE - away[i, row, closest] for i, name in enumerate(READINGS)}
    return table[[c for c in ("file", "sha256", "prompt", "seed") if c in table]].assign(
        score=standard[reading, row, closest], closest_work=[works.names[i] for i in closest],
        found_by=[READINGS[i] for i in reading], **likeness, weights_sha256=vectors.clip_sha256)


def threshold(rows: pd.DataFrame, false_alarm: float = 0.01) -> tuple[float, int]:
    """(score, rank): the rank-th highest score of the held-out works, so that a new work exceeds it with probability
    at most `false_alarm`, or, with too few works for that, their highest score (rank 1)."""
    null = np.sort(rows.loc[rows["group"] == "held out", "score"].to_numpy())[::-1]
    rank = max(1, int(false_alarm * (len(null) + 1) + 1e-9))
    return float(null[rank - 1]), rank


def flag(rows: pd.DataFrame, false_alarm: float = 0.01) -> pd.DataFrame:
    """The outputs alone, highest score first, with `flagged` and the threshold; a gallery's table."""
    above, _ = threshold(rows, false_alarm)
    outputs = rows[rows["group"] == "output"].assign(threshold=above)
    return outputs.assign(flagged=outputs["score"] > above).sort_values("score", ascending=False, kind="stable")


def gallery(rows: pd.DataFrame, outputs: ImageSet, training: ImageSet, pairs: int = 6) -> dict[str, ImageSet]:
    """The outputs with the highest scores and the work closest to each, for `plots.side_by_side`."""
    first = flag(rows).head(pairs)
    chosen = {"output": (outputs, first["file"]), "closest work": (training, first["closest_work"])}
    return {name: ImageSet(images.folder, images.table.set_index("file", drop=False).loc[list(files)].reset_index(drop=True))
            for name, (images, files) in chosen.items()}


def finding(rows: pd.DataFrame, subject: str, false_alarm: float = 0.01, alpha: float = 0.05, level: float = 0.95,
            domain: str = "") -> Finding:
    """Share of outputs nearer to a training work than held-out works of the same artist are, with an exact interval.

    `floor` is the share to be expected of works that copy nothing. The p value is the exact chance to see so many when
    outputs were like held-out works (`stats.exceedance_p`, on the effective sample size). Abstains with fewer than 10
    prompts or too few held-out works for a test at `alpha` (19 for 5 %).
    """
    outputs = flag(rows, false_alarm)
    works, rank = int((rows["group"] == "held out").sum()), threshold(rows, false_alarm)[1]
    prompts = outputs["prompt"] if "prompt" in outputs else outputs["file"]
    k, n, share = int(outputs["flagged"].sum()), len(outputs), stats.clustered_rate(outputs["flagged"], prompts, level)
    size = stats.effective_n(outputs["flagged"], prompts, level)
    p = stats.exceedance_p(k / n * size + 1e-9, size, rank, works)
    verdict, why = _decide(k, int(prompts.nunique()), works, p, alpha)
    return Finding("copies", subject, *share, level, n, int(prompts.nunique()), rank / (works + 1), None, p,
                   f"unchecked: {instrument('copies', rows['weights_sha256'].iloc[0])}", domain, verdict, 0,
                   f"{why} {_threshold_words(works, rank)}{_zero_words(k, int(prompts.nunique()), level)}")


def _decide(k: int, prompts: int, works: int, p: float, alpha: float) -> tuple[str, str]:
    """Verdict and reason, before calibration."""
    if works < stats.controls_needed(alpha):
        return "cannot tell", f"Only {works} held-out works; a test at {alpha:.0%} needs at least {stats.controls_needed(alpha)}."
    if prompts < stats.MIN_CLUSTERS:
        return "cannot tell", f"Only {prompts} prompts; the test needs at least {stats.MIN_CLUSTERS}."
    if p <= alpha:
        return "found", f"More outputs are flagged than held-out works would be (p = {p:.2g})."
    if k:
        return "cannot tell", (f"{k} flagged is what works that copy nothing can give as well (p = {p:.2f}); look at the "
                               "pairs, and bring more held-out works.")
    return "not found", "No output is nearer to a training work than works that copy nothing."


def _threshold_words(works: int, rank: int) -> str:
    """How sure the threshold itself is."""
    bound = stats.rate_interval(rank - 1, works).high
    return (f"The threshold comes from {works} held-out works, {rank - 1} of them above it: it cries wolf in about "
            f"{rank / (works + 1):.1%} of works that copy nothing, at most {bound:.1%}.")


def _zero_words(k: int, prompts: int, level: float) -> str:
    """What no event in so many prompts says about other prompts."""
    if k:
        return ""
    return (f" The upper bound is for these prompts; for prompts of this kind in general it is "
            f"{stats.zero_events_bound(prompts, level):.1%}.")
