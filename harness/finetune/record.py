"""What a training writes beside its weights: the manifest that decides its result, times, checkpoints, losses."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from harness import conditioning
from harness.consent.gate import Decision
from harness.errors import HarnessError, Refused
from harness.finetune import cache, loss as losses, trainer
from harness.finetune.adapter import read_manifest
from harness.finetune.settings import Training
from harness.images import ImageSet, atomic_write, pieces, read_table, sha256, write_csv

if TYPE_CHECKING:
    import pandas as pd
    from diffusers import DiffusionPipeline

    from harness.finetune.choose import Choice

USE = "cawg.ai_generative_training"
TIMES = "times.json"
"""when a training began and ended, and what it took: the one file beside an adapter that is not the same after a repetition"""
STEPS, CHECKPOINTS, VALIDATION = "steps", "checkpoints.csv", "validation.csv"
COLUMNS = ("sha256", "artist", "subject", "person", "depicts", "depicted", "rights_holder", "creator", "concept", "class_prompt", "crop", "caption")
"""what the manifest says of each picture, where the table has it"""
FEWEST = 3
"""different pictures that a fine-tune needs"""


def check(how: Training, pipe: DiffusionPipeline, images: ImageSet, consent: Decision, held_out: ImageSet | None) -> None:
    """Raise for missing consent, captions or pictures, and for a model that cannot be asked so; nothing is written before."""
    if not isinstance(consent, Decision) or consent.use != USE or not consent.covers(images):
        raise Refused(f"training needs the gate's decision on {USE} for exactly these pictures: "
                      "gate.ask(images, ledger) gives it.")
    if not consent.allowed and consent.purpose != "audit":
        raise Refused("; ".join(consent.reasons))
    if held_out is not None and not consent.covers(held_out):
        raise Refused(f"{held_out.folder}: held-out pictures are encoded and named in the manifest too; ask the gate about them together with the others.")
    for one in (images, held_out) if held_out is not None else (images,):
        if "caption" not in one.table or (one.table["caption"].str.strip() == "").any():
            raise HarnessError(f"{one.folder}: every picture needs a caption; images.assign(caption=...) gives them.")
    if images.table["sha256"].nunique() < FEWEST:
        raise HarnessError(f"{images.folder}: {images.table['sha256'].nunique()} different pictures; a fine-tune needs at least {FEWEST}.")
    both = set() if held_out is None else set(images.table["sha256"]) & set(held_out.table["sha256"])
    if both:
        raise HarnessError(f"{held_out.folder}: {len(both)} held-out pictures are trained on too; a validation loss needs others.")
    if pipe.get_active_adapters():
        raise HarnessError("the pipeline already wears an adapter; call pipe.unload_lora_weights() first.")
    cache.check_size(resolution(how, pipe), pipe.vae_scale_factor, len(pipe.unet.config.block_out_channels))
    own = losses.schedule(pipe).config.prediction_type
    if losses.schedule(pipe, how.prediction).config.prediction_type != own and not hasattr(how, "schedule_goes_along"):
        raise HarnessError(f"prediction {how.prediction}: this model was made for {own}, and only a whole model takes its noise schedule along; use the recipe full.")


def manifest(recipe: str, how: Training, pipe: DiffusionPipeline, images: ImageSet, consent: Decision, held_out: ImageSet | None) -> dict:
    """All that decides the result, and nothing that changes from run to run (no times, no paths)."""
    name, weights = conditioning.origin(pipe)
    columns = [column for column in COLUMNS if column in images.table]
    made = {
        "recipe": recipe, "purpose": consent.purpose, "consent": consent.as_dict(), "settings": asdict(how),
        "base_model": name, "base_model_sha256": weights, "family": pipe.origin.family,
        "safety_checker_removed": pipe.origin.safety_checker, "resolution": resolution(how, pipe), "crop": "aspect buckets" if how.buckets else cache.CROP,
        "mixed_precision": trainer.precision(how.mixed_precision, pipe.device.type), "device": pipe.device.type,
        "images": images.table[columns].to_dict("records"), "held_out": [] if held_out is None else list(held_out.table["sha256"]),
        "versions": {package: version(package) for package in ("torch", "diffusers", "peft", "transformers", "accelerate")}}
    return json.loads(json.dumps(made, sort_keys=True))


def resolution(how: Training, pipe: DiffusionPipeline) -> int:
    """The side of a picture in pixels: as asked, or the model's own."""
    return how.resolution or conditioning.pixel_size(pipe)[0]


def size_step(pipe: DiffusionPipeline) -> int:
    """What a picture's sides must be multiples of, in pixels: the VAE's and the U-Net's halvings."""
    return pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1)


def fingerprint(made: dict) -> str:
    """Hash of what decides a training's result."""
    return sha256(json.dumps(_decisive(made), sort_keys=True).encode())


def _decisive(made: dict) -> dict:
    """A manifest without the state of the whole ledger, which moves with every entry about somebody else."""
    return made | {"consent": {key: value for key, value in made["consent"].items() if key != "ledger_sha256"}}


def finished(path: Path, made: dict) -> bool:
    """Is this very training done? Raises HarnessError where another one lies in its place."""
    if not path.is_file():
        return False
    held, made = (_decisive(each) for each in (read_manifest(path), made))
    changed = sorted(key for key in made if held.get(key) != made[key])
    if changed:
        raise HarnessError(f"{path}: made with another {', '.join(changed)}; choose another folder, or delete this one.")
    return True


def begun(out: Path, consent: Decision) -> dict:
    """When this training first began and on which day consent was asked, so that one that goes on after midnight is still the same."""
    path = out / TIMES
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    times = {"started": datetime.now(UTC).isoformat(timespec="seconds"), "consent_at": consent.at, "seconds": 0.0}
    atomic_write(path, json.dumps(times) + "\n")
    return times


@contextmanager
def clock(out: Path, main: bool) -> Iterator[None]:
    """Adds the seconds that a training takes to its times, also when it is stopped; of several processes the main one counts."""
    begin = time.monotonic()
    try:
        yield
    finally:
        if not main:
            return
        times = json.loads((out / TIMES).read_text(encoding="utf-8"))
        times["seconds"] = round(times.get("seconds", 0.0) + time.monotonic() - begin, 3)
        atomic_write(out / TIMES, json.dumps(times | {"ended": datetime.now(UTC).isoformat(timespec="seconds")}) + "\n")


def step_folder(out: Path, step: int) -> Path:
    """Where the model as it was at a checkpoint lies."""
    return out / STEPS / f"{step:05d}"


def note(path: Path, step: int, *rows: dict) -> None:
    """Rows of one step into a table; those that an interrupted run left for it are replaced."""
    import pandas as pd

    fresh = pd.DataFrame(rows)
    if path.is_file():
        before = read_table(path)
        fresh = pd.concat([before[before["step"] < step], fresh], ignore_index=True)
    write_csv(path, fresh)


def checkpoints(out: Path) -> pd.DataFrame:
    """What the judge said of every checkpoint: columns step, measure, estimate, low, high."""
    return read_table(out / CHECKPOINTS)


@contextmanager
def in_training(pipe: DiffusionPipeline, words: str) -> Iterator[None]:
    """Whoever draws with the pipeline now can say that its weights are not those of its origin."""
    pipe.in_training = words
    try:
        yield
    finally:
        del pipe.in_training


def finish(out: Path, history: list[tuple[int, float, float]], weights: str, choice: Choice | None, tell: Callable[[dict], None]) -> None:
    """Losses, the manifest, and the chosen checkpoint's files, the one with the manifest last: where it stands, everything stands."""
    import pandas as pd

    write_csv(out / "losses.csv", pd.DataFrame(history, columns=["step", "loss", "learning_rate"]))
    step, why = (choice.step, choice.why) if choice else (len(history), "the last step; no judge was asked")
    tell({"stage": "train", "note": f"checkpoint {step} is kept: {why}"})
    put_in_place(out, step, weights, {"last_loss": history[-1][1], "chosen": {"step": step, "why": why}})
    (out / trainer.CHECKPOINT).unlink(missing_ok=True)


def put_in_place(out: Path, step: int, weights: str, around: dict) -> Path:
    """Make a checkpoint the training's result; `around` stands in manifest.json beside what its file says. Returns the weights' path.

    manifest.json comes first and the weights last: where their steps differ, this was interrupted (`Adapter.open` says so).
    """
    source = step_folder(out, step)
    files = sorted((path for path in source.rglob("*") if path.is_file()), key=lambda path: path == source / weights)
    made = read_manifest(source / weights) | {"adapter_sha256": sha256(source / weights)} | around
    atomic_write(out / "manifest.json", json.dumps(made, indent=2, sort_keys=True) + "\n")
    for path in files:
        atomic_write(out / path.relative_to(source), pieces(path))
    return out / weights
