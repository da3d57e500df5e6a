"""An image folder of the miniature world: PNG files, samples.csv with the truth, and a data card beside them."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, Iterator, Sequence

from harness.errors import HarnessError
from harness.images import ImageSet, write_set
from harness.progress import Progress, silent
from harness.world.artists import Artist, artist, artists, base_artists, unseen_artists
from harness.world.cards import CardWriter, rendered
from harness.world.people import SPLITS
from harness.world.render import COLUMNS, rows
from harness.world.truths import Duplicate, Withdrawn

CARD = "card"
"""name of the data card in a rendered folder"""
PACKAGES = ("dicebear-core", "dicebear-styles", "resvg_py")
"""what draws: their versions are part of a picture's identity"""
GROUPS = ("base", "unseen", "hands", "all")


def select(text: str) -> list[str]:
    """Pseudonyms for what a person writes: "artist-01,artist-21", or one of GROUPS among them; no name twice.

    Raises HarnessError for an unknown artist or an empty choice.
    """
    groups = {"base": base_artists, "unseen": lambda: unseen_artists("unseen"), "hands": lambda: unseen_artists("hand"),
              "all": lambda: list(artists().values())}
    words = [w.strip() for w in text.split(",") if w.strip()]
    if not words:
        raise HarnessError(f"no artist named; write pseudonyms such as artist-01,artist-21 or one of {', '.join(GROUPS)}")
    return list(dict.fromkeys(a.name for w in words for a in (groups[w]() if w in groups else [artist(w)])))


def repeat(text: str) -> Duplicate:
    """The planted duplicate that "20:100" stands for: the first 20 pictures of each artist, 100 times each. Raises HarnessError otherwise."""
    n, _, times = text.partition(":")
    if not (n.isdecimal() and times.isdecimal() and int(n) and int(times) > 1):
        raise HarnessError(f"cannot read the repetition {text!r}; write N:TIMES, such as 20:100 (the first 20 pictures of each artist, 100 times each)")
    return Duplicate(int(n), int(times))


def write(out: Path, artists: Sequence[str], n: int = 32, split: str | None = None, seed: int = 0, duplicates: Duplicate | None = None,
          withdrawn: Sequence[Withdrawn] = (), progress: Progress = silent, *, card: CardWriter) -> ImageSet:
    """Draw `n` works of each artist into the folder `out` with samples.csv (render.COLUMNS and `world`) and a data card.

    Without a split hands draw people of their own split and everybody else held-out ones. `card` writes the data card (cards.CardWriter).
    The same arguments give the same bytes. Raises HarnessError for an unknown artist or split, when everybody withdrew, when a style
    has too few people, when there are fewer works than duplicates, and when `out` holds files of another set.
    """
    import pandas as pd

    chosen = _chosen(artists, n, split, withdrawn)
    drawn = list(_drawn(chosen, n, split, seed, duplicates, progress))
    table = pd.DataFrame([row for _, row in drawn], columns=[*COLUMNS, "world"])
    names = [f"{name}-{i:04d}.png" for i, name in enumerate(table["artist"])]
    _only_ours(Path(out), names)
    images = write_set(Path(out), [image for image, _ in drawn], table.assign(file=names))
    command = command_line([a.name for a in chosen], n, split, seed, duplicates)
    card(Path(out), rendered(CARD, chosen, n, split, seed, duplicates, withdrawn, command), images)
    return images


def identity(artist_name: str, split: str, seed: int, person: str, number: int) -> str:
    """The hash that identifies a picture before it is drawn: versions of the drawing packages and what was asked for."""
    asked = [{p: version(p) for p in PACKAGES}, seed, split, artist_name, person, number]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def command_line(names: Sequence[str], n: int, split: str | None, seed: int, duplicates: Duplicate | None) -> str:
    """The command that draws a folder again."""
    return (f"harness world render --artists {','.join(names)} --n {n} --seed {seed}" + (f" --split {split}" if split else "")
            + (f" --repeat {duplicates.n}:{duplicates.times}" if duplicates else "") + " --out FOLDER")


def _chosen(names: Sequence[str], n: int, split: str | None, withdrawn: Sequence[Withdrawn]) -> list[Artist]:
    if n < 1:
        raise HarnessError(f"asked for {n} works of each artist; ask for at least 1")
    if split is not None and split not in SPLITS:
        raise HarnessError(f"no split named {split!r}; there are {', '.join(SPLITS)}")
    found, left = [artist(name) for name in names], list(names)
    for each in withdrawn:
        left = each.apply(left)
    if not left:
        raise HarnessError("every artist asked for has withdrawn, so there is nothing to draw; name others")
    return [a for a in found if a.name in left]


def _drawn(chosen: Sequence[Artist], n: int, split: str | None, seed: int, duplicates: Duplicate | None,
           progress: Progress) -> Iterator[tuple[Any, dict[str, Any]]]:
    for i, each in enumerate(chosen):
        part, works = split or ("hands" if each.hand is not None else "held-out"), []
        for k, (image, row) in enumerate(rows(each, part, n, seed, each=1), 1):
            progress({"stage": "render", "step": i * n + k, "of": len(chosen) * n})
            works.append((image, row | {"world": identity(each.name, part, seed, row["person"], row["number"])}))
        yield from duplicates.apply(works) if duplicates else works


def _only_ours(out: Path, names: Sequence[str]) -> None:
    """Refuse a folder that holds anything else, so that no set is ever mixed with the remains of another."""
    ours = {*names, "samples.csv", f"{CARD}.md", f"{CARD}.croissant.json"}
    other = sorted(p.name for p in out.iterdir() if p.name not in ours and not p.name.startswith(".")) if out.is_dir() else []
    if other:
        raise HarnessError(f"{out} holds files of another set ({len(other)}, the first is {other[0]}); name an empty folder")
