"""Several concepts in one model: a token each, and each shown equally often whatever its number of pictures.

Custom Diffusion (Kumari et al. 2022, section 3.2) trains on the union of the concepts' pictures. Taken as it comes, the union shows
a concept with twenty pictures four times as often as one with five, and the model learns it four times as well.
"""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HarnessError
from harness.finetune import buckets, trainer
from harness.images import ImageSet, sha256

if TYPE_CHECKING:
    import pandas as pd
    import torch

COLUMN = "concept"
LONGEST = 5000
"""Places that each concept gets in one round at most, when no smaller number is a multiple of all counts."""


def join(sets: Mapping[str, ImageSet]) -> ImageSet:
    """One set of the pictures of several concepts (token -> its pictures), with the token in the column `concept`.

    The files stay where they lie. Raises HarnessError for fewer than two concepts, for a caption without its own token or with
    another one's, for a picture of two concepts, and for sets that lie on different drives.
    """
    import pandas as pd

    if len(sets) < 2:
        raise HarnessError(f"{len(sets)} concepts; joining needs at least two, each with its token.")
    _check_captions(sets)
    try:
        folder = Path(os.path.commonpath([images.folder.resolve() for images in sets.values()]))
    except ValueError as error:
        raise HarnessError("the concepts' pictures lie on different drives; copy them beside each other.") from error
    tables = [_moved(images, folder).assign(**{COLUMN: token}) for token, images in sets.items()]
    table = pd.concat(tables, ignore_index=True)
    words = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    table = table.assign(**{name: table[name].astype(object).fillna("") for name in words})
    for _, same in table.groupby("sha256"):
        if same[COLUMN].nunique() > 1:
            raise HarnessError(f"{folder}: {' and '.join(same['file'])} are the same picture, of {' and '.join(same[COLUMN])}; "
                               "leave it in one of them.")
    return ImageSet(folder, table)


def says(caption: str, token: str) -> bool:
    """Does a caption hold this token as a word of its own? Tokenizers of this kind make no difference between cases."""
    return re.search(rf"(?<!\w){re.escape(token)}(?!\w)", caption, re.IGNORECASE) is not None


def labels(images: ImageSet) -> list[str] | None:
    """Each picture's concept, or None for a set that has no such column. Raises HarnessError where some pictures lack theirs."""
    if COLUMN not in images.table:
        return None
    found = [str(token).strip() for token in images.table[COLUMN]]
    if not all(found):
        raise HarnessError(f"{images.folder}: {found.count('')} of {len(found)} pictures have no concept; give each its token, or drop the column.")
    return found


def batch(seed: int, step: int, size: int, concept: Sequence[str], bucket: Sequence) -> torch.Tensor:
    """(size,) which pictures a step shows: `buckets.batch`, with every concept equally often. A function of seed and step alone.

    With one bucket the concepts take turns: every k pictures, on across steps, show each of k concepts once, and each concept
    goes through its own pictures in a fresh order every time. With several buckets a batch is of one size, and a concept may be missing
    in it: there the balance holds for each epoch, in which every concept has the same number of places.
    """
    import torch

    if len(set(bucket)) > 1:
        places = repeated(concept)
        chosen = buckets.batch(seed, step, size, [bucket[i] for i in places])
        return torch.tensor([places[i] for i in chosen.tolist()])
    members = _members(concept)
    names = sorted(members)
    slots = [divmod(i, len(names)) for i in range(step * size, (step + 1) * size)]
    return torch.tensor([_turn(seed, names[_order(seed, turn, len(names), "turns")[k]], members, turn) for turn, k in slots])


def repeated(concept: Sequence[str]) -> list[int]:
    """Picture numbers in which every concept has equally many places, and every picture of a concept as many as the others.

    The places are the least common multiple of the counts; where that is above LONGEST, LONGEST, and the pictures of a concept
    differ by one place.
    """
    members = _members(concept)
    places = min(math.lcm(*(len(rows) for rows in members.values())), max(LONGEST, *(len(rows) for rows in members.values())))
    return [rows[i % len(rows)] for _, rows in sorted(members.items()) for i in range(places)]


def _members(concept: Sequence[str]) -> dict[str, list[int]]:
    """Picture numbers of each concept."""
    found = defaultdict(list)
    for i, token in enumerate(concept):
        found[token].append(i)
    return dict(found)


def _turn(seed: int, token: str, members: Mapping[str, list[int]], turn: int) -> int:
    """The picture that a concept shows in its turn."""
    rows = members[token]
    epoch, place = divmod(turn, len(rows))
    return rows[_order(seed, epoch, len(rows), token)[place]]


def _order(seed: int, epoch: int, n: int, what: str) -> list[int]:
    """A fresh order of n things: each concept, and the turns, have their own."""
    import torch

    own = int(sha256(f"{seed} {what}".encode())[:12], 16)
    return torch.randperm(n, generator=trainer.generator(own, epoch)).tolist()


def _check_captions(sets: Mapping[str, ImageSet]) -> None:
    """Every caption holds its own token and none of the others'."""
    for token, images in sets.items():
        if "caption" not in images.table:
            raise HarnessError(f"{images.folder}: no captions; give each picture one that holds its token {token!r}.")
        for name, caption in zip(images.table["file"], images.table["caption"], strict=True):
            held = [each for each in sets if says(caption, each)]
            if held != [token]:
                found = ", ".join(map(repr, held)) or "no token"
                raise HarnessError(f"{images.folder / name}: the caption {caption!r} of concept {token!r} holds {found}; "
                                   "it must hold its own and no other.")


def _moved(images: ImageSet, folder: Path) -> pd.DataFrame:
    """The table with file names relative to another folder."""
    return images.table.assign(file=[(images.folder.resolve() / name).relative_to(folder).as_posix() for name in images.table["file"]])
