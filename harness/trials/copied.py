"""Near-duplicates of training pictures among a model's drawings, and among pictures that copy nothing: only the difference says something.

Two portraits of one person may be near-duplicates although nobody copied, and where a style has few faces most are. `harness.audit.copies` cannot be asked
here: it takes a dozen portraits of one person for one work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from harness import perceptual, stats
from harness.images import ImageSet
from harness.stats import Interval
from harness.trials.score import reconstruct

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

MOST = 24
"""held-out pictures that are looked at, for each takes about half a second"""


@dataclass(frozen=True, eq=False)
class Background:
    """How near pictures that copy nothing lie to the training pictures: what a share of copies has to be compared with."""

    works: list[bytes]
    """descriptors of the training pictures"""
    near: np.ndarray
    """for each held-out picture (autoencoded, as a drawing is): is it a near-duplicate of a training picture?"""

    @classmethod
    def of(cls, trained_on: ImageSet, held: ImageSet, pipe: DiffusionPipeline) -> Background:
        """From the training pictures and others of the same person or hand."""
        works, some = descriptors(trained_on.pixels(64)), held.where(np.arange(len(held)) < MOST)
        return cls(works, nearest(descriptors(reconstruct(pipe, some.pixels(64))), works) <= perceptual.NEAR)

    @property
    def share(self) -> Interval:
        """Share of held-out pictures that are near-duplicates. Where it is high, copying cannot be told from likeness."""
        return stats.rate_interval(int(self.near.sum()), len(self.near))

    def found(self, drawn: ImageSet) -> np.ndarray:
        """Which drawings (n,) are near-duplicates of a training picture, at the published operating point."""
        return nearest(descriptors(drawn.pixels(64)), self.works) <= perceptual.NEAR

    def excess(self, drawn: ImageSet) -> Interval:
        """Share of near-duplicates among the drawings less that among held-out pictures, both uncertain.

        Interval of a difference of two independent shares from their own (Newcombe, Statistics in Medicine 17, 1998, method 10, on exact intervals).
        """
        mine, theirs = stats.clustered_rate(self.found(drawn), drawn.table["prompt"]), self.share
        much = mine.estimate - theirs.estimate
        return Interval(much, much - math.hypot(mine.estimate - mine.low, theirs.high - theirs.estimate),
                        much + math.hypot(mine.high - mine.estimate, theirs.estimate - theirs.low))


def descriptors(pixels: np.ndarray) -> list[bytes]:
    """Perceptual descriptors of uint8 pictures (n, h, w, 3)."""
    return [perceptual.descriptor(Image.fromarray(each)) for each in pixels]


def nearest(drawn: Sequence[bytes], works: Sequence[bytes]) -> np.ndarray:
    """Perceptual distance (n,) of each to its nearest work; perceptual.FAR where none is a near-duplicate."""
    return np.array([min((d for _, d in found), default=perceptual.FAR) for found in perceptual.matches(drawn, works)])
