"""A training as one file says it: recipe, settings, pictures, consent, where to. Every process of a launch does the same one."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import params, provenance
from harness.errors import HarnessError, Refused

if TYPE_CHECKING:
    from harness.finetune.adapter import Adapter
    from harness.finetune.settings import Training
    from harness.images import ImageSet

RECIPES = {"lora": ("lora", "Lora"), "full": ("full", "Full"), "textual_inversion": ("inversion", "TextualInversion"), "pivotal": ("pivotal", "Pivotal")}
"""Each recipe's module and its settings; the recipe is the function of its name in that module."""


NOBODY = "nobody"
"""what `depicts` says of a thing or an animal"""
PEOPLE = frozenset("person people man woman men women human adult boy girl child kid baby face portrait selfie guy lady actor singer model dancer teacher".split())
"""class nouns that are always somebody"""


@dataclass(frozen=True)
class Job:
    """What is to be trained, on what, and by whose leave."""

    recipe: str
    """lora, full, textual_inversion or pivotal"""
    settings: dict[str, Any]
    """the recipe's settings; the others are their defaults"""
    model: str
    """miniature, a diffusers folder, or a hub id"""
    images: str
    """folder of pictures"""
    ledger: str
    """file with the consent records"""
    out: str
    """folder of the training"""
    purpose: str = "training"
    """training, or audit (goes on without consent, marked, never exported)"""
    artist: str = ""
    """whose works these are, where the folder does not say"""
    depicts: str = ""
    """who is shown, joined by commas, where the folder does not say"""
    token: str = ""
    """rare word for the subject or style; captions are made with it"""
    noun: str = ""
    """class of the subject, such as person; without one the token names a style"""
    latents: str = ""
    """cache folder that runs share"""
    held_out: str = ""
    """folder of pictures with captions for the validation loss"""
    device: str = ""
    """cuda, mps or cpu; the best there is when not given"""

    @property
    def on_cpu(self) -> bool:
        """Is it done without a GPU?"""
        return self.device == "cpu" or not self.device and not provenance.usable_gpus()

    def how(self) -> Training:
        """The settings as the recipe's dataclass; raises HarnessError for a name, type or contradiction that does not fit."""
        _, cls = load(self.recipe)
        checked = params.check(params.fields(cls), self.settings, where=f"settings of {self.recipe}")
        return cls(**checked)


def work(job: Job, progress: Callable[[dict], None]) -> Adapter:
    """Do a job in this process, alone or as one of several."""
    from harness import models
    from harness.consent import gate
    from harness.images import open_set

    recipe, _ = load(job.recipe)
    images = prepared(open_set(Path(job.images)), job, progress)
    held = prepared(open_set(Path(job.held_out)), job, progress) if job.held_out else None
    depicts = [who.strip() for who in job.depicts.split(",") if who.strip()]
    _somebody(job, images, depicts)
    depicts = [] if depicts == [NOBODY] and not _human(job.noun) else depicts
    consent = gate.ask(images if held is None else images + held, Path(job.ledger), "fine-tuning", job.purpose, depicts=depicts, token=job.token)
    pipe = models.load_pipeline(job.model, device=_own_device(job))
    return recipe(job.how(), pipe, images, Path(job.out), consent, progress=progress, latents=Path(job.latents) if job.latents else None, held_out=held)


def _human(noun: str) -> bool:
    return bool(PEOPLE & set(noun.lower().split()))


def _somebody(job: Job, images: ImageSet, depicts: Sequence[str]) -> None:
    """Raise Refused for a subject of whom nobody said who it is: whether an adult agreed can be asked of a name only."""
    named = [column for column in ("depicts", "depicted", "person") if column in images.table and images.table[column].astype(str).str.strip().all()]
    if job.noun and not depicts and not named:
        raise Refused(f"a subject ({job.noun}) may be somebody: say who is shown (--depicts NAME, or a column `depicts`), with an entry in the ledger that this "
                      "adult agreed; of a thing or an animal say --depicts nobody.")


def prepared(images: ImageSet, job: Job, progress: Callable[[dict], None]) -> ImageSet:
    """The pictures with artist and captions, where the job gives those."""
    if job.artist and "artist" not in images.table:
        images = images.assign(artist=job.artist)
    if job.token:
        from harness.finetune import intake

        images, notes = intake.check(images, "subject" if job.noun else "style")
        for note in notes:
            progress({"stage": "pictures", "note": note})
        return intake.caption_subject(images, job.token, job.noun) if job.noun else intake.caption_style(images, job.token)
    return images


def _own_device(job: Job) -> str | None:
    """This process's own GPU, where there is one for each."""
    local, asked = os.environ.get("LOCAL_RANK"), job.device or None
    if job.on_cpu:
        return "cpu"
    return f"cuda:{local}" if local is not None and asked in (None, "cuda") else asked


def load(recipe: str) -> tuple[Callable[..., Adapter], type[Training]]:
    """A recipe's function and settings by its name; raises HarnessError for an unknown one."""
    if recipe not in RECIPES:
        raise HarnessError(f"there is no recipe {recipe!r}; there are {_recipes()}.")
    name, settings = RECIPES[recipe]
    module = importlib.import_module(f"harness.finetune.{name}")
    return getattr(module, recipe), getattr(module, settings)


def _recipes() -> str:
    return ", ".join(RECIPES)
