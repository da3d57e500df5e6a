"""The art: who may be drawn and under which licence, what each style's table claims, colours, and names that must not leak."""

from __future__ import annotations

import csv
import dataclasses
import random
import re
from itertools import islice, product
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.world import captions, colour, truths
from harness.world.artists import BASE_STYLES, UNSEEN_STYLES, artist, artists, base_artists, credit, definition, unseen_artists
from harness.world.people import _redraw, people
from harness.world.styles import ATTRIBUTES, STYLES, UNKNOWN, table

ROOT = Path(__file__).resolve().parents[1]
ALL = BASE_STYLES + UNSEEN_STYLES
# Unseen styles that have no table on purpose: their pictures say nothing in the vocabulary.
SILENT = {"cutouts", "cameo", "clay", "critters", "sprouts"}
YOUNG = re.compile(r"pacifier|baby|infant|toddler|child|kid|teen|school|boy|girl|bib\b|dummy", re.IGNORECASE)
ABOUT_PEOPLE = re.compile(r"\b(wo)?m[ae]n\b|\b(fe)?male\b|\bboys?\b|\bgirls?\b|\bchild|\bold\b|\byoung\b|\bhe\b|\bshe\b|\bgender|\bage\b|\blady\b|\bsir\b", re.IGNORECASE)


# --- who draws --------------------------------------------------------------------------------------------------------


def test_there_are_enough_artists() -> None:
    assert len({credit(a.style).creator for a in base_artists()}) == len(base_artists()) >= 9
    drawn, hands = unseen_artists("unseen"), unseen_artists("hand")
    assert len(drawn) >= 10 and len(hands) >= 40 and len(artists()) == len(base_artists()) + len(drawn) + len(hands)
    assert all(re.fullmatch(r"artist-\d\d", name) and a.name == name for name, a in artists().items())


def test_held_out_artists_share_no_creator_with_base_artists() -> None:
    assert not {credit(s).creator for s in BASE_STYLES} & {credit(s).creator for s in UNSEEN_STYLES}


def test_avatars_with_unsettled_terms_are_left_out() -> None:
    assert not {"avataaars", "avataaars-neutral", "bottts", "bottts-neutral"} & set(ALL)


@pytest.mark.parametrize("style", ALL)
def test_creator_source_and_licence_come_from_the_arts_own_metadata(style: str) -> None:
    said, meta = credit(style), definition(style)["meta"]
    assert said.licence in {"CC0 1.0", "CC BY 4.0", "MIT"} and said.licence_url.startswith("https://")
    assert (said.creator, said.source, said.remix) == (meta["creator"]["name"], meta["source"]["name"], meta["license"]["text"])
    assert said.creator and said.source and said.creator in said.remix


def test_an_unknown_artist_or_style_is_refused_with_what_exists() -> None:
    with pytest.raises(HarnessError, match="artist-01 to artist-98"):
        artist("artist-99")
    with pytest.raises(HarnessError, match="adventurer"):
        definition("nobody")


# --- tables -----------------------------------------------------------------------------------------------------------


def test_every_style_has_a_table_or_is_known_to_say_nothing() -> None:
    assert set(STYLES) | SILENT == set(ALL) and not set(STYLES) & SILENT
    assert all(table(s) == table("no such style") for s in SILENT)


@pytest.mark.parametrize("style", STYLES)
def test_a_table_names_only_what_its_style_draws(style: str) -> None:
    rules, drawn = table(style), {c: set(d["variants"]) for c, d in definition(style)["components"].items()}
    readings = [(a, r) for a, rs in rules.readings.items() for r in rs]
    named = [(r.component, v) for _, r in readings for v in r.values] + [tuple(n.split("/")) for n in (*rules.leave_out, *rules.weights)]
    missing = [f"{c}/{v}" for c, v in named if not any(x.startswith(v[:-1]) if v.endswith("*") else x == v for x in drawn.get(c, ()))]
    assert missing == []
    assert {r.component for _, r in readings} | set(rules.presence) <= set(drawn)
    assert {rules.skin, rules.hair} - {None} <= set(definition(style)["colors"])
    assert {a for a, _ in readings} | set(rules.fixed) <= set(ATTRIBUTES)


@pytest.mark.parametrize("style", STYLES)
def test_a_table_uses_only_words_of_the_vocabulary(style: str) -> None:
    words = {"glasses": set(captions.GLASSES), "facial_hair": set(captions.FACIAL_HAIR), "expression": set(captions.EXPRESSION),
             "covering": {*captions.COVERING, "none"}, "hair_length": {"long", "short", "bald"}}
    for attribute, readings in table(style).readings.items():
        values = {v for r in readings for v in (*r.values.values(), r.otherwise, r.absent)} - {UNKNOWN, "none"}
        assert attribute == "clothing" or values <= words[attribute]
    assert set(table(style).fixed.values()) <= {"none"}


def test_a_component_that_may_be_absent_says_what_its_absence_means() -> None:
    for style, rules in STYLES.items():
        for attribute, (first, *_) in rules.readings.items():
            chance = rules.presence.get(first.component, (definition(style)["components"][first.component].get("probability") or 100) / 100)
            assert chance == 1 or first.absent != UNKNOWN, f"{style}: {attribute}"


def test_nothing_that_suggests_a_minor_is_drawn() -> None:
    suggestive = {f"{s}: {c}/{v}" for s in ALL for c, d in definition(s)["components"].items() for v in d["variants"] if YOUNG.search(f"{c}/{v}")}
    left_out = {f"{s}: {name}" for s, rules in STYLES.items() for name in rules.leave_out}
    assert "personas: mouth/pacifier" in suggestive and suggestive <= left_out
    mouths = {p.variants["mouth"] for p in islice(people(artist("artist-08"), "train"), 60)}
    mouths |= {_redraw(random.Random(i), "personas", "mouth", "smile") for i in range(60)}
    assert mouths == set(definition("personas")["components"]["mouth"]["variants"]) - {"pacifier"}


def test_nothing_is_said_about_gender_or_age() -> None:
    assert not [a for a in ATTRIBUTES if ABOUT_PEOPLE.search(a.replace("_", " "))]
    values = {v for rules in STYLES.values() for rs in rules.readings.values() for r in rs for v in r.values.values()}
    words = [w for group in (captions.SKIN, captions.GLASSES, captions.FACIAL_HAIR, captions.EXPRESSION, captions.COVERING) for ws in group.values() for w in ws]
    assert not [w for w in (*values, *words, *captions.NOUNS, *truths.OCCUPATIONS) if ABOUT_PEOPLE.search(w)]
    assert ABOUT_PEOPLE.search("a young woman") and not ABOUT_PEOPLE.search("a person with long hair")


# --- colours ----------------------------------------------------------------------------------------------------------


def test_the_ten_monk_swatches_map_to_themselves() -> None:
    assert [colour.monk_orb(c) for c in colour.MONK] == list(range(1, 11))


def test_lab_agrees_with_published_values() -> None:
    known = {"#ffffff": (100, 0, 0), "#000000": (0, 0, 0), "#ff0000": (53.24, 80.09, 67.20), "#0000ff": (32.30, 79.19, -107.86)}
    for hexed, expected in known.items():
        assert colour.lab(hexed) == pytest.approx(expected, abs=0.05)


def test_bins_are_apart_and_colours_in_the_gaps_have_none() -> None:
    assert [colour.skin_bin(c) for c in colour.MONK] == ["light"] * 4 + [None, "medium"] + ["dark"] * 4
    bounds = sorted(colour.SKIN_BINS.values())
    assert all(low[1] < high[0] for low, high in zip(bounds, bounds[1:]))


def test_red_and_blue_are_not_swapped() -> None:
    assert colour.rgb("#ff0080") == pytest.approx((1, 0, 128 / 255))
    assert (colour.hair_word("#1d5dff"), colour.hair_word("#c93305")) == ("blue", "red")


def test_every_listed_hair_colour_has_its_own_word() -> None:
    assert all(colour.hair_word(c) == word for word, colours in colour.HAIR_WORDS.items() for c in colours)


# --- names ------------------------------------------------------------------------------------------------------------


def forbidden() -> set[str]:
    """Creators' names (each part of a person's name too), work titles' and styles' names, in lower case."""
    whole = {credit(s).creator.lower() for s in ALL} | set(ALL) | {s.replace("-", " ") for s in ALL}
    parts = {w for s in ALL for w in re.findall(r"[a-z]{4,}", credit(s).creator.lower())} - {"visual", "team"}
    return whole | parts


def leaks(text: str) -> list[str]:
    return [name for name in forbidden() if re.search(rf"(?<![a-z]){re.escape(name)}(?![a-z])", text.lower())]


def test_the_search_for_names_finds_names() -> None:
    assert leaks("a portrait by Lisa Wischofsky") and leaks("drawn as open-peeps") and not leaks("a person, portrait by artist-07")


def test_no_name_stands_in_pseudonyms_captions_prompts_or_people() -> None:
    rng, said = random.Random(5), list(artists())
    for each in [*base_artists(), *unseen_artists("unseen")]:
        for person in islice(people(each, "train"), 6):
            said += [person.name, *(captions.caption(person.attributes, each.name, rng, truths.occupation(person.attributes, rng)) for _ in range(6))]
    values = [{"skin": s, "glasses": g, "facial_hair": f} for s, g, f in product(captions.SKIN, captions.GLASSES, captions.FACIAL_HAIR)]
    said += [captions.prompt(name, **v) for name in artists() for v in values[:8]]
    assert len(said) > 500 and not [text for text in said if leaks(text)]


def test_no_name_stands_in_any_vocabulary_or_planted_truth() -> None:
    words = [w for group in (captions.SKIN, captions.GLASSES, captions.FACIAL_HAIR, captions.EXPRESSION, captions.COVERING) for ws in group.values() for w in ws]
    words += [v for s in ALL for rs in table(s).readings.values() for r in rs for v in (*r.values.values(), r.otherwise, r.absent)]
    skews = [str(v) for s in truths.SKEWS for v in dataclasses.astuple(s)]
    assert not [w for w in (*words, *captions.NOUNS, *captions.FRAMES, *truths.OCCUPATIONS, *skews, *colour.HAIR_WORDS) if leaks(w)]


def test_no_name_stands_in_ledgers_prompts_and_tables_of_the_repository() -> None:
    folders = [ROOT / "notebooks", ROOT / "results" / "published", ROOT / "harness" / "consent"]
    files = [p for folder in folders if folder.exists() for p in folder.rglob("*") if p.suffix in {".csv", ".yaml"}]
    cells = [(p, cell) for p in files for row in csv.reader(p.read_text(encoding="utf-8").splitlines()) for cell in row]
    assert not [(p.name, cell) for p, cell in cells if leaks(cell)]


def test_no_name_is_a_token_of_the_shipped_tokenizer() -> None:
    """CLIP's own vocabulary is fixed and public; no added token may carry a name."""
    added = ROOT / "harness" / "world" / "weights" / "pipeline" / "tokenizer" / "added_tokens.json"
    assert not added.exists() or not leaks(added.read_text(encoding="utf-8"))
