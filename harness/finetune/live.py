"""A training as it goes: a line in the terminal, and in a notebook one figure that is drawn anew in its place.

It is the progress callback and the preview of a recipe at once. The figure goes through `display` and no widget, so a saved
notebook holds a plain picture; it is the same picture that `figure` gives afterwards, from what the training left on disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from harness import plots, progress as showing
from harness.errors import HarnessError
from harness.images import decode, save_png

if TYPE_CHECKING:
    import pandas as pd
    from diffusers import DiffusionPipeline

SMOOTH = 25
"""steps of the curve's moving mean"""


class Live:
    """`recipe(…, progress=live, preview=live.preview)`."""

    def __init__(self, folder: Path, prompts: Sequence[str] = (), seeds: Sequence[int] = (), steps: int = 12, guidance_scale: float = 2.5,
                 every: float = 5.0, terminal: Callable[[Mapping[str, Any]], None] | None = None) -> None:
        """Previews go into `folder`, one picture for each of `prompts` and `seeds`; the figure is renewed at most every `every` seconds.

        `terminal` is what says the lines (default: `progress.printer()`). Raises HarnessError for prompts without seeds.
        """
        if len(prompts) != len(seeds):
            raise HarnessError(f"a preview takes as many prompts as seeds; it got {len(prompts)} and {len(seeds)}.")
        self.folder, self.prompts, self.seeds, self.steps, self.guidance_scale = Path(folder), list(prompts), list(seeds), steps, guidance_scale
        self.every, self.terminal = every, terminal or showing.printer()
        self.losses: list[tuple[int, float]] = []
        self._shown, self._handle = 0.0, None

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Progress: say it, keep the loss, and renew the figure when it is time."""
        self.terminal(event)
        if event.get("stage") == "train" and "loss" in event:
            self.losses.append((event["step"], event["loss"]))
            if event["step"] == event.get("of") or time.monotonic() - self._shown >= self.every:
                self._show()

    def preview(self, pipe: DiffusionPipeline, step: int) -> None:
        """Draw with the model as it is at a checkpoint, one generator a picture, and keep the row as a file."""
        if not self.prompts:
            return
        import torch

        with torch.random.fork_rng():
            drawn = pipe(self.prompts, num_inference_steps=self.steps, guidance_scale=self.guidance_scale, output_type="np",
                         generator=[torch.Generator("cpu").manual_seed(seed) for seed in self.seeds]).images
        row = np.concatenate((np.asarray(drawn) * 255).round().astype(np.uint8), axis=1)
        save_png(self.folder / f"{step:05d}.png", row)

    def figure(self, losses: pd.DataFrame | None = None) -> Image.Image:
        """The loss by step and below it a row of previews for each checkpoint; `losses` (columns step, loss) of a finished training."""
        import pandas as pd

        table = pd.DataFrame(self.losses, columns=["step", "loss"]) if losses is None else losses
        curve = plots.loss_curve(table, min(SMOOTH, max(1, len(table) // 4)))
        rows = {int(path.stem): path for path in sorted(self.folder.glob("[0-9]*.png"))}
        return _stacked(curve, self._rows(rows)) if rows else curve

    def keep(self, losses: pd.DataFrame, to: Path) -> Path:
        """The finished training's figure as a file, and in the place of the one that was live."""
        save_png(to, self.figure(losses))
        self._show(losses)
        return Path(to)

    def _rows(self, rows: Mapping[int, Path]) -> Image.Image:
        """The previews: one row a prompt, one column a checkpoint, so that learning reads from left to right."""
        columns = {}
        for step, path in rows.items():
            columns[f"step {step}"] = np.stack(np.split(np.asarray(decode(path)), len(self.prompts), axis=1))
        return plots.side_by_side(columns)

    def _show(self, losses: pd.DataFrame | None = None) -> None:
        """Put the figure where the last one stands, in a notebook; elsewhere nothing happens."""
        if not _in_notebook():
            return
        from IPython.display import display

        if self._handle is None:
            self._handle = display(self.figure(losses), display_id=True)
        else:
            self._handle.update(self.figure(losses))
        self._shown = time.monotonic()


def _in_notebook() -> bool:
    """Is there a front end, or a papermill, that takes pictures?"""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return getattr(get_ipython(), "kernel", None) is not None


def _stacked(above: Image.Image, below: Image.Image) -> Image.Image:
    """Two pictures in one, centred, on white."""
    sheet = Image.new("RGB", (max(above.width, below.width), above.height + below.height), "white")
    sheet.paste(above, ((sheet.width - above.width) // 2, 0))
    sheet.paste(below, ((sheet.width - below.width) // 2, above.height))
    return sheet
