"""Is this artist's hand closer than before?

The claim is a contrast: similarity of the tuned model's images to works of the artist that it never saw, minus that of
the base model's images for the same prompts and seeds. Its null is the same contrast on models tuned on somebody else.
A cosine above some threshold is no evidence and is not used.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from harness import stats
from harness.audit import instrument, pair, same_weights
from harness.embed import Embeddings
from harness.errors import HarnessError
from harness.stats import Finding

if TYPE_CHECKING:
    import pandas as pd

NEAREST = 5
"""Works that a similarity is the mean over: one alone would be a matter of motif, all of them of the average work."""
MIN_WORKS = 5


def similarity(images: Embeddings, works: Embeddings, k: int = NEAREST) -> tuple[np.ndarray, np.ndarray]:
    """Mean cosine (n,) of each image to its k nearest works, and the index (n,) of the nearest one."""
    same_weights(images, works)
    if len(works) < max(k, MIN_WORKS):
        raise HarnessError(f"similarity to a hand needs at least {max(k, MIN_WORKS)} works of the artist, here are {len(works)}.")
    cosine = images.vectors @ works.vectors.T
    nearest = np.partition(cosine, -k, axis=1)[:, -k:].mean(axis=1)
    return nearest.astype(np.float64), cosine.argmax(axis=1)


def score(tuned: Embeddings, base: Embeddings, works: Embeddings, k: int = NEAREST,
          trained_on: Collection[str] = ()) -> pd.DataFrame:
    """One row per pair: similarity of the tuned and the base image to the held-out `works`, and their difference.

    `trained_on` are hashes of the training works: were one of them among `works`, copying would count as style, and
    HarnessError is raised. `tuned` and `base` must hold the same prompts and seeds.
    """
    same_weights(tuned, base, works)
    both = set(works.sha256) & set(trained_on)
    if both:
        raise HarnessError(f"{len(both)} of the {len(works)} reference works were trained on; hold other works out.")
    partner = pair(tuned.table, base.table)
    near, index = similarity(tuned, works, k)
    before = similarity(base, works, k)[0][partner]
    keep = tuned.table[[c for c in ("file", "sha256", "prompt", "seed") if c in tuned.table]].reset_index(drop=True)
    return keep.assign(similarity=near, base_similarity=before, contrast=near - before,
                       nearest_work=[works.sha256[i] for i in index], weights_sha256=tuned.clip_sha256)


def null(controls: Mapping[str, Embeddings], base: Embeddings, works: Embeddings, k: int = NEAREST) -> dict[str, float]:
    """The same contrast, towards the same works, of models tuned on other artists: name -> mean contrast."""
    return {name: float(score(images, base, works, k)["contrast"].mean()) for name, images in controls.items()}


def finding(rows: pd.DataFrame, controls: Mapping[str, float], subject: str, alpha: float = 0.05,
            level: float = 0.95, domain: str = "", seed: int = 0) -> Finding:
    """The contrast with its interval by prompt and its exact rank among `controls` (from `null`).

    `floor` is the controls' mean contrast. Abstains with fewer than 10 prompts, or with too few controls for a test
    at `alpha` (19 for 5 %). Raises HarnessError where the controls hold the artist.
    """
    if subject in controls:
        raise HarnessError(f"the controls hold {subject}, the artist that the question is about; take that model out.")
    mean, low, high = stats.cluster_bootstrap(rows["contrast"], rows["prompt"], level, seed)
    others = np.asarray(list(controls.values()), dtype=np.float64)
    p = stats.permutation_rank(mean, others) if len(others) else None
    verdict, why = _decide(int(rows["prompt"].nunique()), others, p, alpha, mean, low)
    return Finding("style", subject, mean, low, high, level, len(rows), int(rows["prompt"].nunique()),
                   float(others.mean()) if len(others) else None, None, p,
                   f"unchecked: {instrument('style', rows['weights_sha256'].iloc[0])}", domain, verdict, 0, why)


def _decide(prompts: int, others: np.ndarray, p: float | None, alpha: float, mean: float, low: float) -> tuple[str, str]:
    """Verdict and reason, before calibration."""
    needed = stats.controls_needed(alpha)
    if prompts < stats.MIN_CLUSTERS:
        return "cannot tell", f"Only {prompts} prompts; an interval needs at least {stats.MIN_CLUSTERS}."
    if len(others) < needed:
        return "cannot tell", (f"{_models(len(others))} tuned on other artists; a test at {alpha:.0%} needs at least {needed}.")
    rank = (f"The contrast is larger than that of {int((others < mean).sum())} of {len(others)} models tuned on other "
            f"artists (p = {p:.3f}).")
    if p <= alpha and low > 0:
        return "found", rank
    moved = " It is nearer than the base model, but so are models tuned on others." if low > 0 and p > alpha else ""
    return "not found", rank + moved + " That nothing was found does not prove that nothing is there."


def _models(n: int) -> str:
    return f"Only {n} control model" + ("" if n == 1 else "s")
