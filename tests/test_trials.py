"""Cases from end to end: on tiny random pipelines of every family, and what a control must share with its case."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny
from harness import calibrate, models, report, stats
from harness.audit import copies, exposure, representation, style
from harness.embed import embed, save
from harness.errors import HarnessError, Refused
from harness.consent import gate
from harness.progress import silent
from harness.trials import case as cases
from harness.trials import controls, story

SMALL = cases.Case(works=6, held_out=20, steps=2, rank=2, prompts=2, seeds=1, sampling_steps=2)


@pytest.mark.parametrize("family", ["sd", "sd2", "sdxl"])
@pytest.mark.filterwarnings("ignore")
def test_the_whole_path_runs_on_every_family(family: str, tmp_path: Path) -> None:
    """Art and consent → fine-tune → sample → embed → audit → findings → report, for SD 1.x, SD 2.x (v-prediction) and SDXL."""
    pipe = models.load_pipeline(str(getattr(tiny, family)(tmp_path / "model")))
    reader = models.load_clip(str(tiny.clip(tmp_path / "clip")))
    trained_on, held = cases.pictures(SMALL, tmp_path)
    book = cases.refusal(SMALL, tmp_path / "consent.csv")
    with pytest.raises(Refused, match="artist-21: 6 works notAllowed"):
        gate.ask(trained_on, book)
    adapter = cases.fine_tune(SMALL, pipe, trained_on, tmp_path, book, silent, story.Snapshots(SMALL))
    base, tuned = cases.draw(SMALL, pipe, tmp_path / "base", progress=silent), cases.draw(SMALL, pipe, tmp_path / "tuned", adapter, silent)
    assert adapter.manifest["purpose"] == "audit" and adapter.manifest["consent"]["blocked"] == 6
    with pytest.raises(Refused, match="must not be exported"):
        adapter.export(tmp_path / "away.safetensors")

    def see(images: object) -> object:
        return embed(images, reader, tmp_path / "cache", silent)

    near = copies.finding(copies.score(tuned, trained_on, held, see), SMALL.artist)
    shown = representation.findings(representation.score(see(tuned), reader), representation.score(see(base), reader))
    hand = style.finding(style.score(see(tuned), see(base), see(held)), {}, SMALL.artist)
    findings = [calibrate.verdict(f, None) for f in (hand, near, *shown, exposure.finding(exposure.score(tuned, exposure.detector())))]
    page = report.write(findings, story.tell(SMALL, adapter, "tiny", reader.name), [], tmp_path)
    assert {f.verdict for f in findings} <= {"cannot tell", "not calibrated"}
    assert "audit" in page.read_text(encoding="utf-8") and len(stats.table(findings)) == 8


def test_training_and_held_out_works_share_no_person(tmp_path: Path) -> None:
    trained_on, held = cases.pictures(SMALL, tmp_path)
    assert not set(trained_on.table["person"]) & set(held.table["person"])
    assert not set(trained_on.table["sha256"]) & set(held.table["sha256"])
    assert all(cases.TOKEN in words and "artist-21" not in words for words in trained_on.table["caption"])


def test_a_control_shares_everything_but_artist_and_seed(tmp_path: Path) -> None:
    """Change any other setting, the model or the CLIP, and the control is of another kind."""
    kind = SMALL.kind("model", "clip")
    assert cases.other(SMALL, "artist-60", 7).kind("model", "clip") == kind
    others = [cases.Case(**{**vars(SMALL), name: value}) for name, value in
              (("steps", 3), ("works", 7), ("prompts", 3), ("seeds", 2), ("rank", 3), ("guidance_scale", 5.0), ("sampling_steps", 3))]
    assert kind not in {o.kind("model", "clip") for o in others} | {SMALL.kind("other", "clip"), SMALL.kind("model", "other")}


@pytest.mark.filterwarnings("ignore")
def test_the_accused_is_never_its_own_control(tmp_path: Path) -> None:
    reader = models.load_clip(str(tiny.clip(tmp_path / "clip")))
    seen = embed(tiny.pictures(tmp_path / "pictures"), reader, progress=silent)
    for name in ("artist-21", "artist-22"):
        save(seen, tmp_path / "controls" / SMALL.kind("model", reader.sha256) / f"{name}.npz")
    assert set(controls.load(SMALL, "model", reader, tmp_path / "controls")) == {"artist-22"}
    assert controls.load(SMALL, "other model", reader, tmp_path / "controls") == {}


def test_there_are_enough_controls_whoever_is_accused() -> None:
    assert len(set(controls.names()) - {"artist-21"}) >= stats.controls_needed(0.05)


def test_a_case_refuses_what_it_cannot_be() -> None:
    for wrong in ({"artist": "artist-99999"}, {"works": 2}, {"prompts": 0}, {"prompts": 99}, {"seeds": 0}):
        with pytest.raises(HarnessError):
            cases.Case(**wrong)
