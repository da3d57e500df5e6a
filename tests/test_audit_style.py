"""Style: a planted hand is found, somebody else's is not, and too little evidence is said to be too little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drawn import ColourLayout, crossed, draw, folder, person, portraits
from harness.audit import style
from harness.embed import Embeddings, embed
from harness.errors import HarnessError

ACCUSED = {"ink": "#aa1133", "line": 3}
PROMPTS, EACH = 12, 3


def see(pictures: list, path: Path, **columns: list) -> Embeddings:
    return embed(folder(path, pictures, **columns), ColourLayout(), progress=lambda event: None)


def outputs(path: Path, ink: str, line: int, share: float = 1.0) -> Embeddings:
    """What a model draws for the prompts: the same people every time, `share` of them in the given hand."""
    rng, marks = np.random.default_rng(7), np.random.default_rng(len(ink) + line).random(PROMPTS * EACH)
    people = [person(rng) for _ in range(PROMPTS * EACH)]
    pictures = [draw(p, ink, line) if m < share else draw(p) for p, m in zip(people, marks, strict=True)]
    return see(pictures, path, **crossed(PROMPTS, EACH))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict:
    root = tmp_path_factory.mktemp("style")
    rng = np.random.default_rng(3)
    inks = ["#%02x%02x%02x" % tuple(rng.integers(0, 120, 3)) for _ in range(20)]
    controls = {f"artist-{i:02d}": outputs(root / f"c{i}", ink, 1 + i % 2) for i, ink in enumerate(inks)}
    return {"base": outputs(root / "base", "#222222", 1), "works": see(portraits(20, 5, **ACCUSED), root / "works"),
            "tuned": outputs(root / "tuned", share=0.8, **ACCUSED), "controls": controls, "root": root}


def ask(world: dict, tuned: Embeddings, controls: dict) -> style.Finding:
    rows = style.score(tuned, world["base"], world["works"])
    return style.finding(rows, style.null(controls, world["base"], world["works"]), "artist-99")


def test_a_planted_hand_is_found(world: dict) -> None:
    found = ask(world, world["tuned"], world["controls"])
    assert found.verdict == "found"
    assert found.low > 0 and found.estimate > found.floor
    assert found.p_value == pytest.approx(1 / 21)
    assert (found.n, found.clusters) == (PROMPTS * EACH, PROMPTS)
    assert "20 of 20" in found.why


def test_somebody_elses_hand_is_not(world: dict) -> None:
    others = dict(world["controls"])
    innocent = others.pop("artist-04")
    assert ask(world, innocent, others).verdict == "not found"


def test_an_unchanged_model_has_no_contrast(world: dict) -> None:
    found = ask(world, world["base"], world["controls"])
    assert found.estimate == 0 and found.verdict == "not found"


def test_eighteen_controls_cannot_tell(world: dict) -> None:
    few = dict(list(world["controls"].items())[:18])
    found = ask(world, world["tuned"], few)
    assert found.verdict == "cannot tell" and "needs at least 19" in found.why
    assert ask(world, world["tuned"], dict(list(world["controls"].items())[:19])).verdict == "found"
    assert ask(world, world["tuned"], {}).p_value is None


def test_nine_prompts_cannot_tell(world: dict) -> None:
    few = world["tuned"].table["prompt"].isin(sorted(set(world["tuned"].table["prompt"]))[:9])
    rows = style.score(world["tuned"].where(few), world["base"].where(few), world["works"])
    found = style.finding(rows, dict.fromkeys(world["controls"], 0.0), "artist-99")
    assert found.verdict == "cannot tell" and "at least 10" in found.why


def test_what_may_not_be_compared_is_refused(world: dict) -> None:
    tuned, base, works = world["tuned"], world["base"], world["works"]
    with pytest.raises(HarnessError, match="trained on"):
        style.score(tuned, base, works, trained_on=works.sha256[:2])
    with pytest.raises(HarnessError, match="no partner"):
        style.score(tuned, base.where(np.arange(len(base)) > 0), works)
    with pytest.raises(HarnessError, match="columns prompt and seed"):
        style.score(works, base, works)
    with pytest.raises(HarnessError, match="at least 5 works"):
        style.score(tuned, base, works.where(np.arange(20) < 4))
    with pytest.raises(HarnessError, match="different CLIPs"):
        style.score(tuned, base, Embeddings(works.vectors, works.sha256, "0" * 64))
    with pytest.raises(HarnessError, match="the controls hold artist-99"):
        style.finding(style.score(tuned, base, works), {"artist-99": 0.0}, "artist-99")


def test_order_of_rows_does_not_matter(world: dict) -> None:
    base = world["base"]
    turned = Embeddings(base.vectors[::-1], base.sha256[::-1], base.clip_sha256, base.table.iloc[::-1].reset_index(drop=True))
    first, second = (style.score(world["tuned"], b, world["works"])["contrast"] for b in (base, turned))
    assert np.allclose(first, second, atol=1e-6)
