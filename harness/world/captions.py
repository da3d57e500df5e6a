"""Captions from a small grammar with synonyms and free order, so that a text encoder learns words and not positions.

Example: "a smiling person with glasses and red hair, portrait by artist-07". Some captions drop attributes; what is unknown
is never said. Artists stand in captions by pseudonym only.
"""

from __future__ import annotations

import random
from typing import Mapping

from harness.world.styles import UNKNOWN

SKIN = {"light": ("light skin", "fair skin"), "medium": ("medium skin", "tan skin"), "dark": ("dark skin", "deep skin")}
GLASSES = {"glasses": ("glasses", "eyeglasses", "spectacles"), "sunglasses": ("sunglasses", "shades"), "none": ("no glasses",)}
FACIAL_HAIR = {"beard": ("a beard",), "moustache": ("a moustache", "a mustache"), "stubble": ("stubble",), "none": ("no beard", "a clean-shaven face")}
EXPRESSION = {"smiling": ("smiling", "happy", "cheerful"), "sad": ("sad", "unhappy"), "angry": ("angry",),
              "surprised": ("surprised", "astonished"), "serious": ("serious", "calm")}
COVERING = {"hat": ("a hat",), "cap": ("a cap",), "beanie": ("a beanie",), "turban": ("a turban",), "headscarf": ("a headscarf",)}
NOUNS = ("person", "person", "person", "figure", "character")
FRAMES = ("{subject}, portrait by {artist}", "{subject}, portrait by {artist}", "portrait of {subject} by {artist}", "{subject}, drawn by {artist}",
          "{artist}: {subject}", "a portrait by {artist} of {subject}")
KEEP = {"skin": 0.75, "glasses": 0.75, "facial_hair": 0.75, "hair": 0.65, "expression": 0.7, "covering": 0.7, "clothing": 0.4, "artist": 0.92}
"""Probability that a caption says a known attribute."""
KEEP_ALL = {name: 1.0 for name in KEEP}


def caption(attributes: Mapping[str, str], artist: str, rng: random.Random, noun: str | None = None,
            keep: Mapping[str, float] = KEEP) -> str:
    """One caption of a portrait: random synonyms, order and omissions. `noun` replaces "person" (an occupation, say)."""
    said = {name: words for name, words in _phrases(attributes, rng).items() if rng.random() < keep[name]}
    mood, parts = said.pop("expression", ""), list(said.values())
    rng.shuffle(parts)
    subject = _subject(mood, noun or rng.choice(NOUNS), parts)
    if rng.random() >= keep["artist"]:
        return subject
    return rng.choice(FRAMES).format(subject=subject, artist=artist)


def prompt(artist: str | None = None, noun: str = "person", **attributes: str) -> str:
    """The plain prompt for given attributes, first synonym each: "a person with dark skin and glasses, portrait by artist-07"."""
    first = random.Random(0)
    tables = {"skin": SKIN, "glasses": GLASSES, "facial_hair": FACIAL_HAIR, "covering": COVERING}
    parts = [tables[a][v][0] for a, v in attributes.items() if a in tables]
    parts += [_hair(attributes, first)] if {"hair_colour", "hair_length"} & set(attributes) else []
    mood = EXPRESSION[attributes["expression"]][0] if "expression" in attributes else ""
    subject = _subject(mood, noun, parts)
    return f"{subject}, portrait by {artist}" if artist else subject


def _phrases(attributes: Mapping[str, str], rng: random.Random) -> dict[str, str]:
    """What could be said: attribute -> phrase, for known attributes only."""
    tables = {"skin": SKIN, "glasses": GLASSES, "facial_hair": FACIAL_HAIR, "expression": EXPRESSION, "covering": COVERING}
    found = {a: rng.choice(words[attributes[a]]) for a, words in tables.items() if attributes.get(a, UNKNOWN) in words}
    hair, clothing = _hair(attributes, rng), attributes.get("clothing", UNKNOWN)
    return found | ({"hair": hair} if hair else {}) | ({"clothing": clothing} if clothing != UNKNOWN else {})


def _hair(attributes: Mapping[str, str], rng: random.Random) -> str:
    length, colour = (attributes.get(k, UNKNOWN) for k in ("hair_length", "hair_colour"))
    if length == "bald":
        return "a bald head"
    words = [w for w in (length, colour) if w != UNKNOWN]
    if len(words) == 2 and rng.random() < 0.4:
        words = words[1:]
    return " ".join([*words, "hair"]) if words else ""


def _subject(mood: str, noun: str, parts: list[str]) -> str:
    head = f"{mood} {noun}".strip()
    article = "an" if head[0] in "aeiou" else "a"
    tail = f" with {', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else f" with {parts[0]}" if parts else ""
    return f"{article} {head}{tail}"
