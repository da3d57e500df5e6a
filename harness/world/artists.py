"""Who draws in the miniature world: nine base artists, unseen drawn artists held out by creator, and pseudo-artists.

Creator, source, licence and remix text are read from the art's own metadata and never typed here. Captions, prompts,
ledgers and reports know an artist by pseudonym only; names stand in data cards and credits.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import distribution
from typing import Any

from harness.errors import HarnessError

BASE_STYLES = ("adventurer", "big-ears", "big-smile", "croodles", "dylan", "micah", "miniavs", "personas", "toon-head")
# Held out by creator: none of these shares one with a base style. The first two are line art.
UNSEEN_STYLES = ("notionists", "open-peeps", "pixel-art", "voxel-art", "cutouts", "cameo", "fun-emoji", "moods", "clay", "critters",
                 "sprouts", "thumbs")
HANDS = 48
FIRST_HAND = 51
# Dylan fills its own background, which a hand could not replace.
HAND_STYLES = tuple(s for s in BASE_STYLES if s != "dylan")


@dataclass(frozen=True)
class Artist:
    """One artist of the world."""

    name: str
    """pseudonym, the only name that captions, prompts, tokens and ledgers use"""
    style: str
    """name of the drawn style (for a pseudo-artist: of the portraits that the hand is laid over)"""
    role: str
    """"base" (the miniature models learned from it), "unseen" or "hand" (a parametric pseudo-artist, unseen too)"""
    hand: int | None = None
    """number of the parametric hand, for a pseudo-artist"""


@dataclass(frozen=True)
class Credit:
    """Who made a drawn style, from its own metadata."""

    style: str
    creator: str
    creator_url: str
    source: str
    source_url: str
    licence: str
    licence_url: str
    remix: str


@lru_cache(maxsize=None)
def definition(style: str) -> dict[str, Any]:
    """The style's definition as shipped by the art package. Raises HarnessError for an unknown style."""
    path = distribution("dicebear-styles").locate_file(f"dicebear_styles/{style}.json")
    try:
        return json.loads(open(path, encoding="utf-8").read())
    except FileNotFoundError:
        raise HarnessError(f"no drawn style named {style!r}; known here are {', '.join(BASE_STYLES + UNSEEN_STYLES)}") from None


def credit(style: str) -> Credit:
    """Creator, source, licence and remix text of a drawn style, for cards and credits only."""
    meta = definition(style)["meta"]
    maker, source, licence = meta.get("creator", {}), meta.get("source", {}), meta.get("license", {})
    return Credit(style, maker.get("name", ""), maker.get("url", ""), source.get("name", ""), source.get("url", ""),
                  licence.get("name", ""), licence.get("url", ""), licence.get("text", ""))


@lru_cache(maxsize=None)
def artists() -> dict[str, Artist]:
    """Every artist of the world by pseudonym: artist-01 … base, artist-21 … unseen, artist-51 … pseudo-artists."""
    base = [Artist(f"artist-{i:02d}", s, "base") for i, s in enumerate(BASE_STYLES, 1)]
    unseen = [Artist(f"artist-{i:02d}", s, "unseen") for i, s in enumerate(UNSEEN_STYLES, 21)]
    hands = [Artist(f"artist-{FIRST_HAND + i:02d}", HAND_STYLES[i % len(HAND_STYLES)], "hand", i) for i in range(HANDS)]
    return {a.name: a for a in (*base, *unseen, *hands)}


def artist(name: str) -> Artist:
    """The artist with a pseudonym. Raises HarnessError, with the names that exist, when there is none."""
    try:
        return artists()[name]
    except KeyError:
        known = artists()
        raise HarnessError(f"no artist named {name!r} in the miniature world; there are {min(known)} to {max(known)} "
                           f"({len(known)} in all; base: artist-01 to artist-{len(BASE_STYLES):02d})") from None


def base_artists() -> list[Artist]:
    """The artists whose portraits the miniature models are trained on."""
    return [a for a in artists().values() if a.role == "base"]


def unseen_artists(role: str | None = None) -> list[Artist]:
    """Artists that no miniature model has met; `role` "unseen" or "hand" narrows them to drawn ones or pseudo-artists."""
    return [a for a in artists().values() if a.role != "base" and role in (None, a.role)]
