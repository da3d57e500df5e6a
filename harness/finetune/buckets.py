"""Pictures of several shapes: which size each is brought to, and which pictures a step takes together."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import BadImage, HarnessError
from harness.finetune import crops
from harness.images import BROKEN, FORMATS, ImageSet

if TYPE_CHECKING:
    import torch

LONGEST = 2.0
"""Longer over shorter side of the most extreme bucket; of what is longer still, the ends are cut off."""
TURNED = (5, 6, 7, 8)
"""EXIF orientations that lie on their side"""


def sizes(images: ImageSet) -> list[tuple[int, int]]:
    """(height, width) in pixels of each picture, upright and within its crop, from the files' headers (a PNG may have to be unpacked).

    Raises BadImage for a file that is no picture.
    """
    return [_size(path, crop) for path, crop in zip(images.paths, crops.column(images), strict=True)]


def _size(path: Path, crop: crops.Box | None) -> tuple[int, int]:
    from PIL import ExifTags, Image

    if crop is not None:
        return crop.height, crop.width
    try:
        with Image.open(path, formats=FORMATS) as picture:
            orientation = picture.getexif().get(ExifTags.Base.Orientation)
            width, height = picture.size
            turned = orientation in TURNED and picture.format != "TIFF"  # Pillow turns TIFF files itself
    except BROKEN as error:
        raise BadImage(f"{path}: not a whole picture ({str(error) or type(error).__name__}); replace it or take it out.") from error
    return (width, height) if turned else (height, width)


def ladder(resolution: int, step: int) -> list[tuple[int, int]]:
    """All buckets (height, width): multiples of `step`, area near resolution², sides at most LONGEST apart. Symmetric; the square is one.

    The ladder that diffusers has since 0.42 starts from eleven ratios, of which several fall together where `step` is coarse.
    """
    if resolution < step or resolution % step:
        raise HarnessError(f"resolution {resolution} is not divisible by {step}, as this model needs; "
                           f"the nearest is {max(step, round(resolution / step) * step)}.")
    pairs = [(high, max(step, round(resolution**2 / high / step) * step)) for high in range(step, int(resolution * LONGEST) + 1, step)]
    fitting = [(high, wide) for high, wide in pairs if max(high, wide) <= LONGEST * min(high, wide)]
    return sorted({pair for high, wide in fitting for pair in ((high, wide), (wide, high))})


def plan(sizes: Sequence[tuple[int, int]], resolution: int, step: int) -> list[tuple[int, int]]:
    """The bucket (height, width) of each picture (height, width): the one that cuts off the least, of two the one nearer to the wanted area."""
    known = ladder(resolution, step)

    def cost(size: tuple[int, int], bucket: tuple[int, int]) -> tuple[float, int, tuple[int, int]]:
        cut = abs(math.log(size[0] * bucket[1] / (size[1] * bucket[0])))
        return round(cut, 9), abs(bucket[0] * bucket[1] - resolution**2), bucket

    return [min(known, key=lambda bucket, size=size: cost(size, bucket)) for size in sizes]


def batch(seed: int, step: int, size: int, bucket: Sequence) -> torch.Tensor:
    """Which pictures (int64, `size` indices, all of one bucket) a step takes; `bucket[i]` is the bucket of picture i.

    Every epoch is a fresh order of all pictures, in which each bucket's batches run on across epochs: the last batch of an epoch
    is filled with what the bucket shows first in the next one, and is not shown there again. So after e epochs every picture has
    been shown e times, but for those that were borrowed; a bucket smaller than a batch comes in every so many epochs only.
    In what order an epoch's batches come is drawn too. All of it depends on seed and step alone.
    """
    import torch

    members = defaultdict(list)
    for i, label in enumerate(bucket):
        members[label].append(i)
    label, turn = _turn(seed, step, size, {label: len(found) for label, found in members.items()})
    n, place = len(members[label]), {item: i for i, item in enumerate(members[label])}
    wanted = range(turn * size, (turn + 1) * size)
    orders = {epoch: [i for i in _order(seed, epoch, len(bucket)) if i in place] for epoch in {i // n for i in wanted}}
    return torch.tensor([orders[i // n][i % n] for i in wanted])


def _order(seed: int, epoch: int, n: int) -> list[int]:
    """All pictures in the order of an epoch."""
    import torch

    from harness.finetune.trainer import generator

    return torch.randperm(n, generator=generator(seed, -1 - epoch)).tolist()


def _turn(seed: int, step: int, size: int, counts: dict) -> tuple[object, int]:
    """The bucket of a step, and which of that bucket's batches (0, 1, ...) it is."""
    def before(epoch: int, label: object) -> int:
        return -(-epoch * counts[label] // size)

    total = sum(counts.values())
    epochs = range(1, step * size // total + 2)  # an epoch has on average total / size batches, and those before it at least that many
    epoch = bisect_right(epochs, step, key=lambda e: sum(before(e, label) for label in counts))
    labels = [label for label in counts for _ in range(before(epoch + 1, label) - before(epoch, label))]
    random.Random(f"batches {seed} {epoch}").shuffle(labels)
    at = step - sum(before(epoch, label) for label in counts)
    return labels[at], before(epoch, labels[at]) + labels[:at].count(labels[at])
