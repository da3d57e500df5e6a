"""Pictures as people bring them: looked through before a training, with a sentence for everything worth knowing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from harness import perceptual, progress as showing
from harness.errors import BadImage, HarnessError
from harness.finetune import crops
from harness.finetune.buckets import LONGEST
from harness.images import FORMATS, ImageSet, decode, sha256

ADVISED = {"subject": (3, 20), "style": (20, 50)}
"""How many different pictures a fine-tune of each kind wants."""
LEAST = 3
"""Below this many different pictures there is nothing to learn but the pictures themselves."""
NEAR_AMONG, LOOK = 100, 4
"""Sets up to this size are searched for near-duplicates, each picture among the LOOK that are most alike."""
SHARE = 4
"""A picture whose shorter side is less than this part of the training size is refused."""
NAMED = 5
"""Files that a note names."""


@dataclass(frozen=True, eq=False)
class _Seen:
    """What is remembered of a picture when it is put away again."""

    name: str
    size: tuple[int, int]
    """width and height in pixels, upright and within the crop"""
    pixels: str
    """hash of size and pixels"""
    sketch: bytes
    """descriptor for near-duplicates; empty where the set is too large"""
    kind: str
    """what `decode` had to change, or ''"""


def check(images: ImageSet, purpose: str, size: int | None = None, keep_duplicates: bool = False,
          progress: Callable[[dict], None] | None = None) -> tuple[ImageSet, list[str]]:
    """The pictures that a fine-tune should see, and notes, one sentence each, for a person to read.

    `purpose` is subject or style; `size` the side in pixels that they are trained at. Of duplicates (the same file, the same pixels, or
    near-duplicates by harness.perceptual) the largest is kept, unless `keep_duplicates`; all are named. Raises BadImage naming every
    picture that cannot be read or is far too small, and HarnessError for fewer than 3 different pictures.
    """
    if purpose not in ADVISED:
        raise HarnessError(f"purpose {purpose!r} is none of {', '.join(ADVISED)}.")
    seen = _look(images, progress or showing.silent)
    _refuse_tiny(seen, size)
    groups = _duplicates(images, seen)
    extra = {i for _, group in groups for i in group[1:]}
    notes = [_told(how, [seen[i].name for i in group], keep_duplicates) for how, group in groups]
    different = len(images) - len(extra)
    if different < LEAST:
        raise HarnessError(f"{images.folder}: {different} different picture{'s' * (different != 1)}; a fine-tune needs at least {LEAST}"
                           + "".join(f" ({note})" for note in notes[:1]) + ".")
    notes += [*_about_count(different, purpose), *_about_shapes(seen, size), *_about_kinds(seen)]
    if len(images) > NEAR_AMONG:
        notes.append(f"more than {NEAR_AMONG} pictures: exact duplicates were looked for, near-duplicates were not.")
    return images if keep_duplicates or not extra else images.where([i not in extra for i in range(len(images))]), notes


def caption_subject(images: ImageSet, token: str, class_noun: str, detail: str = "", template: str = "a photo of {token} {noun}") -> ImageSet:
    """Every picture of one subject under one caption, such as "a photo of sks dog" (Ruiz et al. 2023, section 3.1).

    `detail` names a column whose words are added, such as the captions that the pictures have: what is said there is bound to the
    token less. Raises HarnessError for empty words and columns that are not there.
    """
    _say_words(token=token, class_noun=class_noun)
    return _captioned(images, template.format(token=token.strip(), noun=class_noun.strip()), detail, "{words}, {detail}")


def caption_style(images: ImageSet, token: str, detail: str = "caption", template: str = "a picture by {token}") -> ImageSet:
    """Every work under what it shows and the token for its style: "two boats, a picture by sks"; without a description the latter alone.

    `detail` names the column that says what each shows; without it the token takes in what the works show as well.
    """
    _say_words(token=token)
    given = detail if detail != "caption" or detail in images.table else ""
    return _captioned(images, template.format(token=token.strip()), given, "{detail}, {words}")


def _say_words(**given: str) -> None:
    for name, word in given.items():
        if not word.strip():
            raise HarnessError(f"{name} is empty; a caption needs one.")


def _captioned(images: ImageSet, words: str, detail: str, both: str) -> ImageSet:
    if detail and detail not in images.table:
        raise HarnessError(f"{images.folder}: no column {detail!r} to take words from; it has {', '.join(images.table.columns)}.")
    details = images.table[detail].astype(str).str.strip() if detail else [""] * len(images)
    return images.assign(caption=[both.format(words=words, detail=text) if text else words for text in details])


def _look(images: ImageSet, tell: Callable[[dict], None]) -> list[_Seen]:
    """Decode each picture once, and no two at a time. Raises one BadImage that names all that cannot be used."""
    seen, broken = [], []
    rows = zip(images.table["file"], images.paths, crops.column(images), strict=True)
    for i, (name, path, box) in enumerate(rows, 1):
        try:
            picture = decode(path)
            picture = picture if box is None else crops.cut(picture, box, name)
            pixels = sha256(f"{picture.size}".encode() + np.asarray(picture).tobytes())
            sketch = perceptual.descriptor(picture) if len(images) <= NEAR_AMONG else b""
            seen.append(_Seen(name, picture.size, pixels, sketch, _kind(path)))
        except BadImage as error:
            broken.append(str(error))
        tell({"stage": "looking through", "step": i, "of": len(images)})
    if broken:
        raise BadImage(f"{len(broken)} of {len(images)} pictures cannot be used: " + " | ".join(broken))
    return seen


def _kind(path: Path) -> str:
    """What a picture was before it became plain RGB, from its header."""
    with Image.open(path, formats=FORMATS) as picture:
        if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
            return "transparent, laid over white"
        return {"CMYK": "in CMYK, turned into RGB", "YCCK": "in CMYK, turned into RGB"}.get(picture.mode, "of 16 bit, scaled to 8" if picture.mode.startswith("I") else "")


def _duplicates(images: ImageSet, seen: Sequence[_Seen]) -> list[tuple[str, list[int]]]:
    """(how alike, indices, the one to keep first) of every group of duplicates."""
    of = {"the same file": _grouped(images.table["sha256"]), "the same pixels": _grouped(each.pixels for each in seen), "nearly the same": []}
    if len(seen) <= NEAR_AMONG:
        library = [each.sketch for each in seen]
        of["nearly the same"] = [(i, j) for i, found in enumerate(perceptual.matches(library, library, LOOK)) for j, _ in found if i != j]
    whose = list(range(len(seen)))  # the smallest index of each picture's group
    for pairs in of.values():
        for i, j in pairs:
            low, high = sorted((whose[i], whose[j]))
            whose = [low if each == high else each for each in whose]
    groups = [[i for i, own in enumerate(whose) if own == first] for first in sorted(set(whose))]
    return [(_how(of, group), sorted(group, key=lambda i: (-seen[i].size[0] * seen[i].size[1], i))) for group in groups if len(group) > 1]


def _grouped(values: Iterable[str]) -> list[tuple[int, int]]:
    """Pairs (first with this value, another one)."""
    first: dict[str, int] = {}
    return [(first[value], i) for i, value in enumerate(values) if first.setdefault(value, i) != i]


def _how(of: dict[str, list[tuple[int, int]]], group: Sequence[int]) -> str:
    """The weakest likeness that it takes to hold a group together."""
    for how, pairs in of.items():
        joined = {i for pair in pairs for i in pair}
        if joined >= set(group):
            return how
    return "nearly the same"


def _told(how: str, names: Sequence[str], keep: bool) -> str:
    first, *rest = names
    done = "all are used, as asked" if keep else f"counted once, {first} is used"
    return f"{_listed([first, *rest])} are {how}; {done}."


def _refuse_tiny(seen: Sequence[_Seen], size: int | None) -> None:
    tiny = [f"{each.name} ({each.size[0]} x {each.size[1]})" for each in seen if size and min(each.size) * SHARE < size]
    if tiny:
        raise BadImage(f"{len(tiny)} of {len(seen)} pictures are too small for training at {size} pixels: {_listed(tiny)}; "
                       f"take them out, or train at a smaller resolution.")


def _about_count(n: int, purpose: str) -> list[str]:
    least, most = ADVISED[purpose]
    if least <= n <= most:
        return []
    what = "fewer" if n < least else "more"
    then = "the model will rather copy them" if n < least else "training takes as many steps more, and a choice of the best often does better"
    return [f"{n} different pictures, {what} than the {least} to {most} that a {purpose} wants: {then}."]


def _about_shapes(seen: Sequence[_Seen], size: int | None) -> list[str]:
    small = [each.name for each in seen if size and min(each.size) < size]
    long = [f"{each.name} ({each.size[0]} x {each.size[1]})" for each in seen if max(each.size) > LONGEST * min(each.size)]
    notes = [f"{_listed(small)} will be enlarged to {size} pixels, and the model learns the blur."] if small else []
    return notes + ([f"{_listed(long)}: so long that more than half is cut off a square; choose crops, or cut {'it' if len(long) == 1 else 'them'} yourself."]
                    if long else [])


def _about_kinds(seen: Sequence[_Seen]) -> list[str]:
    kinds = dict.fromkeys(each.kind for each in seen if each.kind)
    return [f"{_listed([each.name for each in seen if each.kind == kind])}: {kind}." for kind in kinds]


def _listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
