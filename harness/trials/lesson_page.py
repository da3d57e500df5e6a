"""What the notebook on fine-tuning shows and says at its end: losses, costs, and the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import plots
from harness.finetune import Adapter, record
from harness.images import read_table
from harness.report import Figure
from harness.stats import Interval
from harness.trials.lesson import Lesson
from harness.world.artists import artist, base_artists
from harness.world.cards import credits

if TYPE_CHECKING:
    from PIL import Image


def took(adapter: Adapter) -> dict[str, float | int]:
    """Seconds that a training took, with every look at the model, and bytes of what it leaves to be kept: for `finetune.costs`."""
    folder = next(parent for parent in adapter.path.parents if (parent / record.TIMES).is_file())
    kept = adapter.pipeline.rglob("*") if adapter.pipeline else folder.glob("*.safetensors")
    return {"seconds": json.loads((folder / record.TIMES).read_text(encoding="utf-8"))["seconds"], "copy_bytes": sum(path.stat().st_size for path in kept if path.is_file())}


def validation(out: Path) -> Image.Image:
    """Training and held-out loss by step. The first is that of single steps, weighted as trained; the second of fixed noise on the same pictures."""
    losses, held = read_table(out / "losses.csv"), read_table(out / record.VALIDATION)
    figure, axes = plots._figure(6.4, 2.6)
    axes.plot(losses["step"], losses["loss"].rolling(25, min_periods=1, center=True).mean(), color=plots.GREY, linewidth=1.2, label="pictures trained on")
    axes.plot(held["step"], held["loss"], "o-", color=plots.BLUE, label="held-out pictures")
    axes.set(xlabel="training step", ylabel="loss", ylim=(0, None))
    axes.legend(frameon=False)
    return plots._drawn(figure)


LEAD = ("A text-to-image model was taught one person from a few photos and one artist's hand from a few works, with the agreement of both. "
        "This page says how much of each it draws now, and what could be found of the pictures themselves. Both are roles that pseudonyms play.")
LIMITS = ("The miniature model draws 64-pixel portraits. What is shown here says nothing about any large model.",
          "One training is one draw: another seed gives another number.",
          "Likeness is measured by judges that learnt other drawn people and other hands, not by people who know the person.",
          "No finding says whether a use was lawful; this page is not legal advice.")


def figures(folder: Path, galleries: Sequence[Image.Image], liker: Interval, nearer: Interval) -> list[Figure]:
    """The report's figures; those that the run kept are read from its folder."""
    kept = {name: (folder / f"{name}.png").read_bytes() for name in ("crops", "face", "choice", "style", "person")}
    return [Figure(kept["crops"], "The photos of the person, and what of each was trained on.", "Photos of a drawn person with a frame around what was cut out, and the cut beside it."),
            Figure(kept["face"], f"The same prompts and seeds before and after, beside held-out pictures of the person. Likeness rose by {_interval(liker)}.",
                   "Three columns of drawn portraits: base model, tuned model, and held-out pictures of the person."),
            Figure(kept["choice"], "What was measured at each checkpoint, and which one the rule kept.", "Curves of fidelity, prompt, copies and drift over the training steps, with intervals."),
            Figure(kept["style"], f"The same for the artist's hand. Likeness rose by {_interval(nearer)}.",
                   "Three columns of drawn portraits: base model, tuned model, and held-out works of the artist."),
            Figure(kept["person"], "The training loss, and what the model drew at each checkpoint.", "A falling curve, and below it drawn portraits in a column for each checkpoint."),
            *(Figure(plots.png(each), f"The outputs nearest to a picture that was trained on, each with that picture: {whose}.", "Pairs of an output and the closest training picture.", "copies")
              for each, whose in zip(galleries, ("the person", "the hand"), strict=True))]


def _interval(found: Interval) -> str:
    return f"{found.estimate:.2f} ({found.low:.2f} to {found.high:.2f}, cosine in the judge's eyes)"


def tell(lesson: Lesson, face: Adapter, hand: Adapter, model: str, clip: str, liker: Interval, nearer: Interval) -> dict[str, Any]:
    """The story of the report: title, purpose, settings, methods, compute, limits and credits."""
    settings = {name: getattr(lesson, name) for name in ("recipe", "drawn_by", "artist", "photos", "works", "held_out", "steps", "rank", "layers", "prompts", "sampling_steps", "seed")}
    kept = {"person, step kept": face.manifest["step"], "hand, step kept": hand.manifest["step"]}
    methods = (f"Checkpoints were chosen by a rule fixed before: {face.manifest['chosen']['why'] if 'chosen' in face.manifest else 'see the table of checkpoints'}",
               f"Likeness to the person rose by {_interval(liker)}, to the hand by {_interval(nearer)}, over base and tuned pictures of the same prompts and seeds.")
    return {"title": "One face, one hand", "purpose": face.manifest["consent"]["purpose"], "lead": LEAD, "limits": LIMITS, "methods": methods,
            "made": f"{lesson.photos} photos, {lesson.works} works, {lesson.steps} steps each, recipe {lesson.recipe}.",
            "settings": {"model": Path(model).name, "clip": Path(clip).name, **{name.replace("_", " "): value for name, value in settings.items()}, **kept},
            "consent": face.manifest["consent"], "compute": {"training steps": 2 * lesson.steps},
            "credits": credits([artist(lesson.artist), *base_artists()])}
