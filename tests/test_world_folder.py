"""Rendered folders and data cards: the same arguments give the same bytes, and every card says whose art it is and under which licence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any


import pytest

from harness.consent import cards as consent_cards
from harness.consent.ledger import USES
from harness.errors import HarnessError, Refused
from harness.images import ImageSet, open_set, sha256
from harness.report import ROWS
from harness.world import artists as art
from harness.world import cards, folder
from harness.world.artists import artist, artists, base_artists, credit, unseen_artists
from harness.world.render import COLUMNS
from harness.world.truths import SKEWS, Duplicate, Withdrawn

ROOT = Path(__file__).resolve().parents[1]
NAMES = ["artist-06", "artist-55"]


def write_card(where: Path, told: Mapping[str, Any], images: ImageSet | None) -> tuple[Path, Path]:
    return consent_cards.write(where, consent_cards.Card(**told), images)


def bytes_of(where: Path) -> dict[str, str]:
    return {p.name: sha256(p) for p in sorted(where.iterdir())}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    out = tmp_path_factory.mktemp("rendered") / "set"
    return folder.write(out, NAMES, 4, seed=3, duplicates=Duplicate(2, 3), card=write_card)


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_folder_opens_and_holds_the_truth(rendered: ImageSet) -> None:
    opened = open_set(rendered.folder)
    assert list(opened.table.columns) == ["file", "sha256", *COLUMNS, "world"] and len(opened) == 2 * (2 * 3 + 2)
    assert opened.pixels().shape == (16, 64, 64, 3)
    assert Counter(opened.table.artist) == {"artist-06": 8, "artist-55": 8}
    assert set(opened.table.skin[opened.table.artist == "artist-55"]) == {"unknown"}
    assert set(opened.table.skin[opened.table.artist == "artist-06"]) <= {"light", "medium", "dark"}


def test_duplicates_stand_in_it_exactly(rendered: ImageSet) -> None:
    for _, works in rendered.table.groupby("artist"):
        assert sorted(Counter(works.sha256).values()) == [1, 1, 3, 3] and sorted(Counter(works.world).values()) == [1, 1, 3, 3]


def test_the_same_arguments_give_the_same_bytes_and_others_do_not(rendered: ImageSet, tmp_path: Path) -> None:
    told: list[Mapping[str, Any]] = []
    folder.write(tmp_path / "again", NAMES, 4, seed=3, duplicates=Duplicate(2, 3), progress=told.append, card=write_card)
    assert bytes_of(tmp_path / "again") == bytes_of(rendered.folder)
    assert [e["step"] for e in told] == list(range(1, 9)) and {e["of"] for e in told} == {8}
    other = folder.write(tmp_path / "other", NAMES[:1], 4, seed=4, card=write_card)
    assert not set(other.table.sha256) & set(rendered.table.sha256) and not set(other.table.world) & set(rendered.table.world)


def test_writing_again_into_the_same_folder_changes_nothing_and_other_sets_are_kept_apart(rendered: ImageSet) -> None:
    before = bytes_of(rendered.folder)
    folder.write(rendered.folder, NAMES, 4, seed=3, duplicates=Duplicate(2, 3), card=write_card)
    assert bytes_of(rendered.folder) == before
    with pytest.raises(HarnessError, match="holds files of another set .* name an empty folder"):
        folder.write(rendered.folder, NAMES[:1], 2, card=write_card)
    assert bytes_of(rendered.folder) == before


def test_a_picture_is_identified_by_what_was_asked_for_and_what_drew_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("artist-06", "train", 0, "artist-06/abc", 1)
    others = [("artist-07", *asked[1:]), ("artist-06", "judge", *asked[2:]), (*asked[:2], 1, *asked[3:]), (*asked[:3], "artist-06/abd", 1), (*asked[:4], 2)]
    hashes = {folder.identity(*each) for each in (asked, *others)}
    assert len(hashes) == 6 and folder.identity(*asked) in hashes
    monkeypatch.setattr(folder, "version", lambda package: "99" if package == "resvg_py" else "1")
    assert folder.identity(*asked) not in hashes


def test_people_of_a_folder_belong_to_its_split(tmp_path: Path) -> None:
    drawn = {split: folder.write(tmp_path / split, ["artist-06"], 5, split, card=write_card) for split in ("train", "held-out")}
    assert not set(drawn["train"].table.person) & set(drawn["held-out"].table.person)
    assert set(folder.write(tmp_path / "own", ["artist-06"], 5, card=write_card).table.person) == set(drawn["held-out"].table.person)


def test_a_withdrawn_artist_is_not_drawn_and_the_card_says_so(tmp_path: Path) -> None:
    images = folder.write(tmp_path / "left", NAMES, 2, withdrawn=[Withdrawn("artist-55")], card=write_card)
    card = consent_cards.read(tmp_path / "left" / "card.md")
    assert set(images.table.artist) == {"artist-06"} and "artist-55 withdrew (a role)" in card.body
    with pytest.raises(HarnessError, match="every artist asked for has withdrawn"):
        folder.write(tmp_path / "none", NAMES[1:], 2, withdrawn=[Withdrawn("artist-55")], card=write_card)


@pytest.mark.parametrize(("arguments", "said"), [
    ((["artist-00"], 4), "no artist named 'artist-00'"), ((["artist-06"], 0), "ask for at least 1"), ((["artist-06"], 4, "tain"), "no split named 'tain'"),
    ((["artist-06"], 4, None, 0, Duplicate(5, 2)), "repeat 5 pictures, but the set has 4")])
def test_what_cannot_be_drawn_is_refused_before_anything_is_written(arguments: tuple, said: str, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=said):
        folder.write(tmp_path / "out", *arguments, card=write_card)
    assert not (tmp_path / "out").exists()


def test_artists_are_chosen_by_name_or_group() -> None:
    assert folder.select("artist-01, artist-21,artist-01") == ["artist-01", "artist-21"]
    assert folder.select("base,artist-01") == [a.name for a in base_artists()] and folder.select("all") == list(artists())
    assert folder.select("unseen,hands") == [a.name for a in unseen_artists()]
    for wrong in ("artist-1", "adventurer", "", " , "):
        with pytest.raises(HarnessError):
            folder.select(wrong)


def test_repetitions_are_read_or_refused() -> None:
    assert folder.repeat("20:100") == Duplicate(20, 100)
    for wrong in ("20", "20:", ":3", "a:b", "0:5", "5:1", "-2:3", "2:3:4"):
        with pytest.raises(HarnessError, match="write N:TIMES"):
            folder.repeat(wrong)


# --- the card of a folder ---------------------------------------------------------------------------------------------


def test_a_folders_card_is_valid_and_opens_the_gate_for_this_table_only(rendered: ImageSet, tmp_path: Path) -> None:
    card = consent_cards.read(rendered.folder / "card.md")
    consent_cards.check(rendered.folder / "card.croissant.json")
    consent_cards.require(card, "cawg.ai_generative_training", rendered)
    with pytest.raises(Refused, match="not the table that the card describes"):
        consent_cards.require(card, "cawg.ai_generative_training", folder.write(tmp_path / "x", NAMES[:1], 1, card=write_card))


def test_a_folders_card_names_creators_changes_roles_and_planted_truths(rendered: ImageSet) -> None:
    text = (rendered.folder / "card.md").read_text(encoding="utf-8")
    for name in NAMES:
        said = credit(artist(name).style)
        assert said.creator in text and said.remix in text.replace("\n  ", " ") and said.licence_url in text
    assert "a role which the pseudonym plays" in text and "Gender and age are never derived" in text and "Changes made" in text
    assert all(f'"{s.word}" goes with {s.attribute} = {s.value} in {s.share:.0%}' in text for s in SKEWS)
    assert "The first 2 pictures of each artist stand in it 3 times each." in text
    assert "harness world render --artists artist-06,artist-55 --n 4 --seed 3 --repeat 2:3" in text


# --- the shipped cards ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", cards.shipped())
def test_the_committed_cards_are_those_that_the_code_writes(name: str, tmp_path: Path) -> None:
    """After a change: `harness world cards`."""
    write_card(tmp_path, cards.shipped()[name], None)
    for suffix in (".md", ".croissant.json"):
        assert (ROOT / "data_cards" / f"{name}{suffix}").read_text(encoding="utf-8") == (tmp_path / f"{name}{suffix}").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", cards.shipped())
def test_the_committed_cards_are_complete_valid_croissant(name: str) -> None:
    card = consent_cards.read(ROOT / "data_cards" / f"{name}.md")
    assert consent_cards.problems(card) == [] and card.name == name
    consent_cards.check(ROOT / "data_cards" / f"{name}.croissant.json")


def test_every_artist_stands_in_exactly_one_shipped_card() -> None:
    listed = [n for told in cards.shipped().values() for n in told["body"].split("## Attribution")[0].replace(" (", ", (").split() for n in [n.strip(",")]
              if n in artists()]
    assert sorted(listed) == sorted(artists())


def test_a_shipped_card_does_not_say_which_pseudonym_is_whose() -> None:
    """Attribution goes by creator; a row that held both would cast a person in a role."""
    for told in cards.shipped().values():
        lines = told["body"].splitlines()
        assert not [line for line in lines if any(c in line for c in told["creators"]) and any(f"{a} " in line or f"{a}|" in line for a in artists())]
    order = [c["name"].lower() for c in cards.credits(base_artists())]
    assert order == sorted(order)


def test_write_all_writes_every_shipped_card(tmp_path: Path) -> None:
    paths = cards.write_all(tmp_path, write_card)
    assert [p.stem for p in paths] == list(cards.shipped()) and all(p.exists() and p.with_suffix(".croissant.json").exists() for p in paths)


# --- credits ----------------------------------------------------------------------------------------------------------


def test_credits_have_the_reports_shape_and_come_from_the_metadata() -> None:
    found = cards.credits(["artist-01", "artist-51", "artist-21"])
    assert [set(c) for c in found] == [set(ROWS["credits"])] * 2, "artist-51 is a hand over artist-01's style: one credit"
    assert {c["name"] for c in found} == {credit(artist(n).style).creator for n in ("artist-01", "artist-21")}
    assert all(c["source"].startswith("https://") and c["licence"].endswith("/)") and "Changes made" in c["note"] for c in found)
    overlaid = {c["name"]: "pseudo-artist" in c["note"] for c in found}
    assert overlaid == {credit("adventurer").creator: True, credit("notionists").creator: False}


def test_an_artist_or_licence_that_is_not_accepted_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HarnessError, match="no artist named"):
        cards.credits(["artist-00"])
    changed = {**art.definition("adventurer"), "meta": {**art.definition("adventurer")["meta"], "license": {"name": "Free for personal use"}}}
    monkeypatch.setattr(art, "definition", lambda style: changed)
    with pytest.raises(HarnessError, match="the art's licence 'Free for personal use' is none of"):
        cards.credits(["artist-01"])


def test_the_uses_named_are_those_of_the_vocabulary() -> None:
    assert set(cards.USES) <= set(USES)


def test_a_table_without_its_pictures_is_noticed(rendered: ImageSet, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(rendered.folder, tmp_path / "copy")
    (copy / rendered.table.file[3]).unlink()
    with pytest.raises(HarnessError, match=rendered.table.file[3]):
        open_set(copy)
