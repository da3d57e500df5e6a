"""What the first notebook tells: pictures as the model learns, the figures of the report, and its words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness import plots
from harness.finetune import Adapter
from harness.report import Figure
from harness.stats import Finding
from harness.trials.case import TOKEN, Case
from harness.world.artists import artist, base_artists
from harness.world.cards import credits

if TYPE_CHECKING:
    from PIL import Image

DOMAIN = "drawn portraits of the miniature world, 64 px"
LEAD = ("A text-to-image model was fine-tuned on works of one artist. This page says what an audit could show afterwards, and what it could not. "
        "The artist is known here by a pseudonym only; “did not agree” is a role that the pseudonym plays.")
LIMITS = ("The miniature model draws 64-pixel portraits. What is found here shows that the instruments work there; it says nothing about any large model.",
          "One fine-tune is one draw: another training seed gives another number.",
          "No finding says whether a use was lawful; this page is not legal advice.")


class Snapshots:
    """A preview for the trainer: one picture of one prompt and seed at every checkpoint, as arrays in `pictures`."""

    def __init__(self, case: Case) -> None:
        self.case, self.pictures, self.steps = case, [], []

    def __call__(self, pipe: Any, step: int) -> None:
        """Draw with the adapter as it is at this step."""
        import torch

        prompts, seeds = self.case.asked
        with torch.random.fork_rng():
            shown = pipe(prompts[:4], num_inference_steps=min(12, self.case.sampling_steps), guidance_scale=self.case.guidance_scale, output_type="np",
                         generator=[torch.Generator().manual_seed(s) for s in seeds[:4]][: len(prompts[:4])]).images
        self.pictures.append((np.asarray(shown) * 255).round().astype(np.uint8))
        self.steps.append(step)

    def sheet(self) -> "Image.Image":
        """The pictures, one row a checkpoint."""
        return plots.side_by_side({f"step {step}": row for step, row in zip(self.steps, self.pictures, strict=True)})


def figures(before_after: "Image.Image", curve: "Image.Image", pairs: "Image.Image", changes: Sequence[Finding], null: Mapping[str, float],
            style: Finding) -> list[Figure]:
    """The report's figures, each with its caption and a text for who cannot see it; what has no number has no picture."""
    found = [Figure(plots.png(before_after), "The same prompts and seeds, before and after the fine-tune; beside them works of the artist that were held out.",
                    "Three columns of drawn portraits: base model, fine-tuned model, and held-out works of the artist."),
             Figure(plots.png(curve), "The training loss.", "A curve of the training loss over the steps."),
             Figure(plots.png(pairs), "The outputs nearest to a training work, each with that work.", "Pairs of an output and the closest training work.",
                    "copies")]
    if any(f.estimate is not None for f in changes):
        found.append(Figure(plots.png(plots.interval_plot(changes, percent=True)), "Change of each share from the base to the tuned model, with 95 % intervals.",
                            "A horizontal interval for each attribute's change; the numbers stand in the table.", "representation"))
    if null and style.estimate is not None:
        found.append(Figure(plots.png(plots.null_plot(dict(null), style.estimate, style.subject)), "The accused model among models tuned on other artists.",
                            "One dot a control model and a mark for the accused model, along the contrast.", "style"))
    return found


def tell(case: Case, adapter: Adapter, model: str, clip: str) -> dict[str, Any]:
    """The story of the report: title, purpose, settings, compute, limits and credits."""
    base = base_artists() if model == "miniature" else []
    made = f"{case.works} works, {case.steps} steps of a LoRA of rank {case.rank}, {case.prompts} prompts with {case.seeds} seeds each."
    return {"title": f"The case of {case.artist}", "purpose": adapter.manifest["consent"]["purpose"], "lead": LEAD, "made": made, "limits": LIMITS,
            "settings": {"model": Path(model).name, "clip": Path(clip).name, "artist": case.artist, "token": TOKEN, "works": case.works,
                         "held-out works": case.held_out, "steps": case.steps, "rank": case.rank, "prompts": case.prompts, "seeds": case.seeds,
                         "sampling steps": case.sampling_steps, "guidance scale": case.guidance_scale, "training seed": case.seed},
            "compute": {"training steps": case.steps, "pictures drawn": 2 * case.prompts * case.seeds}, "credits": credits([artist(case.artist), *base])}
