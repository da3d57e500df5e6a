"""Control models: the same case for other unseen artists. What they draw is the null of the style question.

Only embeddings of their outputs are kept (one small file a control, shipped as package data): enough to rank any accused model of
the same kind among them, and nothing that could draw.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Callable

from harness import embed, models
from harness.images import atomic_write
from harness.trials import case as cases
from harness.world.artists import unseen_artists

FOLDER = models.MINIATURE / "controls"
COUNT = 21
"""one more than the nineteen or twenty that a test at 5 % needs, because an accused artist among them is left out"""


def names() -> list[str]:
    """Pseudonyms of the control artists: line art and other drawn artists first, then pseudo-artists."""
    drawn, hands = unseen_artists("unseen"), unseen_artists("hand")
    return [a.name for a in (*drawn, *hands)][:COUNT]


def build(progress: Callable[[dict], None], case: cases.Case = cases.Case(), folder: Path = FOLDER, part: tuple[int, int] = (0, 1)) -> Path:
    """Fine-tune, sample and embed every control that is not there yet; `part` (i, k) makes only each k-th, for k processes."""
    pipe, clip = models.load_pipeline("miniature"), models.load_clip("miniature")
    kind = case.kind(models.weights_hash("miniature"), clip.sha256)
    for i, name in enumerate(names()):
        path = folder / kind / f"{name}.npz"
        if i % part[1] != part[0] or path.exists():
            continue
        progress({"stage": "controls", "step": i + 1, "of": COUNT, "artist": name})
        with tempfile.TemporaryDirectory() as spare:
            embed.save(outputs(cases.other(case, name, 1000 + i), pipe, clip, Path(spare), progress), path)
    atomic_write(folder / kind / "case.json", json.dumps({"case": repr(case), "token": cases.TOKEN, "controls": names()}, indent=1) + "\n")
    return folder / kind


def outputs(case: cases.Case, pipe: Any, clip: Any, folder: Path, progress: Callable[[dict], None]) -> embed.Embeddings:
    """Embeddings of what a case's tuned model draws."""
    trained_on, _ = cases.pictures(case, folder)
    adapter = cases.fine_tune(case, pipe, trained_on, folder, cases.refusal(case, folder / "consent.csv"), progress)
    return embed.embed(cases.draw(case, pipe, folder / "tuned", adapter, progress), clip)


def load(case: cases.Case, model_sha256: str, clip: Any, folder: Path = FOLDER) -> dict[str, embed.Embeddings]:
    """Controls of the same kind as the case, by artist, without the accused; empty where there are none of this kind."""
    kind = folder / case.kind(model_sha256, clip.sha256)
    return {p.stem: embed.load(p, clip) for p in sorted(kind.glob("*.npz")) if p.stem != case.artist}
