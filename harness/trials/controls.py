"""Control models: the same case for other unseen artists. What they draw is the null of the style question.

Only embeddings of their outputs are kept (one small file a control, shipped as package data): enough to rank any accused model of
the same kind among them, and nothing that could draw.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from harness import embed, models
from harness.images import atomic_write
from harness.progress import silent
from harness.trials import case as cases
from harness.world.artists import unseen_artists

FOLDER = models.MINIATURE / "controls"
WORK = Path("results/controls")
FEW_PEOPLE = frozenset({"artist-26", "artist-27", "artist-32"})
"""styles with too few different people for works and held-out works that share none"""
COUNT = 21
"""nineteen that a test at 5 % needs, and two more: the accused model and one tuned on the artist in question may be among them"""


def names() -> list[str]:
    """Pseudonyms of the control artists: line art and other drawn artists first, then pseudo-artists."""
    drawn, hands = unseen_artists("unseen"), unseen_artists("hand")
    return [a.name for a in (*drawn, *hands) if a.name not in FEW_PEOPLE and a.name != cases.Case().artist][:COUNT]


def build(progress: Callable[[dict], None], case: cases.Case = cases.Case(), folder: Path = FOLDER, work: Path = WORK,
          processes: int = 1) -> Path:
    """Fine-tune, sample and embed every control that is not there yet, in as many processes; returns the folder of this kind.

    Adapters and pictures stay below `work`, where a killed build goes on and the table of audits against truth finds them.
    """
    kind = folder / case.kind(models.weights_hash("miniature"), models.load_clip("miniature").sha256)
    missing = [(c, work / c.artist, kind / f"{c.artist}.npz") for c in members(case) if not (kind / f"{c.artist}.npz").exists()]
    for done, path in enumerate(spread(_make, missing, processes), 1):
        progress({"stage": "controls", "step": done, "of": len(missing), "artist": path.stem})
    atomic_write(kind / "case.json", json.dumps({"case": repr(case), "token": cases.TOKEN, "controls": names()}, indent=1) + "\n")
    return kind


def members(case: cases.Case = cases.Case()) -> list[cases.Case]:
    """The cases of all controls of this kind, each with another artist and another training seed."""
    return [cases.other(case, name, 1000 + i) for i, name in enumerate(names())]


def spread(work: Callable[[Any], Any], tasks: Sequence[Any], processes: int) -> Iterator[Any]:
    """Results of `work` over tasks in their order, in fresh processes of one thread each (or here, with one)."""
    if processes <= 1:
        yield from map(work, tasks)
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"), initializer=_one_thread) as pool:
        yield from pool.map(work, tasks)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _make(task: tuple[cases.Case, Path, Path]) -> Path:
    case, folder, path = task
    return embed.save(outputs(case, folder), path)


def outputs(case: cases.Case, folder: Path) -> embed.Embeddings:
    """Embeddings of what the miniature model, tuned for a case, draws; the pictures lie in `folder/tuned`."""
    pipe = models.load_pipeline("miniature")
    trained_on, _ = cases.pictures(case, folder)
    adapter = cases.fine_tune(case, pipe, trained_on, folder, cases.refusal(case, folder / "consent.csv"), silent)
    return embed.embed(cases.draw(case, pipe, folder / "tuned", adapter, silent), models.load_clip("miniature"), progress=silent)


def load(case: cases.Case, model_sha256: str, clip: Any, folder: Path = FOLDER, without: Collection[str] = ()) -> dict[str, embed.Embeddings]:
    """Controls of the same kind as the case, by artist, less the accused and `without`; empty where there are none of this kind."""
    kind = folder / case.kind(model_sha256, clip.sha256)
    return {p.stem: embed.load(p, clip) for p in sorted(kind.glob("*.npz")) if p.stem not in {case.artist, *without}}
