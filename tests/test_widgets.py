"""Blind rating: what a rater may not know, what a file keeps, and whether the numbers cover a truth that was planted."""

from __future__ import annotations

import base64
import random
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.errors import HarnessError
from harness.images import ImageSet, decode, save_png
from harness.stats import clustered_rate
from harness.widgets import rate
from harness.widgets.panel import Panel


def drawn(folder: Path, shade: int, prompts: int = 6, seeds: int = 2) -> ImageSet:
    """Flat pictures that are darker or lighter by set, each with a text that would give it away."""
    rows = []
    for i in range(prompts):
        for s in range(seeds):
            pixels = np.full((16, 16, 3), shade + 2 * i + s, dtype=np.uint8)
            name = f"{i:02d}{s}.png"
            rows.append((name, save_png(folder / name, pixels, {"model": "secret-model", "adapter": folder.name}), f"prompt {i}", s))
    return ImageSet(folder, pd.DataFrame(rows, columns=["file", "sha256", "prompt", "seed"]))


@pytest.fixture()
def sets(tmp_path: Path) -> tuple[ImageSet, ImageSet]:
    return drawn(tmp_path / "base", 40), drawn(tmp_path / "tuned", 180)


def lightness(path: Path) -> float:
    return float(np.asarray(decode(path)).mean())


def test_every_pair_once_in_an_order_and_on_sides_that_a_seed_decides(sets: tuple[ImageSet, ImageSet]) -> None:
    base, tuned = sets
    trials = rate.pairs(base, tuned, seed=1)
    assert {(t.prompt, t.seed) for t in trials} == {(f"prompt {i}", str(s)) for i in range(6) for s in range(2)} and len(trials) == 12
    assert trials == rate.pairs(base, tuned, seed=1)
    orders = {tuple((t.prompt, t.seed) for t in rate.pairs(base, tuned, seed=s, rater=r)) for s in (1, 2) for r in ("rater-1", "rater-2")}
    assert len(orders) == 4
    assert sum(t.left.parent.name == "base" for t in trials) == 6
    swaps = [tuple(t.left.parent.name for t in sorted(rate.pairs(base, tuned, seed=s), key=lambda t: (t.prompt, t.seed))) for s in range(20)]
    assert len(set(swaps)) > 15  # which pairs are swapped is chance too
    # partners are found by prompt and seed, not by place in the table
    shuffled = ImageSet(tuned.folder, tuned.table.sample(frac=1, random_state=0).reset_index(drop=True))
    for trial in rate.pairs(base, shuffled, seed=1):
        assert abs(lightness(trial.left) - lightness(trial.right)) == 140
    with pytest.raises(HarnessError, match="no partner"):
        rate.pairs(base, tuned.where(np.arange(12) < 11), seed=1)
    with pytest.raises(HarnessError, match="pseudonym"):
        rate.pairs(base, tuned, seed=1, rater="somebody@example.org")


def test_answers_are_kept_one_by_one_and_taken_up_again(sets: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    file, trials = tmp_path / "rater-1.csv", rate.pairs(*sets, seed=3)
    ballot = rate.Ballot(trials, file)
    for answer in ("left", "right", "cannot tell"):
        ballot.answer(answer)
        assert len(pd.read_csv(file)) == len(ballot.answers)
    ballot = rate.Ballot(trials, file)  # another process, after a crash
    assert ballot.next.number == 4 and list(ballot.table["answer"]) == ["left", "right", "cannot tell"]
    ballot.undo()
    assert ballot.next.number == 3 and len(pd.read_csv(file)) == 2
    with pytest.raises(HarnessError, match="none of left, right"):
        ballot.answer("both")
    with pytest.raises(HarnessError, match="other pictures"):
        rate.Ballot(rate.pairs(*sets, seed=4), file)
    with pytest.raises(HarnessError, match="no trial of rater-2"):
        rate.Ballot(rate.pairs(*sets, seed=3, rater="rater-2"), file, "rater-2")
    while ballot.next:
        ballot.answer("left")
    with pytest.raises(HarnessError, match="all 12 pairs"):
        ballot.answer("left")


def test_a_file_does_not_say_whose_picture_was_preferred(sets: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    ballot = rate.scored(rate.Ballot(rate.pairs(*sets, seed=5), tmp_path / "a.csv"), lightness)
    text = (tmp_path / "a.csv").read_text()
    assert not re.search("base|tuned|secret|png|/", text)
    answers = rate.unblind(rate.read(tmp_path / "a.csv"), *sets)
    assert set(answers["winner"]) == {"second"} and set(answers["answer"]) == {"left", "right"}
    assert set(rate.unblind(ballot.table, sets[1], sets[0])["winner"]) == {"first"}
    with pytest.raises(HarnessError, match="ratings of others"):
        rate.unblind(answers, sets[0], sets[0])


def test_the_sheet_and_its_form_take_the_place_of_widgets(sets: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    trials = rate.pairs(*sets, seed=6)
    picture = rate.sheet(trials, columns=3, cell=48)
    assert picture.width > 6 * 48 and picture.height > 4 * 48
    form = rate.Ballot(trials, tmp_path / "none.csv").form(tmp_path / "form.csv")
    assert not (tmp_path / "none.csv").exists() and len(rate.read(form)) == 0
    filled = pd.read_csv(form, keep_default_na=False)
    filled.loc[:4, "answer"] = ["left", " right", "cannot tell", "left ", "right"]
    filled.to_csv(form, index=False)
    assert list(rate.read(form)["answer"]) == ["left", "right", "cannot tell", "left", "right"]
    assert rate.Ballot(trials, form).next.number == 6
    with pytest.raises(HarnessError, match="twice"):
        rate.read(form, form)
    filled.loc[0, "answer"] = "links"
    filled.to_csv(form, index=False)
    with pytest.raises(HarnessError, match="'links' to number 1"):
        rate.read(form)


def table(rows: list[tuple[str, str, str]]) -> pd.DataFrame:
    """Unblinded answers from (rater, prompt, winner)."""
    return pd.DataFrame([(r, p, str(i), w, "left") for i, (r, p, w) in enumerate(rows)], columns=["rater", "prompt", "seed", "winner", "answer"])


def test_ties_count_for_neither_and_are_told_apart() -> None:
    found = rate.win_rate(table([("r", f"p{i}", w) for i, w in enumerate(["second", "second", "second", "first", "tie", "tie"])]))
    assert (found.estimate, found.n, found.ties) == (0.75, 4, 2)
    assert tuple(found[:3]) == pytest.approx(tuple(clustered_rate([1, 1, 1, 0], list("abcd"))))  # one labelling: the house's own interval
    assert str(found).endswith("of 4 preferences; 2 could not tell")
    with pytest.raises(HarnessError, match="nobody preferred"):
        rate.win_rate(table([("r", "p", "tie")]))
    # thirty seeds of three prompts are three prompts, whether they all agree or not
    sure = rate.win_rate(table([("r", f"p{i % 3}", "second") for i in range(30)]))
    assert sure.estimate == 1 and sure.low == pytest.approx(0.05 ** (1 / 3)) and sure.high == 1
    assert rate.win_rate(table([("r", "p", w) for w in ("first", "second")]))[1:3] == (0, 1)


def test_two_raters_say_little_of_raters_in_general() -> None:
    rng = random.Random(0)
    rows = table([(f"r{r}", f"p{i}", "second" if rng.random() < (0.9, 0.5)[r] else "first") for r in range(2) for i in range(40)])
    every, these = rate.win_rate(rows), rate.win_rate(rows, over=("prompt",))
    assert every.estimate == these.estimate and every.high - every.low > 0.9 and 0.1 < these.high - these.low < 0.3


def test_the_interval_covers_the_planted_rate_where_prompts_and_raters_differ() -> None:
    """Six raters and fifteen prompts, each with a leaning of its own; an interval that takes answers as independent misses far more often."""
    rng, hit, naive = np.random.default_rng(1), 0, 0
    truth = float((1 / (1 + np.exp(-(0.6 + rng.normal(0, 1.4, 200_000))))).mean())  # the variances below add up to 1.4²
    for _ in range(200):
        leaning = 0.6 + rng.normal(0, 1.12, 15)[:, None, None] + rng.normal(0, 0.84, 6)[None, :, None]
        won = rng.random((15, 6, 2)) < 1 / (1 + np.exp(-leaning))
        rows = table([(f"r{r}", f"p{p}", "second" if won[p, r, s] else "first") for p in range(15) for r in range(6) for s in range(2)])
        found = rate.win_rate(rows)
        hit += found.low <= truth <= found.high
        spread = 1.96 * (found.estimate * (1 - found.estimate) / found.n) ** 0.5
        naive += abs(found.estimate - truth) <= spread
    assert hit >= 186 and naive <= 150


def test_agreement_is_krippendorffs() -> None:
    said = [("a", "a"), ("a", "a"), ("b", "b"), ("b", "a"), ("tie", "tie")]
    rows = pd.DataFrame([(r, f"p{i}", 0, {"a": "first", "b": "second"}.get(w, w)) for i, both in enumerate(said) for r, w in zip(("x", "y"), both, strict=True)],
                        columns=["rater", "prompt", "seed", "winner"])
    found = rate.agreement(rows)
    # by hand: 10 values, 5 first, 3 second, 2 tie; observed 2 of 10, expected (5*5 + 3*7 + 2*8) / 9 of 10
    assert found.alpha == pytest.approx(1 - 2 / (62 / 9)) and found.same.estimate == pytest.approx(0.8) and (found.n, found.raters) == (5, 2)
    assert "2 raters said the same in 80%" in str(found)
    assert rate.agreement(rows.assign(winner="first")).alpha is None
    with pytest.raises(HarnessError, match="two raters"):
        rate.agreement(rows[rows["rater"] == "x"])


def test_a_rater_who_always_says_left_is_seen_as_one(sets: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    ballot = rate.Ballot(rate.pairs(*sets, seed=7), tmp_path / "a.csv")
    while ballot.next:
        ballot.answer("left")
    answers = rate.unblind(ballot.table, *sets)
    assert rate.side(answers).low > 0.7 and rate.win_rate(answers).estimate == 0.5  # sides were swapped in half


def shown(panel: Panel) -> dict[str, bytes]:
    return {side: base64.b64decode(re.search(r"base64,([^\"]+)", widget.value)[1]) for side, widget in panel.pictures.items()}


def test_the_panel_shows_pixels_and_reacts_to_its_buttons(sets: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    pytest.importorskip("ipywidgets")
    ballot = rate.Ballot(rate.pairs(*sets, seed=8), tmp_path / "a.csv")
    panel = Panel(ballot)
    for press, said in (("right", "right"), ("left", "left"), ("cannot tell", "cannot tell")):
        trial, pictures = ballot.next, shown(panel)
        assert (np.asarray(decode(pictures["left"])) == np.asarray(decode(trial.left))).all()
        assert (np.asarray(decode(pictures["right"])) == np.asarray(decode(trial.right))).all()
        panel.buttons[press].click()
        assert ballot.answers[trial.number] == said
    panel.back.click()
    assert len(pd.read_csv(ballot.file)) == 2 and "2 of 12" in panel.line.value
    words = panel.line.value + "".join(widget.value for widget in panel.pictures.values())
    assert not re.search("base/|tuned|secret|file|png\"", words) and 'alt="left picture"' in words and "prompt" in panel.line.value
    assert all(b"secret" not in data and b"tuned" not in data for data in shown(panel).values())
    while ballot.next:
        panel.buttons["left"].click()
    assert "Thank you" in panel.line.value and panel.buttons["left"].disabled
    panel.buttons["left"].click()  # nothing left to answer: nothing happens
    assert len(ballot.answers) == 12
    again = Panel(rate.Ballot(ballot.trials, ballot.file), prompt=False)  # opened on the next day
    assert "12 of 12" in again.line.value and "prompt" not in again.line.value
    again.back.click()
    assert not again.buttons["left"].disabled and again.pictures["left"].layout.display is None
