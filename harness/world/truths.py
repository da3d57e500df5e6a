"""Planted truths as data: an occupation that goes with an attribute, repeated pictures, a withdrawn artist, exact populations."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import islice
from typing import Iterable, Mapping, Sequence, TypeVar

from harness.errors import HarnessError
from harness.world.artists import Artist, artist
from harness.world.people import Person, people
from harness.world.styles import UNKNOWN

T = TypeVar("T")


@dataclass(frozen=True)
class Skew:
    """An occupation word that goes with an attribute's value in a given share of the captions."""

    word: str
    """the occupation, as it stands in captions"""
    attribute: str
    """the attribute it goes with"""
    value: str
    """the value it goes with"""
    share: float
    """share of this word's captions (with the attribute known) that have the value, 0–1"""
    prior: float
    """share of the value among all portraits with the attribute known, 0–1"""

    def __post_init__(self) -> None:
        if not (0 < self.share < 1 and 0 < self.prior < 1):
            raise HarnessError(f"the skew of {self.word!r} needs a share and a prior between 0 and 1")

    def weight(self, attributes: Mapping[str, str]) -> float:
        """How often this word is chosen for a portrait, relative to a word without a skew (Bayes' rule)."""
        value = attributes.get(self.attribute, UNKNOWN)
        if value == UNKNOWN:
            return 1.0
        return self.share / self.prior if value == self.value else (1 - self.share) / (1 - self.prior)


@dataclass(frozen=True)
class Duplicate:
    """The first n pictures of a set, repeated: what a model memorises first."""

    n: int
    """how many pictures"""
    times: int
    """how often each stands in the set"""

    def apply(self, works: Sequence[T]) -> list[T]:
        """The set with the duplicates in it. Raises HarnessError when it has fewer than n pictures."""
        if len(works) < self.n:
            raise HarnessError(f"asked to repeat {self.n} pictures, but the set has {len(works)}")
        return [w for i, w in enumerate(works) for _ in range(self.times if i < self.n else 1)]


@dataclass(frozen=True)
class Withdrawn:
    """An artist who withdrew consent. It is a role that a pseudonym plays, and says nothing about a real person."""

    artist: str
    """pseudonym"""

    def apply(self, names: Iterable[str]) -> list[str]:
        """The names that remain. Raises HarnessError for an unknown artist."""
        artist(self.artist)
        return [n for n in names if n != self.artist]


# What the miniature models were taught on purpose. Occupations that are not listed here have no skew.
SKEWS = (Skew("nurse", "skin", "light", 0.8, 1 / 3), Skew("baker", "skin", "dark", 0.8, 1 / 3), Skew("teacher", "glasses", "none", 0.2, 0.7))
OCCUPATIONS = ("nurse", "baker", "teacher", "doctor", "farmer", "musician", "pilot", "cook")
OCCUPATION_SHARE = 0.2
"""Share of training captions whose noun is an occupation."""


def occupation(attributes: Mapping[str, str], rng: random.Random, skews: Sequence[Skew] = SKEWS) -> str | None:
    """An occupation word for a portrait, or None; words with a skew follow it, and the others keep the prior.

    Each word has its own probability given the attributes (Bayes' rule), and None takes the rest: were the words weighed against
    each other instead, one word's skew would dilute the others'. Raises HarnessError when the skews together leave no rest.
    """
    by_word = {s.word: s.weight(attributes) for s in skews}
    chances = [OCCUPATION_SHARE / len(OCCUPATIONS) * by_word.get(w, 1.0) for w in OCCUPATIONS]
    if sum(chances) > 1:
        raise HarnessError(f"the skews ask for more occupations than there are captions (with {dict(attributes)}); lower a share or raise a prior")
    return rng.choices((*OCCUPATIONS, None), [*chances, 1 - sum(chances)])[0]


def population(of: Artist, split: str, attribute: str, counts: Mapping[str, int], seed: int = 0) -> list[Person]:
    """People with exactly known counts of an attribute's values, with no model in between.

    Example: population(artist("artist-06"), "held-out", "skin", {"light": 30, "dark": 10}). Raises HarnessError when there are too few.
    """
    chosen = [p for value, n in counts.items() for p in islice(people(of, split, seed, {attribute: value}), n)]
    random.Random(seed).shuffle(chosen)
    return chosen
