"""People of the miniature world: a fixed identity under changing expressions and clothes.

An identity is a set of components and colours, drawn from the style's own variants by a seeded generator. Its hash decides
which split it belongs to, so a person never stands in two of them, whatever is drawn and in whatever order.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Iterator, Mapping

from harness.errors import HarnessError
from harness.world import colour
from harness.world.artists import Artist, definition
from harness.world.styles import ATTRIBUTES, CHANGING, UNKNOWN, StyleTable, changing, table

# Split by identity hash modulo 10: everything a model learns from, and what judges, thresholds and audits use, is disjoint.
SPLITS = {"train": range(0, 6), "judge": range(6, 7), "calibration": range(7, 8), "held-out": range(8, 9), "hands": range(9, 10)}
SKIN_ORBS = colour.MONK[:4] + colour.MONK[5:8]
"""Monk orbs that every style with a skin colour may use beside its own; 5 lies in a gap, 9 and 10 hide black lines."""
APART = 20.0
"""CIE76 distance below which hair, glasses or beard would vanish on the skin"""


@dataclass(frozen=True)
class Portrait:
    """One drawn portrait: an SVG and the truth about it."""

    svg: str
    person: str
    number: int
    attributes: Mapping[str, str]

    def image(self, size: int = 64, background: str | None = "#ffffff") -> Any:
        """The drawing as a PIL image (size × size): RGB over a background colour, or RGBA when that is None."""
        import resvg_py
        from PIL import Image

        png = resvg_py.svg_to_bytes(svg_string=self.svg, width=size, height=size, background=background)
        return Image.open(io.BytesIO(bytes(png))).convert("RGB" if background else "RGBA")


@dataclass(frozen=True)
class Person:
    """One identity in one style."""

    artist: Artist
    seed: int
    variants: Mapping[str, str | None]
    colours: Mapping[str, str]

    @property
    def key(self) -> str:
        """Hash of what stays the same in every portrait of this person."""
        fixed = {c: v for c, v in self.variants.items() if c not in changing(self.artist.style)}
        fixed |= {f"#{c}": v for c, v in self.colours.items() if c not in _changing_colours(self.artist.style)}
        fixed |= {f"!{a}": v for a, v in read(self.artist.style, self.variants, self.colours).items() if a in _LASTING}
        return hashlib.sha256(json.dumps([self.artist.style, fixed], sort_keys=True).encode()).hexdigest()

    @property
    def name(self) -> str:
        """A short name for tables and folders, such as "artist-06/3f2a91c0"."""
        return f"{self.artist.name}/{self.key[:8]}"

    @property
    def split(self) -> str:
        """The only split that this person belongs to."""
        return next(name for name, part in SPLITS.items() if int(self.key, 16) % 10 in part)

    @property
    def attributes(self) -> dict[str, str]:
        """The lasting attributes (those that every portrait of this person shares)."""
        known = read(self.artist.style, self.variants, self.colours)
        return {a: v for a, v in known.items() if a in _LASTING}

    def portrait(self, number: int) -> Portrait:
        """Portrait `number` of this person: another expression and other clothes, the same identity."""
        from dicebear import Avatar

        rng = random.Random(f"{self.key}/{number}")
        style, recoloured = self.artist.style, _changing_colours(self.artist.style)
        variants = {c: _redraw(rng, style, c, v) if c in changing(style) else v for c, v in self.variants.items()}
        fresh = _draw_colours(rng, style, self.colours)
        colours = {c: fresh[c] if c in recoloured else v for c, v in self.colours.items()}
        svg = str(Avatar(_style(style), _options(variants, colours)))
        return Portrait(svg, self.name, number, read(style, variants, colours))


_LASTING = frozenset({"skin", "skin_hex", "monk", "hair_colour", "hair_length", "glasses", "facial_hair", "covering"})


def people(artist: Artist, split: str, seed: int = 0, where: Mapping[str, str] | None = None) -> Iterator[Person]:
    """Distinct people of one artist and split, in an endless but deterministic order; `where` fixes lasting attributes.

    Raises HarnessError when 4,000 draws in a row bring nobody new (a small style has few identities) and for an unknown split.
    """
    if split not in SPLITS:
        raise HarnessError(f"no split named {split!r}; there are {', '.join(SPLITS)}")
    seen: set[str] = set()
    draw, last = 0, 0
    while draw - last < 4000:
        person = _draw_person(artist, f"{artist.style}/{split}/{seed}/{draw}", draw)
        draw += 1
        if person.key in seen or person.split != split or not _fits(person, where):
            continue
        seen.add(person.key)
        last = draw
        yield person
    raise HarnessError(f"{artist.name} has only {len(seen)} different people in split {split!r}"
                       + (f" with {dict(where)}" if where else "") + "; ask for fewer, or for more portraits of each")


def read(style: str, variants: Mapping[str, str | None], colours: Mapping[str, str]) -> dict[str, str]:
    """The truth about a drawing: every attribute of the vocabulary, plus skin_hex and monk; what a style does not say is unknown."""
    rules = table(style)
    found = {a: rules.fixed.get(a, UNKNOWN) for a in ATTRIBUTES}
    for attribute, readings in rules.readings.items():
        found[attribute] = _first_telling([r.read(variants.get(r.component)) for r in readings])
    skin = colours.get(rules.skin or "")
    found |= {"skin": (colour.skin_bin(skin) if skin else None) or UNKNOWN, "skin_hex": skin or UNKNOWN,
              "monk": str(colour.monk_orb(skin)) if skin else UNKNOWN}
    hair = colours.get(rules.hair or "")
    if found["hair_length"] == "bald" or found["covering"] not in (UNKNOWN, "none"):
        hair = None
    found["hair_colour"] = colour.hair_word(hair) if hair else UNKNOWN
    return found


def _first_telling(values: list[str]) -> str:
    return next((v for v in values if v not in ("none", UNKNOWN)), values[0])


def _fits(person: Person, where: Mapping[str, str] | None) -> bool:
    return not where or all(person.attributes.get(a) == v for a, v in where.items())


@lru_cache(maxsize=None)
def _style(name: str) -> Any:
    from dicebear import Style

    return Style(definition(name))


def _draw_person(artist: Artist, seed: str, number: int) -> Person:
    rng = random.Random(seed)
    rules = table(artist.style)
    variants = {c: _draw_variant(rng, artist.style, rules, c) for c in definition(artist.style)["components"]}
    return Person(artist, number, variants, _draw_colours(rng, artist.style))


def _draw_variant(rng: random.Random, style: str, rules: StyleTable, component: str) -> str | None:
    described = definition(style)["components"][component]
    presence = rules.presence.get(component, (described.get("probability") or 100) / 100)
    names = [v for v in described["variants"] if f"{component}/{v}" not in rules.leave_out]
    weights = [rules.weights.get(f"{component}/{v}", 1.0) for v in names]
    pick = rng.choices(names, weights)[0]
    return pick if rng.random() < presence else None


def _redraw(rng: random.Random, style: str, component: str, variant: str | None) -> str | None:
    """Another variant that leaves the lasting attributes as they are (a new expression must not take the glasses off)."""
    if variant is None:
        return None
    rules = table(style)
    lasting = [r for a, rs in rules.readings.items() if a in _LASTING for r in rs if r.component == component]
    names = [v for v in definition(style)["components"][component]["variants"]
             if f"{component}/{v}" not in rules.leave_out and all(r.read(v) == r.read(variant) for r in lasting)]
    return rng.choice(names)


def _changing_colours(style: str) -> set[str]:
    rules = table(style)
    named = {c for c in definition(style).get("colors", {}) if c in CHANGING | {"shirt", "pants", "shoes", "jacket"}}
    return {c for c in named if f"#{c}" not in rules.lasting} - {rules.skin, rules.hair}


def _draw_colours(rng: random.Random, style: str, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """One colour per slot; hair, glasses and beards stay apart from the skin, or their truth could not be seen."""
    rules, slots = table(style), definition(style).get("colors", {})
    drawn = {}
    if rules.skin:
        drawn[rules.skin] = (given or {}).get(rules.skin) or _draw_skin(rng, slots[rules.skin]["values"])
    for name, slot in slots.items():
        if name not in drawn:
            drawn[name] = _apart(rng, slot["values"], [drawn[o] for o in _must_differ(name, slot, rules) if o in drawn])
    return drawn


def _must_differ(name: str, slot: Mapping[str, Any], rules: StyleTable) -> list[str]:
    worn = name in {"hair", "facialHair", "glasses", "top"}
    return list(slot.get("notEqualTo", [])) + ([rules.skin] if worn and rules.skin else [])


def _draw_skin(rng: random.Random, own: list[str]) -> str:
    wanted = rng.choice(list(colour.SKIN_BINS))
    return rng.choice([c for c in (*own, *SKIN_ORBS) if colour.skin_bin(c) == wanted])


def _apart(rng: random.Random, values: list[str], others: list[str]) -> str:
    far = [v for v in values if all(math.dist(colour.lab(v), colour.lab(o)) >= APART for o in others)]
    return rng.choice(far or values)


def _options(variants: Mapping[str, str | None], colours: Mapping[str, str]) -> dict[str, Any]:
    options: dict[str, Any] = {"seed": "likeness"}
    for component, variant in variants.items():
        options[f"{component}Probability"] = 0 if variant is None else 100
        if variant is not None:
            options[f"{component}Variant"] = [variant]
    return options | {f"{name}Color": [value] for name, value in colours.items()}
