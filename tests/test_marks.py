"""Judges of a training: pictures that share nothing, prompts in the captions' grammar, and figures that move when they should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import tiny
from harness import models, perceptual, stats
from harness.consent import gate
from harness.errors import HarnessError, Refused
from harness.finetune import Lora
from harness.images import ImageSet, write_set
from harness.progress import silent
from harness.sample import Sampling
from harness.trials import case as cases
from harness.trials import copied, marks
from harness.trials.score import reconstruct
from harness.world import identity

FEW = marks.Look(prompts=3, seeds=1, how=Sampling(steps=2, guidance_scale=1.0))


@pytest.fixture(autouse=True)
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge of random weights: what is tested here is what is asked of it, not how well it sees."""
    torch.manual_seed(0)
    found = torch.nn.ModuleDict({kind: identity.network(kind) for kind in identity.KINDS}).eval()
    monkeypatch.setattr(marks, "judges", lambda: found)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return models.load_pipeline("miniature")


def test_training_and_held_out_portraits_are_all_different_pictures_of_one_person(tmp_path: Path) -> None:
    subject = marks.Subject("artist-03", portraits=5, held_out=6)
    works, held = marks.pictures(subject, tmp_path)
    assert (len(works), len(held)) == (5, 6) and pd.concat([works.table, held.table])["sha256"].is_unique
    assert subject.person.split == "held-out" and set(works.table["depicts"]) == {subject.name}
    assert all(f"{marks.TOKEN} {marks.NOUN}" in words and "artist-03" in words for words in works.table["caption"])
    told = works.table[works.table["expression"] != "unknown"]
    assert len(told) and all("glasses" not in words and "hair" not in words and "skin" not in words for words in works.table["caption"])
    again = marks.pictures(subject, tmp_path)[0]
    assert list(again.table["sha256"]) == list(works.table["sha256"])


def test_two_subjects_are_two_people() -> None:
    keys = {marks.Subject("artist-01", number=n).person.key for n in range(3)} | {marks.Subject("artist-02").person.key}
    assert len(keys) == 4 and marks.Subject("artist-01", number=1).name == "person-01-1"


@pytest.mark.parametrize("given", [{"artist": "artist-21"}, {"number": -1}, {"portraits": 2}, {"held_out": 1}])
def test_a_subject_that_cannot_be_drawn_is_refused(given: dict) -> None:
    with pytest.raises(HarnessError, match="a subject is a person of a base artist"):
        marks.Subject(**given)


def test_a_style_with_too_few_faces_is_named(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="artist-05 draws only .* different portraits of person-05-0"):
        marks.pictures(marks.Subject("artist-05", portraits=60), tmp_path)


def test_training_needs_an_adult_who_agreed(tmp_path: Path) -> None:
    subject = marks.Subject("artist-03", portraits=3, held_out=4)
    works, _ = marks.pictures(subject, tmp_path)
    decision = marks.agreed(subject.name, works, tmp_path / "consent.csv")
    assert decision.allowed and decision.exportable
    book = (tmp_path / "consent.csv").read_text().replace("attested", "")
    (tmp_path / "other.csv").write_text(book)
    with pytest.raises(Refused, match="adult attestation"):
        gate.ask(works, tmp_path / "other.csv")


def test_prompts_are_in_the_captions_grammar() -> None:
    words = marks.subject_prompts("artist-04")
    assert len(words) == len(set(words)) == 12 and all("sks person" in w and w.count("artist-04") == 1 for w in words)
    assert not any(marks.TOKEN in w.split() for w in marks.plain_prompts()) and len(set(marks.plain_prompts())) == 9
    assert {value for _, head, value in marks.subject_asks("artist-04") if head == "artist"} == {f"artist-0{i}" for i in range(1, 10)} - {"artist-04"}
    assert all(cases.TOKEN in w for w, _, _ in marks.style_asks()) and len(marks.style_prompts()) >= marks.Look().prompts


def test_what_chooses_and_what_reports_share_nothing(tmp_path: Path) -> None:
    _, held = marks.pictures(marks.Subject("artist-03", portraits=3, held_out=7), tmp_path)
    one, two = (set(marks.half(held, which).table["sha256"]) for which in (0, 1))
    assert not one & two and len(one | two) == 7


# --- copies -----------------------------------------------------------------------------------------------------------


def background(works: ImageSet, near: list[bool]) -> copied.Background:
    return copied.Background(copied.descriptors(works.pixels(64)), np.array(near))


def test_planted_copies_are_found_and_other_people_are_not(tmp_path: Path, pipe: Any) -> None:
    works, held = marks.pictures(marks.Subject("artist-03", portraits=5, held_out=4), tmp_path / "a")
    other, _ = marks.pictures(marks.Subject("artist-03", number=5, portraits=5, held_out=4), tmp_path / "b")
    known = copied.Background.of(works, held, pipe)
    copies = write_set(tmp_path / "copies", reconstruct(pipe, works.pixels(64)), pd.DataFrame({"prompt": list("abcde")}))
    assert known.found(copies).mean() >= 0.8
    assert not known.found(other.assign(prompt=list("abcde"))).any()
    assert known.excess(copies).low > 0 or known.share.estimate > 0


def test_the_excess_over_what_copies_nothing(tmp_path: Path) -> None:
    works, _ = marks.pictures(marks.Subject("artist-03", portraits=5, held_out=4), tmp_path)
    all_near = works.assign(prompt=list("abcde"))
    clean, noisy = background(works, [False] * 20), background(works, [True] * 20)
    much, none = clean.excess(all_near), noisy.excess(all_near)
    assert much.estimate == 1 and 0 < much.low < 1 and none.estimate == 0 and none.low < 0
    few = background(works, [True] * 5 + [False] * 5).excess(all_near)
    many = background(works, [True] * 50 + [False] * 50).excess(all_near)
    assert few.estimate == many.estimate == 0.5 and few.high - few.low > many.high - many.low


def test_the_operating_point_is_the_published_one(tmp_path: Path) -> None:
    works, _ = marks.pictures(marks.Subject("artist-03", portraits=3, held_out=4), tmp_path)
    blobs = copied.descriptors(works.pixels(64))
    assert list(copied.nearest(blobs, blobs)) == [0.0] * 3
    assert copied.nearest(copied.descriptors(np.full((1, 64, 64, 3), 255, np.uint8)), blobs)[0] > perceptual.NEAR


# --- the judge ---------------------------------------------------------------------------------------------------------


def test_an_untouched_model_has_not_drifted_and_a_broken_one_has(tmp_path: Path) -> None:
    """On a pipeline of its own: the U-Net's weights are disturbed, as a training would."""
    own = models.load_pipeline("miniature")
    subject = marks.Subject("artist-03", portraits=3, held_out=4)
    marker = marks.subject_judge(subject, own, tmp_path, FEW)
    before = marker(own, 1)
    assert set(before) == {"fidelity", "prompt", "copies", "drift"}
    assert before["drift"].estimate == 0 and before["drift"].high == 0
    for interval in before.values():
        assert isinstance(interval, stats.Interval) and interval.low <= interval.estimate <= interval.high
    with torch.no_grad():
        for parameter in own.unet.parameters():
            parameter.mul_(0.7)
    after = marker(own, 2)
    assert after["drift"].low > 0


def test_fidelity_is_the_cosine_to_pictures_that_were_not_trained_on(tmp_path: Path) -> None:
    works, held = marks.pictures(marks.Subject("artist-03", portraits=3, held_out=6), tmp_path)
    chosen = marks.half(held, 0)
    to = marks.references("identity", chosen)
    assert not set(chosen.table["sha256"]) & set(works.table["sha256"])
    assert marks.likeness("identity", chosen, to) == pytest.approx((to @ to.T).mean(1), abs=1e-5)


def test_answers_are_read_by_head_and_in_order() -> None:
    said = {"artist": np.array([0, 0, 1, 2]), "glasses": np.array([1, 1, 0, 0])}
    asks = [("p", "artist", "artist-01"), ("q", "glasses", "none")]
    assert marks._answers(said, asks, 2) == [True, True, True, True]
    assert marks._answers(said, [("p", "artist", "artist-02"), ("q", "glasses", "glasses")], 2) == [False] * 4


def test_a_tiny_training_is_judged_and_chooses(tmp_path: Path) -> None:
    """From portraits to a chosen checkpoint, on a random pipeline: rows for every saved step, and the choice in the manifest."""
    from harness.images import read_table

    small = models.load_pipeline(str(tiny.sd(tmp_path / "model")))
    subject = marks.Subject("artist-03", portraits=3, held_out=4)
    works, _ = marks.pictures(subject, tmp_path)
    marker = marks.subject_judge(subject, small, tmp_path, FEW)
    how = Lora(steps=4, rank=1, batch_size=2, warmup=1, checkpoint_every=2)
    adapter = marks.fine_tune(how, small, works, tmp_path, subject.name, progress=silent, judge=marker, rule=marks.RULE)
    rows = read_table(tmp_path / "adapter" / "checkpoints.csv")
    assert set(rows["step"]) == {2, 4} and set(rows["measure"]) == {"fidelity", "prompt", "copies", "drift"}
    assert adapter.manifest["consent"]["exportable"] and adapter.manifest["step"] in (2, 4)
