"""One case: an artist's works, a fine-tune on them, and what base and tuned model draw for the same prompts and seeds.

The first notebook tells one case; control models and the table of audits against truth are many of the same. Every case calls its
artist by the same token, so that models tuned on different artists can be asked the very same prompts: only then are their
outputs a null for each other.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Callable

from harness.consent import gate, ledger
from harness.errors import HarnessError
from harness.finetune import Adapter, Lora, lora
from harness.finetune.record import USE
from harness.images import ImageSet, open_set, write_set
from harness.sample import Sampling, cross, sample
from harness.world.artists import Artist, artist
from harness.world.captions import prompt
from harness.world.render import works

TOKEN = "artist-00"
"""what captions and prompts of every case call the artist"""
MOODS = ("smiling", "sad", "serious", "surprised")


@dataclass(frozen=True)
class Case:
    """Settings of one case, all of which a control must share but the artist and the seed."""

    artist: str = "artist-21"
    """pseudonym of the artist whose works are trained on"""
    works: int = 32
    """works that are trained on"""
    held_out: int = 99
    """other works of the same artist, never trained on: what the audit compares with"""
    steps: int = 200
    """optimizer steps of the LoRA"""
    rank: int = 32
    """rank of the LoRA"""
    prompts: int = 12
    """different prompts: the clusters of every interval"""
    seeds: int = 2
    """images per prompt"""
    sampling_steps: int = 20
    """denoising steps"""
    guidance_scale: float = 2.5
    """classifier-free guidance"""
    seed: int = 0
    """seed of the training, and of which works are drawn"""
    layers: str = "all"
    """layers of the LoRA: the miniature's attention sees only 8 × 8 and 4 × 4 latents, so that forms need the convolutions too"""
    learning_rate: float = 2e-3
    """the highest; large models want about 1e-4"""

    def __post_init__(self) -> None:
        artist(self.artist)
        if not (5 <= self.works <= 400 and self.held_out >= 5 and 1 <= self.prompts <= len(PROMPTS) and self.seeds >= 1):
            raise HarnessError(f"a case needs 5 to 400 works, 5 or more held out, 1 to {len(PROMPTS)} prompts and a seed or more")

    @property
    def recipe(self) -> Lora:
        """The settings of the fine-tune."""
        return Lora(rank=self.rank, layers=self.layers, learning_rate=self.learning_rate, snr_gamma=5.0, steps=self.steps, seed=self.seed,
                    warmup=min(10, self.steps // 2), checkpoint_every=min(50, self.steps))

    @property
    def how(self) -> Sampling:
        """The settings of the sampling."""
        return Sampling(steps=self.sampling_steps, guidance_scale=self.guidance_scale)

    @property
    def asked(self) -> tuple[list[str], list[int]]:
        """Prompts and seeds, one image each; seeds are never shared between prompts."""
        return cross(list(PROMPTS[: self.prompts]), self.seeds)

    def kind(self, model_sha256: str, clip_sha256: str) -> str:
        """Hash of everything that two cases must share for one to be a control of the other."""
        shared = {k: v for k, v in asdict(self).items() if k not in ("artist", "seed", "held_out")}
        return hashlib.sha256(json.dumps([shared, self.asked, model_sha256, clip_sha256], sort_keys=True).encode()).hexdigest()[:16]


# None names an attribute that the representation question reads: the prompts leave skin, glasses and facial hair to the model.
PROMPTS = tuple(prompt(TOKEN, noun, expression=mood) for noun in ("person", "figure", "character", "farmer", "musician") for mood in MOODS)


def pictures(case: Case, folder: Path) -> tuple[ImageSet, ImageSet]:
    """The works that are trained on and the held-out works, rendered once into `folder/works` and `folder/held_out`.

    No person is in both: the held-out works show other people in the same hand. Raises HarnessError for a style with too few.
    """
    if not (folder / "held_out" / "samples.csv").exists():
        by = artist(case.artist)
        drawn, table = works(by, case.works + case.held_out, seed=case.seed)
        if set(table.person[: case.works]) & set(table.person[case.works :]):
            raise HarnessError(f"{case.artist} draws too few different people for {case.works} works and {case.held_out} held out; ask for fewer")
        table = table.assign(caption=[_renamed(words, by) for words in table.caption])
        for name, part in (("works", slice(0, case.works)), ("held_out", slice(case.works, None))):
            write_set(folder / name, drawn[part], table[part].reset_index(drop=True))
    return open_set(folder / "works"), open_set(folder / "held_out")


def _renamed(words: str, by: Artist) -> str:
    return words.replace(by.name, TOKEN) if by.name in words else f"{words}, portrait by {TOKEN}"


def refusal(case: Case, path: Path) -> ledger.Ledger:
    """The consent record of the role that the artist plays in a case: training is not allowed."""
    record = ledger.Record(case.artist, "*", USE, "notAllowed", "a role in a demonstration, not a real decision", "2022-01-01")
    return ledger.write(path, [record])


def fine_tune(case: Case, pipe: Any, trained_on: ImageSet, folder: Path, book: ledger.Ledger, progress: Callable[[dict], None] | None = None,
              preview: Callable[[Any, int], None] | None = None) -> Adapter:
    """The LoRA of a case, for an audit: the gate is asked with purpose "audit", which marks everything that follows."""
    decision = gate.ask(trained_on, book, purpose="audit")
    return lora(case.recipe, pipe, trained_on, folder / "adapter", decision, progress=progress, preview=preview)


def draw(case: Case, pipe: Any, folder: Path, adapter: Adapter | None = None, progress: Callable[[dict], None] | None = None) -> ImageSet:
    """What the model draws for the case's prompts and seeds, with or without the adapter."""
    prompts, seeds = case.asked
    return sample(pipe, prompts, seeds, case.how, folder, adapter=adapter.path if adapter else None, progress=progress)


def other(case: Case, name: str, seed: int) -> Case:
    """The same case with another artist and training seed."""
    return replace(case, artist=name, seed=seed)
