"""The page tells what the findings say and no more, stands alone, and can be read by everyone."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from harness import plots, report
from harness.report import facts, words
from harness.calibrate import Record, verdict
from harness.errors import HarnessError
from harness.report import Figure
from harness.stats import Finding, cannot_tell

CSS = (Path(report.__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
RECORD = Record("style code=1 weights=2", "drawn portraits", True, 0.95, 0.03, 40, 40, "2026-01-31")
STYLE = Finding("style", "artist-31", 0.062, 0.048, 0.077, 0.95, 96, 24, 0.004, None, 0.05, "unchecked: style code=1 weights=2",
                "drawn portraits", "found", 0, "Larger than 19 of 19 controls.")
COPIES = Finding("copies", "artist-31", 0.0, 0.0, 0.0099, 0.95, 300, 30, 0.01, None, 1.0, "unchecked: copies code=1 weights=2",
                 "drawn portraits", "not found", 0, "None is nearer; at most 9.5% elsewhere.")
CHANGE = Finding("representation", "skin: light", 0.17, 0.08, 0.27, 0.95, 88, 24, 0.0, None, 0.004, "none: no test", "drawn portraits",
                 "not calibrated", 8, "p = 0.004")
STORY = {"title": "What <one> fine-tune shows", "purpose": "audit", "settings": {"steps": 300}, "limits": ["Only drawings."],
         "credits": [{"name": "A Maker", "work": "A Style", "licence": "CC BY 4.0", "source": "https://example.org/a"}]}
PICTURE = Figure(plots.png(Image.new("RGB", (40, 20), "#336699")), "A caption", "A blue picture", "style")


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(re.sub(r"<style>.*?</style>", "", text, flags=re.S))

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data.replace(words.NB, " ")

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]


def page(folder: Path, *findings: Finding, **changes: object) -> tuple[Page, str, dict]:
    path = report.write(findings, STORY | changes, [PICTURE], folder)
    text = path.read_text(encoding="utf-8")
    return Page(text), text, json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_the_page_tells_findings_in_plain_words(tmp_path: Path) -> None:
    told, _, data = page(tmp_path, verdict(STYLE, RECORD), verdict(COPIES, None), CHANGE)
    assert "Yes. The tuned model draws nearer to the hand of artist-31" in told.text
    assert "rose by 0.062" in told.text and "+0.048 to +0.077" in told.text
    assert "finds 95.0 % of 40 planted truths" in told.text
    assert "None of 300 pictures from 30 prompts was flagged" in told.text and "at most 0.99 %" in told.text
    assert "+8.0 to +27.0 points" in told.text and "8 more pairs could not be read" in told.text
    assert "What this does not show" in told.text and "Only drawings." in told.text
    assert [f["estimate"] for f in data["findings"]] == [0.062, 0.0, 0.17]
    assert data["findings"][1]["high"] == 0.0099 and data["purpose"] == "audit"


def test_without_calibration_no_answer_is_given(tmp_path: Path) -> None:
    told, _, data = page(tmp_path, verdict(STYLE, None))
    assert "no verdict" in told.text and "Yes." not in told.text
    assert data["findings"][0]["verdict"] == "not calibrated"
    with pytest.raises(HarnessError, match="has not been through calibrate.verdict"):
        page(tmp_path, STYLE)


def test_abstaining_findings_print(tmp_path: Path) -> None:
    told, _, _ = page(tmp_path, verdict(STYLE, RECORD), verdict(cannot_tell("exposure", "no detector", "Install it."), None))
    assert "Nothing was measured: Install it." in told.text and "Cannot tell" in told.text


def test_the_banner_stands_only_over_an_audit(tmp_path: Path) -> None:
    assert "Made for an audit" in page(tmp_path, verdict(STYLE, None))[0].text
    assert "Made for an audit" not in page(tmp_path, verdict(STYLE, None), purpose="training")[0].text


def test_it_stands_alone_and_what_it_is_given_cannot_break_it(tmp_path: Path) -> None:
    hostile = {"title": "<script>alert(1)</script>", "credits": [{"name": "x", "source": "javascript:alert(1)"}]}
    told, text, _ = page(tmp_path, verdict(STYLE.but(subject="<b>artist"), None), **hostile)
    assert not told.all("script") and not told.all("link") and not told.all("iframe") and not told.all("b")
    assert all(i["src"].startswith("data:image/png;base64,") for i in told.all("img"))
    assert not re.search(r"url\(|@import|\son\w+=", text)
    assert all(not a["href"].startswith("javascript") for a in told.all("a"))
    assert "<script>alert(1)</script>" in told.text


def test_headings_alternatives_and_tables_are_accessible(tmp_path: Path) -> None:
    told, _, _ = page(tmp_path, verdict(STYLE, RECORD), verdict(COPIES, None))
    levels = [int(tag[1]) for tag, _ in told.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:]))
    assert told.all("html")[0]["lang"] == "en" and told.all("main") and told.all("title")
    assert all(i["alt"] and i["width"] == "40" and i["height"] == "20" for i in told.all("img"))
    assert len(told.all("caption")) == len(told.all("table")) and all("scope" in th for th in told.all("th"))
    ids = [attrs["id"] for _, attrs in told.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in told.all("a") if a["href"].startswith("#")} <= set(ids)


def luminance(colour: str) -> float:
    parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    return sum(w * (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4) for w, c in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


def test_contrast_is_at_least_four_and_a_half() -> None:
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", CSS))
    pairs = [("ink", "paper"), ("ink", "panel"), ("quiet", "paper"), ("quiet", "panel"), ("link", "paper"), ("banner-bg", "paper")]
    pairs += [(name, f"{name}-bg") for name in ("found", "not-found", "cannot-tell", "not-calibrated", "banner")]
    for front, back in pairs:
        low, high = sorted((luminance(colours[front]), luminance(colours[back])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (front, back)
    assert "@media print" in CSS and "max-width: 34rem" in CSS


@pytest.mark.parametrize("story", [{"titel": "x"}, {"title": ""}, {"purpose": "fun"}, {"limits": "one string"}, {"credits": [{"nom": "x"}]}])
def test_a_story_that_would_lose_something_is_refused(story: dict, tmp_path: Path) -> None:
    with pytest.raises(HarnessError):
        page(tmp_path, verdict(STYLE, None), **story)
    assert not (tmp_path / "report.html").exists() and not (tmp_path / "report.json").exists()


def test_figures_need_words_and_a_place(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="alt"):
        Figure(PICTURE.png, "caption", " ")
    with pytest.raises(HarnessError, match="not PNG"):
        Figure(b"GIF89a", "caption", "alt")
    with pytest.raises(HarnessError, match="questions without a finding"):
        report.write([verdict(COPIES, None)], STORY, [PICTURE], tmp_path)


def test_numbers_are_written_as_people_read_them() -> None:
    assert [words.percent(v).replace(words.NB, " ") for v in (0, 0.0099, 0.031, 0.3)] == ["0 %", "0.99 %", "3.1 %", "30.0 %"]
    assert words.points(-0.113).replace(words.NB, " ") == "−11.3 points"
    assert [words.p_value(p) for p in (None, 0.0001, 0.05)] == ["–", "< 0.001", "0.050"]
    assert words.typeset("1.0% and 3 %") == f"1.0{words.NB}% and 3{words.NB}%"
    with pytest.raises(HarnessError, match="no words"):
        words.question("gender")


MANIFEST = {"notes": {"consent": {"allowed": False, "purpose": "audit", "use": "cawg.ai_generative_training", "at": "2026-01-31", "images": 32, "blocked": 30,
                                  "reasons": ["artist-31: 30 works notAllowed"]},
                      "models": {"model": "/home/somebody/models/own", "model_sha256": "ab" * 32, "clip": "miniature", "clip_sha256": "cd" * 32}},
            "parameters": {"resolved": {"steps": 200, "model": "/home/somebody/models/own", "artists": ["a", "b"]}},
            "hardware": {"cores": 2, "gpus": []}, "identity": {"packages": {"torch": "2.13"}}, "git": {"commit": "0123456789abcdef"},
            "inputs": [{"parameter": "model", "name": "own", "sha256": "ab" * 32, "card": None, "licence": None}], "predicted": {"flops": 1.5e12, "seconds": 7},
            "timings": {"started": "2026-01-31T12:34:56+00:00", "seconds": 95.1}}


def test_a_manifest_tells_its_part_without_a_clock_or_a_path(tmp_path: Path) -> None:
    told, text, data = page(tmp_path, verdict(STYLE, None), **facts.from_manifest(MANIFEST))
    assert "30 of them are not allowed." in told.text and "artist-31: 30 works notAllowed." in told.text and "1.5e+12" in told.text
    assert "12:34" not in text and "95.1" not in text and "somebody" not in text and "somebody" not in json.dumps(data)
    assert data["models"][0]["name"] == "own" and "not recorded" in told.text
    with pytest.raises(HarnessError, match="not the manifest of a run"):
        facts.from_manifest({"notes": {}})


def test_the_evidence_sheet_sorts_the_findings_and_says_what_is_open(tmp_path: Path) -> None:
    told, _, _ = page(tmp_path, verdict(STYLE, RECORD), CHANGE, data=[{"name": "works", "works": 32, "use": "training"}])
    sheet = re.sub(r"\s+", " ", told.text.split("Evidence sheet")[1].split("How to read")[0])
    order = [sheet.index(part) for part in ("What was taken?", "works: 32 works (training).", "How much of it?", "Nothing in this report was measured for it.",
                                            "What is recognisable?", "rose by 0.062", "What else do the outputs show?", "What effect is not measured here", "Effect on the market")]
    assert order == sorted(order) and "not legal advice" in sheet


def test_own_cost_stands_beside_what_others_published(tmp_path: Path) -> None:
    told, _, _ = page(tmp_path, verdict(STYLE, RECORD), cost={"money": "$0.12"})
    took = told.text.split("What it took")[1]
    assert "$0.12" in took and "under $2" in took and "manifest.json beside it" not in took
    assert "manifest.json beside it" in page(tmp_path, verdict(STYLE, RECORD))[0].text


@pytest.mark.parametrize("story", [{"data": [{"works": 3}]}, {"models": [{"name": "x", "colour": "red"}]}, {"consent": "yes"}])
def test_rows_that_would_lose_something_are_refused(story: dict, tmp_path: Path) -> None:
    with pytest.raises(HarnessError):
        page(tmp_path, verdict(STYLE, None), **story)


def test_a_secret_in_the_story_is_masked_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "correct-horse-battery")
    token = "hf_" + "a" * 30
    page(tmp_path, verdict(STYLE.but(why=f"Read with {token}."), None), settings={"url": "https://me:pass@example.org", "x": ["correct-horse-battery"]})
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()).decode()
    assert token not in written and "me:pass" not in written and "correct-horse" not in written and "***" in written
