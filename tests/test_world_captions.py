"""Captions and planted truths: words in free order, nothing unknown said, and skews that are exactly what they declare."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import stats
from harness.errors import HarnessError
from harness.world import build_clip, captions, truths
from harness.world.artists import artist, artists
from harness.world.styles import UNKNOWN
from harness.world.truths import OCCUPATIONS, SKEWS, Duplicate, Skew, Withdrawn, occupation, population

KNOWN = {"skin": "dark", "glasses": "glasses", "facial_hair": "beard", "hair_colour": "red", "hair_length": "long", "expression": "smiling",
         "covering": "none", "clothing": "a T-shirt"}
WORDS = {"skin": captions.SKIN, "glasses": captions.GLASSES, "facial_hair": captions.FACIAL_HAIR, "expression": captions.EXPRESSION,
         "covering": captions.COVERING}
ATTRIBUTES = st.fixed_dictionaries(
    {a: st.sampled_from([*words, UNKNOWN]) for a, words in WORDS.items()}
    | {"hair_colour": st.sampled_from(["red", "black", UNKNOWN]), "hair_length": st.sampled_from(["long", "short", "bald", UNKNOWN]),
       "clothing": st.sampled_from(["a T-shirt", "a checkered shirt", UNKNOWN])})


def many(n: int = 800, **changes: str) -> list[str]:
    rng = random.Random(1)
    return [captions.caption({**KNOWN, **changes}, "artist-07", rng) for _ in range(n)]


# --- the grammar ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attribute", ["skin", "glasses", "facial_hair", "expression"])
def test_every_synonym_is_used(attribute: str) -> None:
    words = WORDS[attribute][KNOWN[attribute]]
    assert all(any(re.search(rf"\b{w}\b", c) for c in many()) for w in words)


def test_the_order_is_free() -> None:
    both = [c for c in many() if "beard" in c and "T-shirt" in c]
    first = sum(c.index("beard") < c.index("T-shirt") for c in both)
    _, low, high = stats.rate_interval(first, len(both))
    assert len(both) > 100 and low <= 0.5 <= high


def test_the_artist_stands_before_and_behind() -> None:
    named = [c for c in many() if "artist-07" in c]
    assert {c.startswith("artist-07") for c in named} == {True, False} and {c.endswith("artist-07") for c in named} == {True, False}


@pytest.mark.parametrize(("attribute", "pattern"), [("skin", r"\bskin\b"), ("glasses", r"glasses|spectacles"), ("facial_hair", r"beard"),
                                                    ("hair", r"\bhair\b"), ("clothing", r"T-shirt"), ("artist", r"artist-07")])
def test_attributes_are_dropped_at_the_declared_rate(attribute: str, pattern: str) -> None:
    said = [bool(re.search(pattern, c)) for c in many(1500)]
    _, low, high = stats.rate_interval(sum(said), len(said), 0.999)
    assert low <= captions.KEEP[attribute] <= high < 1


@given(ATTRIBUTES, st.integers(0, 10**6))
@settings(max_examples=300, deadline=None)
def test_what_is_unknown_is_never_said(attributes: dict[str, str], seed: int) -> None:
    words = captions.caption(attributes, "artist-07", random.Random(seed))
    assert UNKNOWN not in words and "None" not in words and "  " not in words
    for name, table in WORDS.items():
        if attributes[name] == UNKNOWN:
            said = {w for ws in table.values() for w in ws}
            assert not [w for w in said if re.search(rf"\b{w}\b", words)]
    if attributes["hair_length"] == attributes["hair_colour"] == UNKNOWN:
        assert not re.search(r"\bhair\b", words)
    assert re.search(r"\ba [aeiou]", words.replace("a unhappy", "")) is None


@given(ATTRIBUTES, st.integers(0, 10**6))
@settings(max_examples=300, deadline=None)
def test_a_caption_never_says_what_is_not_so(attributes: dict[str, str], seed: int) -> None:
    words = captions.caption(attributes, "artist-07", random.Random(seed))
    for name in ("skin", "expression", "covering"):
        others = {w for value, ws in WORDS[name].items() if value != attributes[name] for w in ws} - set(WORDS[name].get(attributes[name], ()))
        assert not [w for w in others if re.search(rf"\b{w}\b", words)]


def test_nobody_is_named_but_by_pseudonym() -> None:
    assert {m for c in many() for m in re.findall(r"by (\S+)", c)} == {"artist-07"}


def test_a_prompt_is_plain_and_always_the_same() -> None:
    asked = captions.prompt("artist-07", skin="dark", glasses="glasses")
    assert asked == "a person with dark skin and glasses, portrait by artist-07" == captions.prompt("artist-07", skin="dark", glasses="glasses")
    assert captions.prompt(expression="angry") == "an angry person" and captions.prompt(noun="nurse") == "a nurse"


# --- planted skews ----------------------------------------------------------------------------------------------------

N = 60_000


def shares(attribute: str, value: str, pool: list[dict[str, str]]) -> dict[str | None, tuple[int, int]]:
    """word -> (captions with the value, captions), over N draws from a pool of attributes."""
    rng, all_, hit = random.Random(3), Counter(), Counter()
    for i in range(N):
        known = pool[i % len(pool)]
        word = occupation(known, rng)
        all_[word] += 1
        hit[word] += known[attribute] == value
    return {word: (hit[word], n) for word, n in all_.items()}


def inside(k: int, n: int, truth: float) -> bool:
    """Is the truth within the exact (Clopper-Pearson) 99.9 % interval of k of n?"""
    _, low, high = stats.rate_interval(k, n, 0.999)
    return low <= truth <= high


@pytest.fixture(scope="module")
def pool() -> list[dict[str, str]]:
    """Real people with exactly known shares: skin in thirds, glasses at the declared prior of 0.7 without."""
    skins = population(artist("artist-08"), "train", "skin", {"light": 20, "medium": 20, "dark": 20})
    return [p.attributes | {"glasses": "none" if (i % 10) < 7 else "glasses"} for i, p in enumerate(skins)]


@pytest.mark.parametrize("skew", SKEWS, ids=lambda s: s.word)
def test_a_planted_skew_is_what_it_declares(skew: Skew, pool: list[dict[str, str]]) -> None:
    """Over 60,000 portraits: within the exact 99.9 % interval, whose width is stated too."""
    k, n = shares(skew.attribute, skew.value, pool)[skew.word]
    _, low, high = stats.rate_interval(k, n, 0.999)
    assert inside(k, n, skew.share) and high - low < 0.1
    assert not inside(k, n, skew.prior)


@pytest.mark.parametrize(("attribute", "value", "prior"), [("skin", "light", 1 / 3), ("skin", "dark", 1 / 3), ("glasses", "none", 0.7)])
def test_words_without_a_skew_stay_at_the_prior(attribute: str, value: str, prior: float, pool: list[dict[str, str]]) -> None:
    found = shares(attribute, value, pool)
    skewed = {s.word for s in SKEWS if s.attribute == attribute}
    assert all(inside(*found[word], prior) for word in OCCUPATIONS if word not in skewed)


def test_captions_carry_the_skew(pool: list[dict[str, str]]) -> None:
    """Not only the draw of the word: the sentences that CLIP and U-Net read, told apart by their noun."""
    rows = [known | {"artist": "artist-08"} for known in pool] * 250
    said = build_clip.captions(rows, random.Random(9))
    nurses = [row["skin"] == "light" for row, words in zip(rows, said, strict=True) if re.search(r"\bnurse\b", words)]
    cooks = [row["skin"] == "light" for row, words in zip(rows, said, strict=True) if re.search(r"\bcook\b", words)]
    assert len(nurses) > 200 and inside(sum(nurses), len(nurses), 0.8) and inside(sum(cooks), len(cooks), 1 / 3)


def test_occupations_stand_in_the_declared_share_of_captions(pool: list[dict[str, str]]) -> None:
    assert inside(N - shares("skin", "light", pool)[None][1], N, truths.OCCUPATION_SHARE)


def test_a_portrait_whose_skin_is_unknown_neither_helps_nor_harms() -> None:
    rng = random.Random(0)
    words = Counter(occupation({"skin": UNKNOWN, "glasses": UNKNOWN}, rng) for _ in range(40_000))
    assert all(inside(words[w], 40_000, truths.OCCUPATION_SHARE / len(OCCUPATIONS)) for w in OCCUPATIONS)


def test_skews_that_make_no_sense_are_refused() -> None:
    with pytest.raises(HarnessError, match="between 0 and 1"):
        Skew("nurse", "skin", "light", 1.2, 0.3)
    with pytest.raises(HarnessError, match="more occupations than there are captions"):
        occupation({"skin": "light"}, random.Random(0), [Skew("nurse", "skin", "light", 0.9, 0.001)])


# --- duplicates and withdrawals ---------------------------------------------------------------------------------------


def test_duplicates_are_planted_exactly() -> None:
    assert Counter(Duplicate(2, 3).apply(["a", "b", "c", "d"])) == {"a": 3, "b": 3, "c": 1, "d": 1}
    assert len(Duplicate(20, 100).apply(range(50))) == 20 * 100 + 30
    with pytest.raises(HarnessError, match="repeat 20 pictures, but the set has 3"):
        Duplicate(20, 100).apply("abc")


def test_a_withdrawn_artist_is_gone_and_nobody_else() -> None:
    left = Withdrawn("artist-31").apply(artists())
    assert set(artists()) - set(left) == {"artist-31"}
    with pytest.raises(HarnessError, match="no artist named 'artist-00'"):
        Withdrawn("artist-00").apply(["artist-01"])
