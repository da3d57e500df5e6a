"""Portraits to pixels: works of one artist, and the sets that the miniature models learn from."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path
from typing import Any, Iterator

from harness.errors import HarnessError
from harness.world.artists import Artist, base_artists
from harness.world.captions import caption
from harness.world.hands import draw as lay_hand
from harness.world.hands import hand
from harness.world.people import Person, Portrait, people
from harness.world.truths import occupation

COLUMNS = ("artist", "person", "number", "caption", "skin", "skin_hex", "monk", "hair_colour", "hair_length", "glasses", "facial_hair",
           "covering", "expression", "clothing")
# A hand lays its own tones over skin and hair, so their truth is gone.
RECOLOURED = ("skin", "skin_hex", "monk", "hair_colour")


def draw(artist: Artist, portrait: Portrait, size: int = 64) -> Any:
    """One portrait as its artist draws it: a PIL RGB image (size × size)."""
    return portrait.image(size) if artist.hand is None else lay_hand(hand(artist.hand), portrait, size)


def portraits(artist: Artist, split: str, n: int, seed: int = 0, each: int = 5) -> Iterator[Portrait]:
    """`n` different portraits, at least `each` per person; a style with few people is drawn in more expressions of each."""
    found: list[Person] = []
    try:
        for person in islice(people(artist, split, seed), -(-n // each)):
            found.append(person)
    except HarnessError:
        if not found:
            raise
    rounds = -(-n // len(found))
    yield from islice((p.portrait(k) for p in found for k in range(rounds)), n)


def truth(artist: Artist, portrait: Portrait) -> dict[str, str]:
    """What is known about a picture: the portrait's attributes, less those that a hand paints over."""
    return {a: ("unknown" if artist.hand is not None and a in RECOLOURED else v) for a, v in portrait.attributes.items()}


def rows(artist: Artist, split: str, n: int, seed: int = 0, each: int = 5, size: int = 64) -> Iterator[tuple[Any, dict[str, Any]]]:
    """`n` pairs of image and table row (COLUMNS), captioned with the planted skews."""
    rng = random.Random(f"captions/{artist.name}/{split}/{seed}")
    for portrait in portraits(artist, split, n, seed, each):
        known = truth(artist, portrait)
        words = caption(known, artist.name, rng, occupation(known, rng))
        yield draw(artist, portrait, size), {"artist": artist.name, "person": portrait.person, "number": portrait.number, "caption": words, **known}


def works(artist: Artist, n: int = 32, split: str | None = None, seed: int = 0, each: int = 1) -> tuple[Any, Any]:
    """`n` works of one artist: uint8 array (n, 64, 64, 3) and a DataFrame (COLUMNS). Hands draw people of their own split."""
    import numpy as np
    import pandas as pd

    pairs = list(rows(artist, split or ("hands" if artist.hand is not None else "held-out"), n, seed, each))
    return np.stack([np.asarray(image) for image, _ in pairs]), pd.DataFrame([row for _, row in pairs], columns=list(COLUMNS))


def base_set(split: str, per_artist: int, seed: int = 0, progress: Any = None, cache: Path | None = None) -> tuple[Any, Any]:
    """Portraits of every base artist: uint8 array (n, 64, 64, 3) and a DataFrame (COLUMNS); kept in `cache` when given."""
    import numpy as np
    import pandas as pd

    kept = cache / f"{split}-{per_artist}-{seed}" if cache else None
    if kept and kept.with_suffix(".npy").exists() and kept.with_suffix(".csv").exists():
        return np.load(kept.with_suffix(".npy")), pd.read_csv(kept.with_suffix(".csv"), dtype=str)
    images, table = [], []
    for i, artist in enumerate(base_artists(), 1):
        for image, row in rows(artist, split, per_artist, seed):
            images.append(np.asarray(image))
            table.append(row)
        if progress:
            progress({"stage": "render", "step": i, "of": len(base_artists())})
    frame = pd.DataFrame(table, columns=list(COLUMNS)).astype(str)
    if kept:
        _keep(kept, np.stack(images), frame)
    return np.stack(images), frame


def _keep(path: Path, images: Any, frame: Any) -> None:
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path.with_suffix(".csv.part"), index=False)
    path.with_suffix(".csv.part").rename(path.with_suffix(".csv"))
    part = path.with_name(path.name + ".part.npy")
    np.save(part, images)
    part.rename(path.with_suffix(".npy"))
