"""People: an identity lasts while expressions change, belongs to one split for good, and comes in exactly the numbers asked for."""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import HarnessError
from harness.world import colour
from harness.world.artists import BASE_STYLES, artist, artists, base_artists, unseen_artists
from harness.world.people import SPLITS, people, read
from harness.world.render import portraits, truth, works
from harness.world.styles import UNKNOWN, changing, table
from harness.world.truths import population

LASTING = ("skin", "skin_hex", "monk", "hair_colour", "hair_length", "glasses", "facial_hair", "covering")
BASE = [a.name for a in base_artists()]


def test_splits_share_nothing_and_leave_nothing_out() -> None:
    assert sorted(i for part in SPLITS.values() for i in part) == list(range(10))


@given(name=st.sampled_from(sorted(artists())), seeds=st.tuples(st.integers(0, 50), st.integers(0, 50)))
@settings(max_examples=25, deadline=None)
def test_people_never_repeat_across_splits(name: str, seeds: tuple[int, int]) -> None:
    """Whatever seed another split is drawn with: a person's split is a function of the identity alone."""
    train, other = ({p.key for p in islice(people(artist(name), split, seed), 5)} for split, seed in zip(("train", "held-out"), seeds))
    assert len(train) == len(other) == 5 and not train & other


def test_a_persons_split_is_where_it_was_drawn() -> None:
    assert all(p.split == split for split in SPLITS for p in islice(people(artist("artist-06"), split, 3), 8))


@pytest.mark.parametrize("name", [a.name for a in unseen_artists("unseen")])
def test_every_unseen_artist_has_people_in_every_split(name: str) -> None:
    assert all(len(list(islice(people(artist(name), split), 3))) == 3 for split in SPLITS)


@pytest.mark.parametrize("name", BASE)
def test_expressions_change_and_lasting_attributes_never_do(name: str) -> None:
    """Over every changing component that the style has: other variants, the same identity."""
    style = artist(name).style
    for person in islice(people(artist(name), "train", 11), 3):
        drawn = [person.portrait(k) for k in range(8)]
        assert all({a: p.attributes[a] for a in LASTING} == {a: person.attributes[a] for a in LASTING} for p in drawn)
        assert len({p.svg for p in drawn}) >= 3 and {p.person for p in drawn} == {person.name}
        assert set(person.attributes) == set(LASTING) and changing(style)


def test_a_glasses_wearer_keeps_them_where_glasses_are_a_kind_of_eyes() -> None:
    """In two styles glasses are variants of the eyes, which change: the worst case for an identity."""
    for name in ("artist-04", "artist-08"):
        person = next(people(artist(name), "train", where={"glasses": "glasses"}))
        assert {person.portrait(k).attributes["glasses"] for k in range(25)} == {"glasses"}


def test_expressions_really_differ_where_the_style_says_them() -> None:
    person = next(people(artist("artist-06"), "train", 1))
    assert len({person.portrait(k).attributes["expression"] for k in range(20)} - {UNKNOWN}) >= 3


def test_the_same_seed_draws_the_same_people_and_pictures() -> None:
    first, again = ([p for p in islice(people(artist("artist-08"), "train", 7), 4)] for _ in range(2))
    assert [p.key for p in first] == [p.key for p in again]
    bytes_ = [hashlib.sha256(p.portrait(2).image(64).tobytes()).hexdigest() for p in (first[0], again[0])]
    assert bytes_[0] == bytes_[1] != hashlib.sha256(first[0].portrait(3).image(64).tobytes()).hexdigest()
    assert [p.key for p in islice(people(artist("artist-08"), "train", 8), 4)] != [p.key for p in first]


def test_the_truth_about_skin_is_the_colour_in_the_picture() -> None:
    """The pixels, not only the table: the exact hex stands in the drawing."""
    for person in islice(people(artist("artist-08"), "train"), 4):
        found = {"#%02x%02x%02x" % p[:3] for _, p in person.portrait(0).image(128).getcolors(128 * 128)}
        assert person.attributes["skin_hex"] in found
        assert person.attributes["skin"] == colour.skin_bin(person.attributes["skin_hex"])
        assert person.attributes["monk"] == str(colour.monk_orb(person.attributes["skin_hex"]))


def test_glasses_and_beards_change_pixels() -> None:
    """Two people alike but for the attribute must look different, or its truth could not be seen."""
    from dataclasses import replace

    import numpy as np

    for component in ("glasses", "facialHair"):
        bare = next(p for p in people(artist("artist-06"), "train") if p.variants["glasses"] is None and p.variants["facialHair"] is None)
        worn = replace(bare, variants={**bare.variants, component: {"glasses": "round", "facialHair": "beard"}[component]})
        one, other = (np.asarray(p.portrait(0).image(64), dtype=int) for p in (bare, worn))
        assert (abs(one - other).max(-1) > 40).sum() >= 20


def test_what_a_style_does_not_say_is_unknown() -> None:
    said = read("big-ears", {"hair": "long01"}, {"skin": "#f8b788", "hair": "#000000"})
    assert (said["glasses"], said["facial_hair"], said["expression"], said["clothing"]) == (UNKNOWN,) * 4
    assert set(read("clay", {}, {}).values()) == {UNKNOWN}


def test_covered_and_bald_heads_have_no_hair_colour() -> None:
    assert read("personas", {"hair": "cap"}, {"hair": "#000000"})["hair_colour"] == UNKNOWN
    assert read("personas", {"hair": "bald"}, {"hair": "#000000"})["hair_colour"] == UNKNOWN
    assert read("personas", {"hair": "long"}, {"hair": "#000000"})["hair_colour"] == "black"


@pytest.mark.parametrize("style", BASE_STYLES)
def test_colours_of_worn_things_stay_apart_from_the_skin(style: str) -> None:
    import math

    rules = table(style)
    name = next(a.name for a in base_artists() if a.style == style)
    for person in islice(people(artist(name), "train"), 25):
        pair = [person.colours.get(slot or "") for slot in (rules.skin, rules.hair)]
        if all(pair):
            assert math.dist(*map(colour.lab, pair)) >= 20


def test_a_population_has_exactly_the_counts_asked_for() -> None:
    counts = {"light": 9, "medium": 4, "dark": 2}
    drawn = population(artist("artist-06"), "held-out", "skin", counts, seed=2)
    assert Counter(p.attributes["skin"] for p in drawn) == counts
    assert len({p.key for p in drawn}) == 15 and {p.split for p in drawn} == {"held-out"}
    assert [p.key for p in drawn] == [p.key for p in population(artist("artist-06"), "held-out", "skin", counts, seed=2)]


def test_a_population_that_cannot_be_had_is_refused() -> None:
    with pytest.raises(HarnessError, match="only 0 different people"):
        population(artist("artist-27"), "held-out", "skin", {"light": 1})
    with pytest.raises(HarnessError, match="no split named 'trian'"):
        next(people(artist("artist-09"), "trian"))


def test_works_of_a_hand_say_unknown_for_what_the_hand_paints_over() -> None:
    painted = truth(artist("artist-53"), next(iter(portraits(artist("artist-53"), "hands", 1))))
    assert {painted[a] for a in ("skin", "skin_hex", "monk", "hair_colour")} == {UNKNOWN}
    _, table_ = works(artist("artist-53"), 3)
    assert set(table_.skin) | set(table_.hair_colour) | set(table_.monk) == {UNKNOWN} and set(table_.glasses) <= {"glasses", "sunglasses", "none", UNKNOWN}


def test_subject_work_gets_ten_to_twenty_pictures_of_one_person() -> None:
    drawn = list(portraits(artist("artist-06"), "train", 15, each=15))
    assert len({p.person for p in drawn}) == 1 and len({p.svg for p in drawn}) >= 10
