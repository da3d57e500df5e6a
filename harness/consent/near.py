"""Copies of withdrawn works: pictures that look nearly like one, where the artist left descriptors to find them by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image

from harness.errors import BadImage, HarnessError
from harness.images import ImageSet, decode

Describe = Callable[[Image.Image], bytes]
Same = Callable[[bytes, bytes], bool]


def copies(images: ImageSet, left: Sequence[tuple[str, bytes]], describe: Describe | None = None, same: Same | None = None) -> dict[str, str]:
    """Pictures (sha256) that are nearly the same as a withdrawn work, each with that work's sha256.

    `left` are works and their descriptors. Every picture is decoded, whatever a table says of it; what cannot be decoded
    cannot be cleared either, and raises HarnessError. `describe` and `same` default to harness.perceptual; every
    picture is compared with every work left, and within one process no two of them twice.
    """
    if describe is None or same is None:
        from harness import perceptual

        describe, same = describe or perceptual.descriptor, same or perceptual.is_near
    found = {}
    for path, work in zip(images.paths, images.table["sha256"], strict=True):
        mine = _described(path, work, describe)
        hit = next((other for other, descriptor in left if _same(same, mine, descriptor)), None)
        if hit:
            found[work] = hit
    return found


@lru_cache(maxsize=100_000)
def _described(path: Path, sha256: str, describe: Describe) -> bytes:
    """A picture's descriptor; asked again for the same file in the same process, it is not decoded again."""
    try:
        return describe(decode(path))
    except BadImage as error:
        raise HarnessError(f"{error} It cannot be compared with the withdrawn works whose copies are to be found.") from error


@lru_cache(maxsize=1_000_000)
def _same(same: Same, mine: bytes, other: bytes) -> bool:
    return same(mine, other)
