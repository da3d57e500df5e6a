"""What the notebook on fine-tuning teaches with: a person who is photographed, an artist whose works are lent, and five recipes for both.

Everybody is a role of a pseudonym of the miniature world; the persons are drawn and nobody's likeness.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from harness import models, stats
from harness.consent import gate, ledger
from harness.consent.ledger import ADULT, Record
from harness.errors import HarnessError
from harness.finetune import Adapter, Training, crops, inversion, jobs
from harness.finetune.record import USE
from harness.images import ImageSet, square, write_set
from harness.sample import Sampling, cross, sample
from harness.trials import case as cases
from harness.trials import marks

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

RECIPES = ("lora", "full", "textual_inversion", "pivotal", "cross_attention")
WORDS = ("<person>", "<hand>")
"""the new words of the recipes that learn one"""
HAND = cases.TOKEN
"""what the captions of a case call the hand; the lesson puts its own word there"""
LEARNS_WORDS = ("textual_inversion", "pivotal")
HIGH, WIDE = 96, 144
"""pixels of a photo, in which the person stands somewhere"""
GRANTED = "2026-01-01"
LEARNING_RATES = {"lora": 2e-3, "full": 1e-4, "textual_inversion": 5e-3, "pivotal": 2e-3, "cross_attention": 1e-3}
"""for the miniature; large models want a tenth of these, or less"""


@dataclass(frozen=True)
class Lesson:
    """Settings of the notebook."""

    recipe: str = "lora"
    """lora, full, textual_inversion, pivotal or cross_attention"""
    drawn_by: str = "artist-07"
    """pseudonym of the base artist in whose hand the person is drawn"""
    artist: str = "artist-57"
    """pseudonym of the artist whose hand is learnt, which no model has met"""
    photos: int = 12
    """photos of the person"""
    works: int = 24
    """works of the artist"""
    held_out: int = 20
    """other pictures of the person, and other works, that are never trained on"""
    steps: int = 120
    """training steps of each of the two"""
    rank: int = 32
    """rank of a LoRA"""
    layers: str = "all"
    """layers of a LoRA: attention, attention+convolutions, or all"""
    learning_rate: float = 0.0
    """the highest; 0 for the recipe's own in the miniature, large models want about 1e-4"""
    checkpoints: int = 4
    """how often each training is looked at"""
    prompts: int = 10
    """different prompts at every look, and before and after: the clusters of every interval"""
    sampling_steps: int = 12
    """denoising steps"""
    guidance_scale: float = 2.5
    """classifier-free guidance"""
    seed: int = 0
    """seed of the trainings"""

    def __post_init__(self) -> None:
        """Say what is wrong with the settings."""
        if self.recipe not in RECIPES:
            raise HarnessError(f"there is no recipe {self.recipe!r} here; there are {', '.join(RECIPES)}.")
        if min(self.photos, self.works, self.held_out) < 5 or min(self.steps, self.checkpoints, self.prompts) < 1:
            raise HarnessError("a lesson needs 5 or more photos, works and held-out pictures, and a step, a checkpoint and a prompt or more.")

    @property
    def kind(self) -> str:
        """The recipe's name in `finetune`; training keys and values of the caption alone is a LoRA there."""
        return "lora" if self.recipe == "cross_attention" else self.recipe

    @property
    def person(self) -> marks.Subject:
        """Who is photographed."""
        return marks.Subject(self.drawn_by, portraits=self.photos, held_out=self.held_out)

    @property
    def hand(self) -> cases.Case:
        """Whose works are learnt from."""
        return cases.Case(self.artist, self.works, self.held_out, self.steps, self.rank, seed=self.seed)

    @property
    def how(self) -> Sampling:
        """How everything is drawn."""
        return Sampling(steps=self.sampling_steps, guidance_scale=self.guidance_scale)

    @property
    def look(self) -> marks.Look:
        """How a checkpoint is looked at."""
        return marks.Look(prompts=self.prompts, how=self.how)

    def settings(self, word: str, initial: str = "person") -> Training:
        """The recipe's settings; `word` is what a new word is called, and `initial` what it begins as."""
        recipe, cls = jobs.load(self.kind)
        given: dict[str, Any] = {"steps": self.steps, "warmup": min(10, self.steps // 2), "checkpoint_every": -(-self.steps // self.checkpoints), "seed": self.seed,
                                 "snr_gamma": 5.0, "learning_rate": self.learning_rate or LEARNING_RATES[self.recipe]}
        if self.recipe in LEARNS_WORDS:
            given |= {"token": word, "initial_word": initial}
        if self.recipe in ("lora", "pivotal", "cross_attention"):
            given |= {"rank": self.rank, "layers": "cross-attention" if self.recipe == "cross_attention" else self.layers}
        return cls(**given)


# --- pictures, and who agreed ------------------------------------------------------------------------------------------


def photos(lesson: Lesson, folder: Path) -> tuple[ImageSet, ImageSet]:
    """Photos of the person, who stands somewhere in each, and square pictures that are held out; into `folder/photos` and `folder/held_out`."""
    subject, rng = lesson.person, np.random.default_rng(lesson.seed)
    works, held = marks.pictures(subject, folder / "portraits")
    taken = []
    for number in works.table["number"]:
        page = Image.new("RGB", (WIDE, HIGH), "white")
        page.paste(subject.person.portrait(int(number)).image(HIGH), (int(rng.integers(0, WIDE - HIGH + 1)), 0))
        taken.append(page)
    held = write_set(folder / "held_out", held.decoded(), held.table)
    return write_set(folder / "photos", taken, works.table.drop(columns=["file", "sha256"])), held


def works(lesson: Lesson, folder: Path) -> tuple[ImageSet, ImageSet]:
    """Works of the artist that are trained on, and others that are held out."""
    return cases.pictures(lesson.hand, folder)


def words(lesson: Lesson, rare: Sequence[str]) -> tuple[str, str]:
    """What the person and the hand are called: a rare word each, or new words where the recipe learns them."""
    return WORDS if lesson.recipe in LEARNS_WORDS else (rare[0], rare[1])


def called(images: ImageSet, word: str, instead: str = marks.TOKEN) -> ImageSet:
    """The pictures with `word` in every caption where `instead` stood."""
    return images.assign(caption=[caption.replace(instead, word) for caption in images.table["caption"]])


def together(*sets: ImageSet) -> ImageSet:
    """One set of several beside each other in a folder, to ask the gate about all of them at once."""
    import pandas as pd

    folder = sets[0].folder.parent
    return ImageSet(folder, pd.concat([each.table.assign(file=[f"{each.folder.name}/{name}" for name in each.table["file"]]) for each in sets], ignore_index=True).fillna(""))


def squares(images: ImageSet, folder: Path, size: int = 64) -> ImageSet:
    """What a training sees of pictures with crops: squares of `size` pixels, in the same order."""
    boxes = crops.column(images)
    seen = [square(picture if box is None else picture.crop(box), size) for picture, box in zip(images.decoded(), boxes, strict=True)]
    return write_set(folder, seen, images.table.drop(columns=["file", "sha256", crops.COLUMN], errors="ignore"))


def consent(lesson: Lesson, path: Path, attested: bool) -> ledger.Ledger:
    """The ledger: the artist and the person agreed to training and to comparing; `attested` says whether anybody attests that the person is adult."""
    role = "a role in a demonstration, not a real decision"
    person = [Record(lesson.person.name, "*", use, "allowed", role, GRANTED, adult=ADULT[1] if attested else "") for use in (USE, "cawg.data_mining")]
    return ledger.write(path, [*person, *(Record(lesson.artist, "*", use, "allowed", role, GRANTED) for use in (USE, "cawg.data_mining"))])


# --- training and drawing ------------------------------------------------------------------------------------------------


def fine_tune(lesson: Lesson, how: Training, pipe: DiffusionPipeline, images: ImageSet, out: Path, decision: gate.Decision, **rest: Any) -> Adapter:
    """The lesson's recipe on one set; `rest` as `finetune.fit` takes it."""
    recipe, _ = jobs.load(lesson.kind)
    return recipe(how, pipe, images, out, decision, **rest)


def person_judge(lesson: Lesson, word: str, pipe: DiffusionPipeline, folder: Path) -> marks.Marker:
    """The judge of the person's training; `folder` holds `works` (what is seen) and `held_out`. `pipe` must be the base model."""
    return _named(marks.subject_judge(lesson.person, pipe, folder, lesson.look), marks.TOKEN, word)


def hand_judge(lesson: Lesson, word: str, pipe: DiffusionPipeline, folder: Path) -> marks.Marker:
    """The judge of the hand's training, likewise."""
    return _named(marks.style_judge(lesson.hand, pipe, folder, lesson.look), cases.TOKEN, word)


def _named(judge: marks.Marker, instead: str, word: str) -> marks.Marker:
    return replace(judge, prompts=[prompt.replace(instead, word) for prompt in judge.prompts],
                   asks=[(prompt.replace(instead, word), head, answer) for prompt, head, answer in judge.asks])


def draw(lesson: Lesson, pipe: DiffusionPipeline, prompts: Sequence[str], out: Path, adapter: Adapter | None = None, seeds: int = 1,
         progress: Callable[[dict], None] | None = None) -> ImageSet:
    """One picture or more for each prompt, with or without what was learnt; the seeds are none that any judge drew with."""
    model = models.load_pipeline(str(adapter.pipeline), device=pipe.device.type) if adapter and adapter.pipeline else pipe
    worn = adapter.path if adapter and not adapter.pipeline else None
    return sample(model, *cross(list(prompts), range(lesson.seed, lesson.seed + seeds)), lesson.how, out, adapter=worn, progress=progress)


def elsewhere(lesson: Lesson, base: Path, adapter: Adapter, images: ImageSet) -> np.ndarray:
    """The pictures of `images` drawn again by diffusers alone, with its own loaders; uint8 (n, h, w, 3)."""
    import torch
    from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler

    plain = DiffusionPipeline.from_pretrained(adapter.pipeline or base, safety_checker=None, local_files_only=True)
    folder, recipe = adapter.path.parent, adapter.manifest["recipe"]
    if recipe in LEARNS_WORDS:
        plain.load_textual_inversion(str(folder), weight_name=inversion.WORDS)
    if recipe in ("lora", "pivotal"):
        plain.load_lora_weights(str(adapter.path))
    plain.set_progress_bar_config(disable=True)
    plain.scheduler = DPMSolverMultistepScheduler.from_config(plain.scheduler.config, algorithm_type="dpmsolver++", solver_order=2)
    drawn = plain(list(images.table["prompt"]), num_inference_steps=lesson.sampling_steps, guidance_scale=lesson.guidance_scale, output_type="np",
                  generator=[torch.Generator("cpu").manual_seed(int(seed)) for seed in images.table["seed"]]).images
    return (np.asarray(drawn) * 255).round().astype(np.uint8)


# --- what came of it ---------------------------------------------------------------------------------------------------


def gained(judge: marks.Marker, after: ImageSet, before: ImageSet, held: ImageSet) -> stats.Interval:
    """How much liker the pictures are than the base model's for the same prompts and seeds, to held-out pictures that chose no checkpoint."""
    to = marks.references(judge.kind, marks.half(held, 1))
    return stats.paired_contrast(marks.likeness(judge.kind, after, to), marks.likeness(judge.kind, before, to), after.table["prompt"])
