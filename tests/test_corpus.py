"""Whose pictures, what a filter keeps, what stands twice, who opted out, and is my work in here: with what was planted found, and its error."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from harness import cli, perceptual
from harness.audit import corpus, mine, search
from harness.consent import ledger
from harness.consent.ledger import Record
from harness.errors import HarnessError
from harness.images import ImageSet, decode, open_set
from drawn import ColourLayout, folder, portraits

XMP = ('<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/">'
       "<plus:DataMining>http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED</plus:DataMining></rdf:Description></x:xmpmeta>")


def quiet(event: object) -> None:
    pass


class Reader(ColourLayout):
    """Reads a caption as the vector of the picture whose number it is, turned away from it by `away`; "?" as a far one."""

    def __init__(self, pictures: list[Image.Image], away: float = 0.5) -> None:
        super().__init__()
        self.known, self.away = super().encode_images(pictures), away

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        rows = [self._turned(self.known[int(t)]) if t.isdecimal() else -self.known[0] for t in texts]
        return np.asarray(rows, np.float32)

    def _turned(self, row: np.ndarray) -> np.ndarray:
        other = np.random.default_rng(0).standard_normal(len(row))
        other -= (other @ row) * row
        return self.away * row + np.sqrt(1 - self.away**2) * other / np.linalg.norm(other)


def held(images: ImageSet, tmp_path: Path, clip: ColourLayout | None = None) -> search.Index:
    return search.build(images, clip or ColourLayout(), tmp_path / "index", quiet)


def rows(answer: corpus.Answer, about: str) -> dict[str, int]:
    table = answer.table[answer.table["about"] == about]
    return dict(zip(table["value"], table["pictures"], strict=True))


# --- shares


def test_shares_count_what_is_said_and_what_is_not(tmp_path: Path) -> None:
    sources = ["https://www.a.org/1.png", "http://A.org/x?y", "b.net/z.jpg", "from a sketchbook", "", "http://[broken"]
    images = folder(tmp_path / "set", portraits(6, 0), source=sources, artist=["07", "07", "noor", "", "", ""], license=["CC-BY-4.0"] * 4 + ["", ""])
    answer = corpus.shares(images)
    assert rows(answer, "source domain") == {"a.org": 2, "b.net": 1, "from a sketchbook": 1, corpus.NOT_STATED: 1, "http://[broken": 1}
    assert rows(answer, "creator") == {"07": 2, "noor": 1, corpus.NOT_STATED: 3}
    assert rows(answer, "licence") == {"CC-BY-4.0": 4, corpus.NOT_STATED: 2}
    assert rows(answer, "rights holder") == {corpus.NOT_STATED: 6}
    assert answer.table["low"].isna().all() and "no intervals" in answer.words


def test_only_a_sample_of_something_larger_gets_intervals(tmp_path: Path) -> None:
    images = folder(tmp_path / "set", portraits(10, 0), licence=["CC0-1.0"] * 10)
    answer = corpus.shares(images, sample_of="a web corpus")
    row = answer.table[answer.table["value"] == "CC0-1.0"].iloc[0]
    assert row.share == 1 and row.low == pytest.approx(0.05 ** (1 / 10)) and "random sample of a web corpus" in answer.words


def test_the_ledger_fills_gaps_and_two_words_are_both_named(tmp_path: Path) -> None:
    images = folder(tmp_path / "set", portraits(4, 0), artist=["noor", "noor", "ann", "ann"], licence=["mine", "", "", ""])
    work = images.table["sha256"][1]
    say = dict(use="cawg.data_mining", decision="allowed", basis="a letter", granted="2026-01-01")
    book = ledger.of([Record("noor", "*", licence="CC-BY-4.0", **say), Record("client", work, rights_holder="client", **say),
                      Record("agency", work, rights_holder="agency", **say)])
    answer = corpus.shares(images, book)
    assert rows(answer, "licence") == {"CC-BY-4.0": 1, "mine": 1, corpus.NOT_STATED: 2}
    assert rows(answer, "rights holder") == {"agency / client": 1, corpus.NOT_STATED: 3}


# --- the filter


def test_the_curve_keeps_what_reaches_the_threshold(tmp_path: Path) -> None:
    pictures = portraits(6, 0)
    images, clip = folder(tmp_path / "set", pictures, caption=["0", "1", "2", "?", "", "5"], prompt=[""] * 6), Reader(pictures)
    index = held(images, tmp_path, clip)
    scores = corpus.matches(images, index, clip, images.table["caption"], batch=4)
    assert np.allclose(scores[[0, 1, 2, 5]], 0.5, atol=1e-5) and np.isnan(scores[4]) and scores[3] < 0.5
    answer = corpus.clip_filter(images, index, clip)
    assert set(answer.table["caption"]) == {"caption"}
    kept = answer.table.set_index("threshold")["kept"]
    assert kept.iloc[0] == 5 and kept.is_monotonic_decreasing and kept[0.28] == kept[0.3] == (scores >= 0.28).sum()
    assert set(answer.table[answer.table["usual"] == "yes"]["threshold"]) == {0.28, 0.3}
    assert "1 have no caption" in answer.words and "belongs to one CLIP" in answer.words
    with pytest.raises(HarnessError, match="no captions"):
        corpus.clip_filter(images.assign(caption=""), index, clip)


# --- nearest


def test_the_nearest_to_a_picture_is_itself(tmp_path: Path) -> None:
    images = folder(tmp_path / "set", portraits(8, 0))
    index = held(images, tmp_path)
    answer = corpus.nearest(images, index, ColourLayout().encode_images([decode(images.paths[3])])[0], "a picture", 3)
    assert answer.table["file"][0] == "00003.png" and answer.table["cosine"].is_monotonic_decreasing and len(answer.table) == 3
    assert [path.name for path in answer.save(tmp_path / "out")] == ["search.csv", "search.png", "search.md"]
    with pytest.raises(HarnessError, match="ask for 1 to 8"):
        corpus.nearest(images, index, index.vectors([0])[0], "a picture", 9)


# --- opted out


def test_a_word_in_a_file_and_one_of_its_source(tmp_path: Path) -> None:
    folder(tmp_path / "set", portraits(4, 0))
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP)
    portraits(1, 9)[0].save(tmp_path / "set" / "00001.png", pnginfo=info)
    (tmp_path / "set" / "samples.csv").unlink()
    images = open_set(tmp_path / "set").assign(source=["https://a.org/art/1.png", "", "https://b.org/art/1.png", ""])
    (tmp_path / "ai.txt").write_text("Disallow: /art/\n")
    answer = corpus.opted_out(images, {"a.org": tmp_path / "ai.txt"})
    assert set(answer.table["file"]) == {"00000.png", "00001.png"} and answer.words.startswith("2 of 4")
    nobody = corpus.opted_out(images)
    assert set(nobody.table["file"]) == {"00001.png"} and "nobody's consent" in nobody.words
    silent = corpus.opted_out(images.where([True, False, True, True]))
    assert len(silent.table) == 0 and not silent.pictures and silent.words.startswith("0 of 3")


# --- what stands twice, and is it in here


@pytest.fixture
def planted(tmp_path: Path) -> tuple[ImageSet, search.Index]:
    """Twelve portraits, one of them twice as a file, one of them mirrored."""
    pictures = portraits(12, 0)
    images = folder(tmp_path / "set", [*pictures, pictures[0], ImageOps.mirror(pictures[1])])
    return images, held(images, tmp_path)


def test_what_was_planted_twice_is_found_and_nothing_else(planted: tuple[ImageSet, search.Index]) -> None:
    images, index = planted
    answer = mine.near_duplicates(images, index, ColourLayout(), k=12, tried=0)
    pairs = {(frozenset((r.file, r.other)), r.how) for r in answer.table.itertuples()}
    assert pairs == {(frozenset(("00000.png", "00012.png")), "the same file"), (frozenset(("00001.png", "00013.png")), "nearly the same picture")}
    assert "2 pictures would go" in answer.words and "was not measured here" in answer.words
    assert len(mine.near_duplicates(images, index, ColourLayout(), k=12, at_least=0.9999, tried=0).table) == 1


def test_every_pair_of_neighbours_is_compared_once(planted: tuple[ImageSet, search.Index], monkeypatch: pytest.MonkeyPatch) -> None:
    _, index = planted
    whole = list(mine._candidates(index, 12, -1.0, quiet))
    assert len({frozenset(pair[:2]) for pair in whole}) == len(whole) == 13 * 12 // 2
    monkeypatch.setattr(mine, "QUERIES", 5)
    assert list(mine._candidates(index, 12, -1.0, quiet)) == whole


def test_my_work_is_in_here_or_was_not_found(planted: tuple[ImageSet, search.Index], tmp_path: Path) -> None:
    images, index = planted
    works = folder(tmp_path / "works", [decode(images.paths[2]), mine.CHANGES["JPEG 40"](decode(images.paths[3])), portraits(1, 99)[0]])
    answer = mine.mine(images, index, works, ColourLayout(), k=13, tried=3)
    assert list(answer.table["answer"]) == ["yes", "yes", "not found"]
    assert list(answer.table["how"]) == ["the same file", "nearly the same picture", ""]
    assert list(answer.table["file"][:2]) == ["00002.png", "00003.png"]
    assert "Not found is not a no" in answer.words and "Tried here on 15 changed copies of 3 pictures" in answer.words
    assert "no" not in set(answer.table["answer"]) and len(answer.pictures) == 1


def test_the_share_missed_is_measured_on_this_very_search(planted: tuple[ImageSet, search.Index], monkeypatch: pytest.MonkeyPatch) -> None:
    images, index = planted
    good = mine.planted(images, index, ColourLayout(), k=13, tried=4)
    assert list(good["change"]) == [*mine.CHANGES, "all"] and good["share"].iloc[-1] >= 0.8
    monkeypatch.setattr(perceptual, "is_near", lambda a, b: False)
    blind = mine.planted(images, index, ColourLayout(), k=13, tried=4)
    assert (blind["found"] == 0).all() and "it missed 20: 100.0 %" in mine._missed_words(blind)
    monkeypatch.setattr(perceptual, "is_near", lambda a, b: True)
    assert mine.planted(images, index, ColourLayout(), k=13, tried=4)["found"].iloc[-1] == 20


def test_the_share_missed_is_told_with_its_interval() -> None:
    table = pd.DataFrame([("mirrored", 10, 8, 0.8, 0.44, 0.97), ("JPEG 40", 10, 10, 1.0, 0.74, 1.0), ("all", 20, 18, 0.9, 0.6, 0.98)],
                         columns=["change", "asked", "found", "share", "low", "high"])
    assert "it missed 2: 10.0 % (with 95 % confidence 2.0–40.0 %), most of those mirrored (2 of 10)" in mine._missed_words(table)
    whole = table.assign(found=table["asked"], share=1.0, low=0.74, high=1.0)
    assert "it missed 0: 0.0 % (with 95 % confidence at most 26.0 %). That" in mine._missed_words(whole)


def test_another_picture_that_is_taken_for_the_copy_is_no_find(planted: tuple[ImageSet, search.Index], monkeypatch: pytest.MonkeyPatch) -> None:
    images, index = planted
    strange = index.names([0])[0]
    monkeypatch.setattr(mine, "_find", lambda *args: (mine.Hit(strange, "nearly the same picture", 1.0), None))
    assert mine.planted(images, index, ColourLayout(), k=13, tried=13)["found"].iloc[-1] == len(mine.CHANGES)


def test_the_published_error_is_quoted_or_said_to_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "near_duplicates.csv"
    assert "was not measured" in mine.published(path)
    table = pd.DataFrame({"size": 64, "kind": ["crop", "flip", "same artist", "crop"], "copies": [True, True, False, True], "method": ["harness.perceptual"] * 3 + ["phash"],
                          "threshold": [perceptual.NEAR] * 3 + [60], "share": [0.97, 1, 0.01, 0.1], "low": [0.95, 0.99, 0, 0], "high": [0.98, 1, 0.02, 0.2]})
    table.to_csv(path, index=False)
    assert "97.0 % (95.0–98.0)" in mine.published(path) and "1.0 % (0.0–2.0)" in mine.published(path)
    table.assign(threshold=9).to_csv(path, index=False)
    assert "another threshold" in mine.published(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(HarnessError, match="not the table"):
        mine.published(path)


# --- the command


def run(*words: object) -> int:
    return cli.main(["corpus", *map(str, words)])


def test_the_command_answers_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = folder(tmp_path / "set", portraits(5, 0), caption=["a portrait"] * 4 + ["word " * 60], artist=["noor"] * 5)
    (tmp_path / "set" / "notes.txt").write_text("not a picture")
    (tmp_path / "set" / "new.png").write_bytes(images.paths[0].read_bytes())
    ledger.write(tmp_path / "book.csv", [Record("noor", "*", "cawg.data_mining", "notAllowed", "a letter", "2026-01-01", licence="none given")])
    assert run(tmp_path / "set", "--out", tmp_path / "out", "--ledger", tmp_path / "book.csv", "--tried", 2) == 0
    said = capsys.readouterr().out
    for words in ("1 other files", "1 pictures that samples.csv does not name", "5 of 5 pictures are looked at without consent", "none given 5", "1 captions are longer"):
        assert words in said
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"shares.csv", "shares.png", "filter.png", "filter-2.png", "signals.md", "near_duplicates.csv", "consent.json", "index"}
    assert run("search", tmp_path / "set", "--out", tmp_path / "out", "--text", "a person with glasses", "-k", 3) == 0
    assert run("search", tmp_path / "set", "--out", tmp_path / "out", "--image", images.paths[1]) == 0
    assert pd.read_csv(tmp_path / "out" / "search.csv")["file"][0] == "00001.png"
    folder(tmp_path / "works", [portraits(5, 0)[2]])
    assert run("mine", tmp_path / "set", "--out", tmp_path / "out", "--works", tmp_path / "works", "--tried", 0) == 0
    assert list(pd.read_csv(tmp_path / "out" / "mine.csv")["answer"]) == ["yes"]


def empty(at: Path) -> list[object]:
    (at / "none").mkdir()
    return [at / "none"]


def broken(at: Path) -> list[object]:
    (at / "set" / "samples.csv").unlink()
    (at / "set" / "00000.png").write_bytes(b"\x89PNG\r\n\x1a\n no")
    return [at / "set"]


BAD: dict[str, tuple[Callable[[Path], list[object]], str]] = {
    "no folder": (lambda at: [at / "nowhere"], "no such folder"), "an empty folder": (empty, "no picture in it"), "a broken picture": (broken, "cannot be used"),
    "a k beyond the folder": (lambda at: ["search", at / "set", "--text", "a face", "-k", 6], "ask for 1 to 5"),
    "a k of nothing": (lambda at: ["search", at / "set", "--text", "a face", "-k", 0], "at least 1 picture"),
    "words beyond the context": (lambda at: ["search", at / "set", "--text", "word " * 60], "longer than this CLIP reads"),
    "nothing to search by": (lambda at: ["search", at / "set"], "exactly one of --text or --image"),
    "two things to search by": (lambda at: ["search", at / "set", "--text", "a", "--image", at / "set" / "00000.png"], "exactly one of"),
    "words where none belong": (lambda at: [at / "set", "--text", "a face"], "takes no --text"),
    "no works": (lambda at: ["mine", at / "set"], "takes --works"), "an unknown action": (lambda at: ["find", at / "set"], "cannot read 'find"),
    "an output among the pictures": (lambda at: [at / "set", "--out", at / "set"], "name another"),
    "a list without a host": (lambda at: [at / "set", "--list", "ai.txt"], "HOST=FILE"), "a list that is not there": (lambda at: [at / "set", "--list", "a.org=none.txt"], "cannot read the opt-out list"),
    "an unknown CLIP": (lambda at: ["search", at / "set", "--text", "a", "--clip", "no such"], "neither 'miniature'"),
    "a picture that is none": (lambda at: ["search", at / "set", "--image", at / "set" / "samples.csv"], "not a whole picture")}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    folder(tmp_path / "set", portraits(5, 0))
    make, said = BAD[case]
    words = make(tmp_path)
    out = [] if "--out" in words else ["--out", tmp_path / "out"]
    assert run(*words, *out) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1
    assert not list((tmp_path / "out").glob("search*"))


def test_the_benchmark_runs(tmp_path: Path, root: Path) -> None:
    done = subprocess.run([sys.executable, root / "benchmarks" / "corpus.py", "--n", "3000", "--out", tmp_path], capture_output=True, text=True, check=True)
    table = pd.read_csv(tmp_path / "corpus.csv")
    assert list(table["same_answers"]) == ["yes"] * 3 and (table["n"] == 3000).all() and "IndexFlatIP" in done.stdout
