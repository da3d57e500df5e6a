"""Draw images one by one reproducibly, in batches, resuming at the first that is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from harness import conditioning, progress as showing
from harness.conditioning import Text
from harness.errors import HarnessError
from harness.images import ImageSet, read_table, save_png, sha256, sweep, write_csv
from harness.sample.adapter import adapter_file, adapter_hash, in_memory, wearing
from harness.sample.settings import LARGEST_SEED, Sampling, scheduler_of

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def sample(pipe: DiffusionPipeline, prompts: Sequence[str], seeds: Sequence[int], how: Sampling, out: Path,
           adapter: Path | None = None, progress: Callable[[dict], None] | None = None) -> ImageSet:
    """One image for each (prompt, seed), as PNG files and samples.csv in `out`.

    Each image starts from a CPU generator of its own. A batch is always made of the same rows, so a run that was
    killed ends with the same bytes; images that lie there are kept, and `out` must not hold images of other settings.
    Raises HarnessError.
    """
    _check(pipe, prompts, seeds, how)
    tell, out = progress or showing.printer(), Path(out)
    rows = _rows(pipe, list(prompts), list(seeds), how, adapter)
    hashes = _present(out, rows)
    sweep(out)
    if len(hashes) < len(rows):
        with wearing(pipe, adapter), _scheduler(pipe, how):
            _say_cuts(pipe, prompts, tell)
            _draw_missing(pipe, rows, hashes, how, out, tell)
    return _listed(out, rows, hashes)


def _check(pipe: DiffusionPipeline, prompts: Sequence[str], seeds: Sequence[int], how: Sampling) -> None:
    """Raise for requests that cannot be drawn."""
    if isinstance(prompts, str) or not len(prompts) or len(prompts) != len(seeds):
        raise HarnessError(f"sample takes as many prompts as seeds, at least one; it got {len(prompts)} and {len(seeds)} "
                           "(cross(prompts, seeds) makes every pair).")
    outside = [seed for seed in seeds if not hasattr(seed, "__index__") or not 0 <= seed <= LARGEST_SEED]
    if outside:
        raise HarnessError(f"seed {outside[0]} is not a whole number between 0 and {LARGEST_SEED}.")
    step = max(8, pipe.vae_scale_factor)
    for name, value in zip(("height", "width"), _size(pipe, how), strict=True):
        if value % step:
            raise HarnessError(f"{name} {value} is not divisible by {step}; the nearest is {max(step, round(value / step) * step)}.")


def _size(pipe: DiffusionPipeline, how: Sampling) -> tuple[int, int]:
    """(height, width) in pixels."""
    high, wide = conditioning.pixel_size(pipe)
    return how.height or high, how.width or wide


def _rows(pipe: DiffusionPipeline, prompts: list[str], seeds: list[int], how: Sampling, adapter: Path | None) -> list[dict[str, str]]:
    """For each image everything that is known before it is drawn, as text: a row of samples.csv, and its PNG's text."""
    name, weights = conditioning.origin(pipe)
    height, width = _size(pipe, how)
    file = adapter_file(adapter) if adapter else None
    worn, worn_hash = (f"{file.parent.name}/{file.name}", adapter_hash(file)) if file else in_memory(pipe)
    shared = {
        "steps": how.steps, "guidance_scale": float(how.guidance_scale), "scheduler": how.scheduler,
        "negative_prompt": how.negative_prompt, "height": height, "width": width, "model": name, "model_sha256": weights,
        "adapter": worn, "adapter_sha256": worn_hash, "dtype": str(pipe.unet.dtype).removeprefix("torch."),
        "device": pipe.device.type, "batch_size": how.batch_size}
    text = {key: str(value) for key, value in shared.items()}
    digits = max(5, len(str(len(prompts) - 1)))
    return [{"file": f"{i:0{digits}d}.png", "prompt": prompt, "seed": str(seed)} | text
            for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))]


def _present(out: Path, rows: list[dict[str, str]]) -> dict[int, str]:
    """Hash of every image that lies there whole; raises HarnessError when one was drawn with other settings."""
    listed = out / "samples.csv"
    table = read_table(listed) if listed.exists() else None
    known = {} if table is None else dict(zip(table["file"], table["sha256"], strict=True))
    names = {row["file"] for row in rows}
    strays = sorted(p.name for p in out.glob("[0-9]*.png") if p.name not in names)
    if strays:
        raise HarnessError(f"{out}: holds images beyond those asked for ({strays[0]}); choose another folder or delete it.")
    hashes = {}
    for i, row in enumerate(rows):
        path = out / row["file"]
        if path.is_file() and _same_settings(path, row):
            digest = sha256(path)
            if known.get(row["file"], digest) == digest:  # changed since it was listed: it is drawn again
                hashes[i] = digest
    return hashes


def _same_settings(path: Path, row: dict[str, str]) -> bool:
    """False for a picture without our text (it is drawn again); raises HarnessError naming a setting that differs."""
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            text = dict(picture.text)
    except (OSError, SyntaxError, ValueError):
        return False
    for key, value in row.items():
        if key != "file" and key in text and text[key] != value:
            raise HarnessError(f"{path}: was drawn with {key} {text[key]!r}, not {value!r}; choose another folder, or delete this one.")
    return all(key in text for key in row if key != "file")


def _say_cuts(pipe: DiffusionPipeline, prompts: Sequence[str], tell: Callable[[dict], None]) -> None:
    """Say which prompts are longer than the model's context, and what it will not read."""
    for prompt in dict.fromkeys(prompts):
        rest = conditioning.cut_words(pipe, prompt)
        if rest:
            tell({"stage": "sample", "note": f"the model will not read the end {rest!r} of the prompt {prompt[:60]!r}"})


@contextmanager
def _scheduler(pipe: DiffusionPipeline, how: Sampling) -> Iterator[None]:
    """The pipeline with the scheduler asked for, and afterwards with its own again."""
    own = pipe.scheduler
    pipe.scheduler = scheduler_of(pipe, how.scheduler)
    try:
        yield
    finally:
        pipe.scheduler = own


def _draw_missing(pipe: DiffusionPipeline, rows: list[dict[str, str]], hashes: dict[int, str], how: Sampling, out: Path,
                  tell: Callable[[dict], None]) -> None:
    """Draw every batch that lacks an image, whole (its other rows shape the last bits), and write what was missing."""
    words = list(dict.fromkeys(row["prompt"] for row in rows))
    texts, against = conditioning.encode(pipe, words), conditioning.unconditional(pipe, how.negative_prompt)
    for start in range(0, len(rows), how.batch_size):
        batch = range(start, min(start + how.batch_size, len(rows)))
        missing = [i for i in batch if i not in hashes]
        if missing:
            pictures = _draw(pipe, texts.rows([words.index(rows[i]["prompt"]) for i in batch]), against,
                             [int(rows[i]["seed"]) for i in batch], how)
            for i in missing:
                text = {key: value for key, value in rows[i].items() if key != "file"}
                hashes[i] = save_png(out / rows[i]["file"], pictures[i - start], text)
        tell({"stage": "sample", "step": batch[-1] + 1, "of": len(rows)})


def _draw(pipe: DiffusionPipeline, text: Text, against: Text, seeds: list[int], how: Sampling) -> np.ndarray:
    """uint8 (n, h, w, 3) of one batch; one CPU generator an image. Raises HarnessError on NaN or lack of memory."""
    import torch

    height, width = _size(pipe, how)
    given = text.for_pipeline()
    if how.guidance_scale > 1:
        given |= against.rows([0] * len(seeds)).for_pipeline("negative_")
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    try:
        images = pipe(**given, height=height, width=width, num_inference_steps=how.steps, guidance_scale=how.guidance_scale,
                      generator=generators, output_type="np").images
    except torch.OutOfMemoryError as error:
        raise HarnessError(f"not enough memory for {len(seeds)} images at once; set batch_size to {max(1, len(seeds) // 2)}.") from error
    if not np.isfinite(images).all():
        raise HarnessError(f"the model drew values that are not numbers (dtype {pipe.unet.dtype}); try dtype=torch.float32.")
    return (images * 255).round().astype(np.uint8)


def _listed(out: Path, rows: list[dict[str, str]], hashes: dict[int, str]) -> ImageSet:
    """Write samples.csv, and give the set back as it reads."""
    import pandas as pd

    table = pd.DataFrame(rows)
    table.insert(1, "sha256", [hashes[i] for i in range(len(rows))])
    path = out / "samples.csv"
    write_csv(path, table)
    return ImageSet(out, read_table(path))
