"""Quality tuning in the miniature world: a small set chosen picture by picture, what stops the tuning, and who compares afterwards.

What stops it and what compares are different instruments: the world's judge reads whether what was asked for is there, and the
comparison is made by people and by two programs that had no part in the tuning. A program is a rater like any other here.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness import stats
from harness.consent import ledger
from harness.embed import embed
from harness.errors import HarnessError
from harness.finetune.choose import FIDELITY
from harness.finetune.record import USE
from harness.images import ImageSet, write_set
from harness.stats import Interval
from harness.trials import marks
from harness.widgets import rate
from harness.world import judge
from harness.world.artists import base_artists, credit
from harness.world.captions import KEEP_ALL, caption, prompt
from harness.world.people import people
from harness.world.render import draw, truth

if TYPE_CHECKING:
    import pandas as pd
    from diffusers import DiffusionPipeline

ASKED = (("glasses", "glasses"), ("glasses", "none"), ("facial_hair", "beard"), ("facial_hair", "none"))
SEED = 900
"""of the people of the curated set"""


def curated(n: int, folder: Path) -> ImageSet:
    """`n` portraits by the base artists in turn, each of another person and with everything in its caption that can be seen."""
    import pandas as pd

    rng, artists = random.Random(f"captions/curated/{n}"), base_artists()
    each = {by.name: list(islice(people(by, "train", SEED), -(-n // len(artists)))) for by in artists}
    chosen = [(by, who.portrait(0)) for k in range(-(-n // len(artists))) for by in artists for who in each[by.name][k:k + 1]][:n]
    rows = [{"artist": by.name, "person": portrait.person, "caption": caption(truth(by, portrait), by.name, rng, keep=KEEP_ALL)} for by, portrait in chosen]
    return write_set(folder, [draw(by, portrait) for by, portrait in chosen], pd.DataFrame(rows))


def licensed(path: Path) -> ledger.Ledger:
    """The ledger for works under free licences, which allow what is done here."""
    return ledger.write(path, [ledger.Record(by.name, "*", USE, "allowed", f"licence {credit(by.style).licence}", "2022-01-01") for by in base_artists()])


def wishes(n: int, start: int = 0) -> list[tuple[str, str, str]]:
    """`n` (prompt, head of the world's judge, answer), no two prompts alike; `start` shifts to others."""
    nouns = ("person", "figure", "character")
    every = [(prompt(by.name, noun, **{head: value}), head, value) for noun in nouns for head, value in ASKED for by in base_artists()]
    every = every[::5] + [each for i, each in enumerate(every) if i % 5]  # neighbours share artist and noun; five is prime to all of them
    if start + n > len(every):
        raise HarnessError(f"there are {len(every)} different wishes, {start + n} were asked for.")
    return every[start:start + n]


@dataclass(frozen=True, eq=False)
class Asked:
    """What stops a quality tuning: how often what was asked for is there, read by the world's judge."""

    wishes: Sequence[tuple[str, str, str]]
    """prompt, head and answer"""
    look: marks.Look
    """how the model is looked at"""

    def __call__(self, pipe: DiffusionPipeline, step: int) -> Mapping[str, Interval]:
        """The share of drawings in which it is there, clustered by prompt."""
        with tempfile.TemporaryDirectory() as spare:
            drawn = self.look.draw(pipe, [words for words, _, _ in self.wishes], Path(spare) / "drawn")
            said = judge.read(marks.world_judge(), drawn.pixels(64))[1]
        rows = [each for each in self.wishes for _ in range(self.look.seeds)]
        there = [bool(said[head][i] == judge.label(head, value)) for i, (_, head, value) in enumerate(rows)]
        return {FIDELITY: stats.clustered_rate(there, drawn.table["prompt"])}


def words_score(reader: Any, *sets: ImageSet, cache: Path) -> Callable[[Path], float]:
    """A rater: CLIP's cosine of a picture and its own prompt."""
    def cosines(images: ImageSet) -> np.ndarray:
        vectors, texts = embed(images, reader, cache=cache).vectors, reader.encode_texts(list(images.table["prompt"]))
        return (vectors * (texts / np.linalg.norm(texts, axis=1, keepdims=True))).sum(1)

    return _by_path({images: cosines(images) for images in sets})


def hand_score(*sets: ImageSet, each: int = 12) -> Callable[[Path], float]:
    """A rater: how like real works of the artist whom the prompt names, in the eyes of the judge of style (people that no model has met)."""
    known = {by.name: marks.identity.read(marks.judges(), "style", np.stack([np.asarray(draw(by, who.portrait(0)))
                                                                            for who in islice(people(by, "calibration", SEED), each)])) for by in base_artists()}

    def likeness(images: ImageSet) -> np.ndarray:
        seen = marks.identity.read(marks.judges(), "style", images.pixels(64))
        named = [next(name for name in known if name in words) for words in images.table["prompt"]]
        return np.asarray([float((vector @ known[name].T).mean()) for vector, name in zip(seen, named, strict=True)])

    return _by_path({images: likeness(images) for images in sets})


def _by_path(values: Mapping[ImageSet, np.ndarray]) -> Callable[[Path], float]:
    known = {path: float(value) for images, found in values.items() for path, value in zip(images.paths, found, strict=True)}
    return lambda path: known[path]


def compare(first: ImageSet, second: ImageSet, programs: Mapping[str, Callable[[Path], float]], folder: Path, seed: int) -> list[Path]:
    """Every program's answers to its own blind trials, one CSV each in `folder`; returns the files."""
    files = []
    for name, score in programs.items():
        file = folder / f"{name}.csv"
        file.unlink(missing_ok=True)  # programs answer in no time, and always the same
        files.append(rate.scored(rate.Ballot(rate.pairs(first, second, seed, name), file, name), score).file)
    return files


def table(files: Sequence[Path], first: ImageSet, second: ImageSet) -> pd.DataFrame:
    """Each rater's win rate of the second set with its interval, and how often the left side won; people and programs one below the other."""
    import pandas as pd

    rows = []
    for file in (file for file in files if file.exists()):
        said = rate.unblind(rate.read(file), first, second)
        if len(said) and (said["winner"] != rate.TIE).any():
            found = rate.win_rate(said)
            rows.append((said["rater"].iloc[0], found.estimate, found.low, found.high, found.n, found.ties, rate.side(said).estimate))
    return pd.DataFrame(rows, columns=["rater", "win rate", "low", "high", "preferences", "ties", "left preferred"])
