"""Fine-tunes whose truth is known: one person as the subject, one unseen hand as the style, and the judge that marks every checkpoint.

A judge is what `finetune` takes as `judge`: asked at a checkpoint, it draws with the model as it is and says, each with an interval over prompts, how like the
drawings are to pictures of the person (or works of the hand) that were not trained on, whether what else was asked for is there, by how much its near-duplicates of training
pictures outnumber those among pictures that copy nothing, and how far drawings for prompts without the token have moved from the base model's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness import finetune, models, stats
from harness.consent import gate, ledger
from harness.errors import HarnessError
from harness.finetune import Adapter, Lora, Training
from harness.finetune.choose import COPIES, DRIFT, FIDELITY, PROMPT, Rule
from harness.finetune.record import USE
from harness.images import ImageSet, open_set, write_set
from harness.progress import silent
from harness.sample import Sampling, cross, sample
from harness.stats import Interval
from harness.trials import case as cases
from harness.trials.copied import Background
from harness.trials.judges import judges
from harness.world import identity, judge
from harness.world.artists import artist, base_artists
from harness.world.captions import FRAMES, KEEP_ALL, caption, prompt
from harness.world.people import Person, Portrait, people

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

SUBJECT: Training = Lora(rank=32, layers="all", learning_rate=2e-3, snr_gamma=5.0, steps=150)
"""the default recipe for a person"""
STYLE: Training = Lora(rank=32, layers="all", learning_rate=2e-3, snr_gamma=5.0, steps=200)
"""the default recipe for a hand"""
RULE = Rule()
"""what chooses their checkpoint"""
TOKEN, NOUN = "sks", "person"
"""how captions call the subject: one word of the tokenizer that no caption of the base model holds, and the class"""
MOODS = ("", "smiling", "sad", "surprised")
TRIES = 400
"""portraits that are drawn in search of different ones"""


@dataclass(frozen=True)
class Subject:
    """One person of a base artist's style, whom no model and no judge has met."""

    artist: str = "artist-01"
    """Pseudonym of the base artist who draws them."""
    number: int = 0
    """Which of the artist's people of the split held-out."""
    portraits: int = 12
    """Portraits that are trained on; each shows another expression or other clothes."""
    held_out: int = 12
    """Other portraits of the same person, that drawings are compared with; fewer where the style has no more."""
    seed: int = 400
    """Of the order of people."""

    def __post_init__(self) -> None:
        """Raise HarnessError for a subject that cannot be drawn."""
        if artist(self.artist).role != "base" or self.number < 0 or self.portraits < 3 or self.held_out < 4:
            raise HarnessError("a subject is a person of a base artist (artist-01 to artist-09), with 3 or more portraits and 4 or more held out.")

    @property
    def person(self) -> Person:
        """Who it is."""
        return next(islice(people(artist(self.artist), "held-out", self.seed), self.number, None))

    @property
    def name(self) -> str:
        """The pseudonym that ledger and tables know: person-01-0."""
        return f"person-{self.artist[-2:]}-{self.number}"


@dataclass(frozen=True)
class Look:
    """How a judge looks at a checkpoint."""

    prompts: int = 12
    """Prompts with the token, at most."""
    seeds: int = 1
    """Drawings of each."""
    first_seed: int = 50_000
    """The first seed; whoever reports the chosen checkpoint draws with others."""
    how: Sampling = field(default_factory=lambda: Sampling(steps=12, guidance_scale=2.5))
    """How they are drawn."""

    def draw(self, pipe: DiffusionPipeline, prompts: Sequence[str], folder: Path, first: int = 0, adapter: Path | None = None) -> ImageSet:
        """Each prompt with its seeds, into `folder`."""
        begin = self.first_seed + first
        return sample(pipe, *cross(list(prompts), range(begin, begin + self.seeds)), self.how, folder, adapter=adapter, progress=silent)


# --- the subject's and the hand's pictures ----------------------------------------------------------------------------


def pictures(subject: Subject, folder: Path) -> tuple[ImageSet, ImageSet]:
    """Portraits that are trained on and others, all different, drawn once into `folder/works` and `folder/held_out`; as `cases.pictures` for a hand.

    A caption says what changes (the mood, where the style tells it) and not what lasts: that is the token's. Raises HarnessError for a style with too few.
    """
    if not (folder / "held_out" / "samples.csv").exists():
        found = _portraits(subject)
        for name, part in (("works", found[: subject.portraits]), ("held_out", found[subject.portraits :])):
            write_set(folder / name, [portrait.image() for portrait in part], _rows(subject, part))
    return open_set(folder / "works"), open_set(folder / "held_out")


def _portraits(subject: Subject) -> list[Portrait]:
    """Different portraits of the subject, the first of them in the order of their numbers."""
    found: dict[bytes, Portrait] = {}
    wanted, who = subject.portraits + subject.held_out, subject.person
    for number in range(TRIES):
        portrait = who.portrait(number)
        found.setdefault(portrait.image().tobytes(), portrait)
        if len(found) == wanted:
            break
    if len(found) < subject.portraits + 4:
        raise HarnessError(f"{subject.artist} draws only {len(found)} different portraits of {subject.name}; ask for fewer than {subject.portraits}.")
    return list(found.values())


def _rows(subject: Subject, part: Sequence[Portrait]) -> Any:
    import random

    import pandas as pd

    rng = random.Random(f"captions/{subject.name}/{subject.seed}")
    words = [caption({"expression": p.attributes["expression"]}, subject.artist, rng, f"{TOKEN} {NOUN}", KEEP_ALL) for p in part]
    return pd.DataFrame({"artist": subject.name, "depicts": subject.name, "number": [p.number for p in part],
                         "expression": [p.attributes["expression"] for p in part], "caption": words})


def agreed(name: str, images: ImageSet, path: Path) -> gate.Decision:
    """The gate's answer where the role `name` (a person, or an artist) agreed, and is attested to be adult; the ledger is written to `path`."""
    said = ledger.Record(name, "*", USE, "allowed", "a role in a demonstration, not a real decision", "2022-01-01", adult=ledger.ADULT[1])
    return gate.ask(images, ledger.write(path, [said]), token=TOKEN)


def fine_tune(how: Training, pipe: DiffusionPipeline, images: ImageSet, folder: Path, name: str, **rest: Any) -> Adapter:
    """Train into `folder/adapter` with the agreement of `name`; `rest` as `fit.fit` takes it. The recipe is the one whose settings `how` are."""
    recipe = getattr(finetune, type(how).__name__.lower())
    return recipe(how, pipe, images, folder / "adapter", agreed(name, images, folder / "consent.csv"), **rest)


# --- what is asked -----------------------------------------------------------------------------------------------------


def subject_prompts(by: str, noun: str = f"{TOKEN} {NOUN}") -> list[str]:
    """Prompts for a subject in the style that it is drawn in: four moods in three frames."""
    return [frame.format(subject=prompt(noun=noun, **({"expression": mood} if mood else {})), artist=by) for frame in list(dict.fromkeys(FRAMES))[:3] for mood in MOODS]


def style_prompts() -> list[str]:
    """Prompts for a hand: those of the cases, whose token it has."""
    return list(cases.PROMPTS)


def plain_prompts() -> list[str]:
    """Prompts without a token, one for each base artist: what the model should go on drawing as before."""
    return [prompt(each.name, expression=MOODS[1 + i % 3]) for i, each in enumerate(base_artists())]


def subject_asks(by: str) -> list[tuple[str, str, str]]:
    """(prompt, head of the world's judge, answer): the subject in every other base artist's hand."""
    return [(prompt(each.name, f"{TOKEN} {NOUN}"), "artist", each.name) for each in base_artists() if each.name != by]


def style_asks() -> list[tuple[str, str, str]]:
    """(prompt, head of the world's judge, answer): glasses and beards, with and without, in the new hand."""
    wanted = (("glasses", "glasses"), ("glasses", "none"), ("facial_hair", "beard"), ("facial_hair", "none"))
    return [(prompt(cases.TOKEN, noun, **{head: value}), head, value) for noun in ("person", "figure") for head, value in wanted]


# --- the judge ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Marker:
    """Marks a model as it is: what a training is given as `judge`."""

    kind: str
    """identity or style"""
    look: Look
    prompts: Sequence[str]
    """with the token"""
    asks: Sequence[tuple[str, str, str]]
    """prompts with the token that ask for something to be read off"""
    references: np.ndarray
    """unit vectors of pictures that were not trained on"""
    background: Background
    """how near such pictures lie to those that are trained on"""
    before: np.ndarray
    """the base model's drawings for plain prompts, in the world's judge's features"""
    usual: float
    """mean squared distance from one seed's drawing of the base model to another's"""

    def __call__(self, pipe: DiffusionPipeline, step: int) -> dict[str, Interval]:
        """fidelity, prompt, copies and drift of the model as it is."""
        referee = world_judge()
        with tempfile.TemporaryDirectory() as spare:
            drawn = self.look.draw(pipe, self.prompts, Path(spare) / "token")
            asked = self.look.draw(pipe, [words for words, _, _ in self.asks], Path(spare) / "asked")
            plain = self.look.draw(pipe, plain_prompts(), Path(spare) / "plain")
            said = judge.read(referee, asked.pixels(64))[1]
            moved = ((judge.read(referee, plain.pixels(64))[0] - self.before) ** 2).sum(1) / self.usual
            clusters = drawn.table["prompt"]
            return {FIDELITY: stats.cluster_bootstrap(likeness(self.kind, drawn, self.references), clusters),
                    PROMPT: stats.clustered_rate(_answers(said, self.asks, self.look.seeds), asked.table["prompt"]),
                    COPIES: self.background.excess(drawn),
                    DRIFT: stats.cluster_bootstrap(moved, plain.table["prompt"])}


def subject_judge(subject: Subject, pipe: DiffusionPipeline, folder: Path, look: Look = Look()) -> Marker:
    """The judge of a subject's fine-tune; draws the base model's pictures, so `pipe` must not be tuned yet. `folder` is that of `pictures`."""
    return _marker("identity", pictures(subject, folder), subject_prompts(subject.artist), subject_asks(subject.artist), pipe, look)


def style_judge(case: cases.Case, pipe: DiffusionPipeline, folder: Path, look: Look = Look()) -> Marker:
    """The judge of a style's fine-tune, likewise; `folder` is that of `cases.pictures`."""
    return _marker("style", cases.pictures(case, folder), style_prompts(), style_asks(), pipe, look)


def _marker(kind: str, both: tuple[ImageSet, ImageSet], prompts: Sequence[str], asks: Sequence[tuple[str, str, str]], pipe: DiffusionPipeline, look: Look) -> Marker:
    trained_on, held = both
    seen = half(held, 0)
    with tempfile.TemporaryDirectory() as spare:
        before, other = (judge.read(world_judge(), look.draw(pipe, plain_prompts(), Path(spare) / str(shift), shift).pixels(64))[0] for shift in (0, 10_000))
    return Marker(kind, look, prompts[: look.prompts], asks, references(kind, seen), Background.of(trained_on, held, pipe), before, float(((before - other) ** 2).sum(1).mean()))


def half(held: ImageSet, which: int) -> ImageSet:
    """Every second held-out picture: those of 0 choose the checkpoint, those of 1 are left for whoever reports it."""
    return held.where(np.arange(len(held)) % 2 == which)


def references(kind: str, held: ImageSet) -> np.ndarray:
    """Unit vectors (n, d) of pictures that drawings are compared with."""
    return identity.read(judges(), kind, held.pixels(64))


def likeness(kind: str, drawn: ImageSet, to: np.ndarray) -> np.ndarray:
    """Mean cosine (n,) of each drawing to the references, in the judge's eyes."""
    return (identity.read(judges(), kind, drawn.pixels(64)) @ to.T).mean(1)


def world_judge() -> Any:
    """The miniature world's judge, which reads artist, skin, glasses and facial hair."""
    return judge.load(models.MINIATURE / "judge.safetensors")


def _answers(said: dict[str, np.ndarray], asks: Sequence[tuple[str, str, str]], each: int) -> list[bool]:
    """Is what was asked for there? `each` drawings a prompt, in order."""
    rows = [(head, value) for _, head, value in asks for _ in range(each)]
    return [bool(said[head][i] == judge.label(head, value)) for i, (head, value) in enumerate(rows)]
