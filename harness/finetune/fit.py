"""A training from beginning to end, whatever the recipe: consent, cache, loop, checkpoints, choice, and what is left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from harness import conditioning, progress as showing
from harness.consent.gate import Decision
from harness.errors import HarnessError
from harness.finetune import buckets, cache, concepts, feed, loss as losses, prior, record, trainer
from harness.finetune.adapter import Adapter
from harness.finetune.settings import Training
from harness.images import ImageSet, atomic_write

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

    from harness.finetune import choose

Judge = Callable[["DiffusionPipeline", int], Mapping[str, tuple[float, float, float]]]
"""(pipe, step) -> measure -> (estimate, low, high)"""


class Recipe(Protocol):
    """What is trained, and in which form it leaves."""

    name: str
    """As the manifest says it."""
    settings: type[Training]
    """What `how` has to be."""
    weights: str
    """The file that stands last, with the manifest in its metadata, relative to the training's folder."""

    def attach(self, how: Training, pipe: DiffusionPipeline, mixed: str) -> AbstractContextManager[trainer.Attached]:
        """The pipeline made ready; it is given back as it was."""

    def export(self, how: Training, pipe: DiffusionPipeline, manifest: dict) -> Mapping[str, bytes | Iterable[bytes]]:
        """Files that other tools load, `weights` among them, by name relative to the training's folder."""

    def finish(self, how: Training, pipe: DiffusionPipeline, out: Path) -> None:
        """Put beside the exported files what was not trained; called before they are put in place."""


def fit(recipe: Recipe, how: Training, pipe: DiffusionPipeline, images: ImageSet, out: Path, consent: Decision,
        progress: Callable[[dict], None] | None = None, preview: Callable[[DiffusionPipeline, int], None] | None = None,
        latents: Path | None = None, held_out: ImageSet | None = None, judge: Judge | None = None, rule: choose.Rule | None = None,
        stop: Callable[[int], bool] | None = None) -> Adapter:
    """Train `recipe` on `images` (column `caption`) into the folder `out`; the pipeline comes back as it was.

    `preview(pipe, step)` is called at every checkpoint with the model as it is then. `latents` is a cache that runs may
    share (default: in `out`). `held_out` pictures (with captions, and under the same consent) give a validation loss;
    `judge(pipe, step)` gives each checkpoint's measures, from which `rule` chooses the one that is kept (else the last;
    `choose.take` takes another). `stop(step)` is asked after a checkpoint whether that is enough.
    The same call again goes on where it stopped, or gives back what is finished. Raises Refused without consent,
    HarnessError for pictures or settings that cannot be trained on.
    """
    out, processes = Path(out), trainer.team(pipe.device.type)
    tell = (progress or showing.printer()) if processes.is_main_process else showing.silent
    if not isinstance(how, recipe.settings):
        raise HarnessError(f"the recipe {recipe.name} takes settings of {recipe.settings.__name__}, not of {type(how).__name__}.")
    record.check(how, pipe, images, consent, held_out)
    times = record.begun(out, consent)
    manifest = record.manifest(recipe.name, how, pipe, images, replace(consent, at=times["consent_at"]), held_out)
    if record.finished(out / recipe.weights, manifest):
        tell({"stage": "train", "note": f"{out / recipe.weights} is finished; it is used again"})
        return Adapter.open(out)
    kept, seen = Path(latents or out / "latents"), None
    if held_out is not None:
        seen = cache.latents(pipe, held_out, manifest["resolution"], False, kept, tell), list(held_out.table["caption"])
    with record.clock(out, processes.is_main_process), prepared(recipe, how, pipe, images, manifest, kept, tell) as (attached, food):
        loop = trainer.Loop(how, attached, manifest["mixed_precision"], processes)
        shown = Shown(recipe, how, pipe, out, manifest, food, preview, judge, seen, stop)
        with _memory(loop, recipe.name, pipe, len(images)), _compiled(loop, food, tell), trainer.exact(pipe.device.type):
            history = trainer.train(loop, food.parts, out, record.fingerprint(manifest), tell, shown)
        if processes.is_main_process:
            recipe.finish(how, pipe, out)
    if processes.is_main_process:
        record.finish(out, history, recipe.weights, _choice(out, rule) if judge else None, tell)
    processes.wait_for_everyone()
    return Adapter.open(out)


@contextmanager
def _memory(loop: trainer.Loop, recipe: str, pipe: DiffusionPipeline, n: int) -> Iterator[None]:
    """A lack of memory becomes a sentence that says what would fit."""
    from harness.finetune import fits

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not fits.is_out_of_memory(error):
            raise
        raise fits.out_of_memory(error, recipe, loop.how, pipe, n, len(loop.history), loop.processes.num_processes) from error


def _compiled(loop: trainer.Loop, food: feed.Feed, tell: Callable[[dict], None]) -> AbstractContextManager[None]:
    """The U-Net compiled where that is asked for, with what it gains said before the first step."""
    from harness.finetune import costs

    return costs.compiled(loop.attached.modules, lambda: loop.rehearse(food.parts(0)), loop.how.steps, tell) if loop.how.compile else nullcontext()


def _choice(out: Path, rule: choose.Rule | None) -> choose.Choice:
    from harness.finetune import choose

    return choose.choose(record.checkpoints(out), rule or choose.Rule())


@contextmanager
def prepared(recipe: Recipe, how: Training, pipe: DiffusionPipeline, images: ImageSet, manifest: dict, kept: Path,
             tell: Callable[[dict], None]) -> Iterator[tuple[trainer.Attached, feed.Feed]]:
    """The pipeline with the recipe attached, and its feed: all that the base model has to encode or draw is made before."""
    size = manifest["resolution"]
    shapes = buckets.plan(buckets.sizes(images), size, record.size_step(pipe)) if how.buckets else None
    posteriors = cache.latents(pipe, images, size, how.flip, kept, tell, shapes)
    prompts = _class_prompts(how, images)
    drawn = [prior.class_latents(pipe, prompt, how.class_images, kept, tell, size) for prompt in prompts]
    order = _order(how, concepts.labels(images), shapes or [0] * len(images))
    with recipe.attach(how, pipe, manifest["mixed_precision"]) as attached, _checkpointed(attached, how), _asked(pipe, how):
        for words in dict.fromkeys([*images.table["caption"], *prompts]):
            if rest := conditioning.cut_words(pipe, words):
                tell({"stage": "captions", "note": f"the model will not read the end {rest!r} of the caption {words[:60]!r}"})
        yield attached, feed.Feed.of(how, pipe, posteriors, images, order, drawn, prompts)


@contextmanager
def _asked(pipe: DiffusionPipeline, how: Training) -> Iterator[None]:
    """The pipeline with a noise schedule that says what the U-Net is now asked for, so that previews and exports agree with the training."""
    own = pipe.scheduler
    pipe.scheduler = type(own).from_config(own.config, prediction_type=losses.schedule(pipe, how.prediction).config.prediction_type)
    try:
        yield
    finally:
        pipe.scheduler = own


def _order(how: Training, concept: Sequence[str] | None, shapes: Sequence) -> Callable[[int], torch.Tensor]:
    """Which pictures a step takes: every picture equally often, or every concept where there are several."""
    if concept is None:
        return lambda step: buckets.batch(how.seed, step, how.batch_size, shapes)
    return lambda step: concepts.batch(how.seed, step, how.batch_size, concept, shapes)


def _class_prompts(how: Training, images: ImageSet) -> list[str]:
    """The prompts of the class images: the pictures' own (column `class_prompt`, for several concepts), or the one of the settings."""
    if not how.class_prompt:
        return []
    return sorted(set(images.table["class_prompt"])) if "class_prompt" in images.table else [how.class_prompt]


@contextmanager
def _checkpointed(attached: trainer.Attached, how: Training) -> Iterator[None]:
    """Gradient checkpointing for the time of the training, where it is not on already."""
    modules = [module for module in attached.modules if how.gradient_checkpointing and not module.is_gradient_checkpointing]
    for module in modules:
        module.enable_gradient_checkpointing()
    try:
        yield
    finally:
        for module in modules:
            module.disable_gradient_checkpointing()


@dataclass(frozen=True, eq=False)
class Shown:
    """What happens at a checkpoint, with the model as it is then."""

    recipe: Recipe
    how: Training
    pipe: DiffusionPipeline
    out: Path
    manifest: dict
    food: feed.Feed
    preview: Callable[[DiffusionPipeline, int], None] | None
    judge: Judge | None
    held_out: tuple[cache.Latents, list[str]] | None
    stop: Callable[[int], bool] | None

    def __call__(self, step: int) -> bool:
        """Look at held-out pictures, show it, judge it, and export it last: where its file stands, the rest was done. Is that enough?"""
        import torch

        folder, made = record.step_folder(self.out, step), self.manifest | {"step": step}
        if record.finished(folder / self.recipe.weights, made):
            return self.stop is not None and self.stop(step)
        with torch.no_grad(), record.in_training(self.pipe, f"{self.recipe.name}, step {step}"):
            if self.held_out:
                with torch.autocast(self.pipe.device.type, dtype=torch.bfloat16, enabled=self.manifest["mixed_precision"] == "bf16"):
                    loss = self.food.validation(*self.held_out)
                record.note(self.out / record.VALIDATION, step, {"step": step, "loss": loss})
            if self.preview:
                self.preview(self.pipe, step)
            if self.judge:
                rows = [{"step": step, "measure": name, "estimate": value[0], "low": value[1], "high": value[2]}
                        for name, value in self.judge(self.pipe, step).items()]
                record.note(self.out / record.CHECKPOINTS, step, *rows)
        files = self.recipe.export(self.how, self.pipe, made)
        for name in sorted(files, key=lambda name: name == self.recipe.weights):
            atomic_write(folder / name, files[name])
        return self.stop is not None and self.stop(step)
