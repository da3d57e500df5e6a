"""Before a training: how much memory and time it takes on this device; and what to change where it does not fit.

Counted, not tried: ``harness.forecast.training`` follows one step on the meta device. Only the speed is measured, on one
evaluation of the U-Net, where the model is loaded already.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, Refused
from harness.finetune import prior, trainer
from harness.finetune.lora import TARGETS
from harness.finetune.optimisers import STATE_BYTES
from harness.finetune.settings import Training
from harness.forecast import device as devices, flops, training, units

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

GIB = 1 << 30
HOST_BASE, GPU_BASE = 0.9 * GIB, 0.6 * GIB  # what Python, torch and the libraries hold besides the model
LATE = 0.15 * GIB  # libraries that a training imports when it begins, on the host
MEMORY_FACTOR, TIMED_FACTOR = 1.4, 2.5
"""How far off a forecast may be either way: memory, and time where the model was timed; tests/test_fits.py holds them to it."""
PROBE_SECONDS, DRAW_STEPS, SAVED_A_SECOND, FIXED_SECONDS = 5.0, 20, 300e6, 2.0
BANDWIDTH = {"cpu": 8e9, "cuda": 1e12, "mps": 1e11}  # bytes a second, for the optimiser's pass over its moments
SHOWN = 3
METHOD = ("memory: the model built without contents and one step followed from the first activation to the last gradient, plus weights, "
          "moments and libraries{base}, good to a factor of {memory:g} either way; time: {time}; previews, validation and judges are in neither")


@dataclass(frozen=True)
class Forecast:
    """What a training will take."""

    seconds: float
    """wall-clock time, everything made anew"""
    seconds_low: float
    """the least to be expected"""
    seconds_high: float
    """the most"""
    memory_bytes: int
    """peak where the model lies: of one GPU, or of all processes on the host"""
    parts: dict[str, int]
    """what that consists of, in bytes"""
    flops: float
    """operations of training, encoding and drawing class images, a multiply-add as two"""
    trained: int
    """elements that are trained"""
    method: str
    """what the figures rest on, in words"""

    @property
    def memory_least(self) -> int:
        """Bytes below which it cannot run."""
        return round(self.memory_bytes / MEMORY_FACTOR)

    def lines(self) -> list[str]:
        """As it is printed: the figures, what the memory goes to, and what all rests on."""
        span = f"{units.seconds(self.seconds)} ({units.seconds(self.seconds_low)} to {units.seconds(self.seconds_high)})"
        first = f"forecast: {span}, {units.size(self.memory_bytes)} of memory, {units.operations(self.flops)}, {self.trained:,} trained weights"
        parts = ", ".join(f"{name} {units.size(size)}" for name, size in sorted(self.parts.items(), key=lambda part: -part[1]) if size >= 1 << 20)
        return [first, f"  memory: {parts}", *(f"  {part}" for part in self.method.split("; "))]

    def as_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return asdict(self)


def predict(recipe: str, how: Training, model: DiffusionPipeline | Path | str, n_images: int, device: str | None = None, processes: int = 1) -> Forecast:
    """Forecast a training of `recipe` (lora, full, textual_inversion, pivotal) on `n_images` pictures.

    `model` is a pipeline, which is also timed (some seconds at most), or the name or folder of one whose configuration is on
    this machine. `device` is cuda, mps or cpu. Raises HarnessError for a model that cannot be counted.
    """
    loaded = None if isinstance(model, (str, Path)) else model
    folder = loaded.origin.folder if loaded is not None else flops.configuration(str(model))
    kind = device or (loaded.device.type if loaded is not None else devices.kind())
    case = _case(recipe, how, folder, kind, loaded, processes)
    needs = training.needs(folder, case)
    parts = _memory(recipe, how, needs, case, kind, loaded, n_images)
    whole = sum(parts.values()) * (processes if kind == "cpu" else 1)
    seconds, low, high, time_said, work = _time(how, needs, case, kind, loaded, n_images, processes)
    base = " as this process holds them" if loaded is not None and kind == "cpu" else ""
    return Forecast(seconds, low, high, round(whole), parts, work, needs.trained, METHOD.format(base=base, memory=MEMORY_FACTOR, time=time_said))


def operations(recipe: str, how: Training, folder: Path, n_images: int) -> float:
    """Floating-point operations of a training with the model in `folder`: encoding, class images, steps. Raises HarnessError as `predict` does."""
    return sum(_operations(how, training.needs(folder, _case(recipe, how, folder, "cpu", None, 1)), n_images))


def preflight(recipe: str, how: Training, model: DiffusionPipeline | Path | str, n_images: int, device: str | None = None, processes: int = 1) -> Forecast:
    """The forecast; raises Refused, naming settings that would fit, where not even the least that it needs is there."""
    found = predict(recipe, how, model, n_images, device, processes)
    room = devices.room()
    if found.memory_least > room.total:
        ways = said(advise(recipe, how, model, n_images, room.total, device, processes))
        raise Refused(f"this training needs about {units.size(found.memory_bytes)} of {room.what}, and {room.says} {units.size(room.total)}; {ways}.")
    return found


def advise(recipe: str, how: Training, model: DiffusionPipeline | Path | str, n_images: int, room: int, device: str | None = None,
           processes: int = 1) -> list[tuple[str, Forecast]]:
    """Changes that make a training fit into `room` bytes, the least harmful first, each with its forecast; [] where none does.

    Tried one by one and then together: the batch in parts and gradient checkpointing, which give the same result; 8-bit Adam;
    no training of the text encoder; a LoRA instead of the whole model; fewer pixels.
    """
    found: list[tuple[str, Forecast]] = []
    for words, name, changed in _changes(recipe, how, model):
        forecast = predict(name, changed, model if isinstance(model, (str, Path)) else model.origin.folder, n_images, device, processes)
        if forecast.memory_bytes <= room:
            found.append((words, forecast))
        if len(found) == SHOWN:
            break
    return found


def said(ways: list[tuple[str, Forecast]]) -> str:
    """Advice as the end of a sentence."""
    if not ways:
        return "no change of settings makes it fit, it needs a larger device"
    return "it would fit with " + " or ".join(f"`{words}` ({units.size(found.memory_bytes)})" for words, found in ways)


def is_out_of_memory(error: BaseException) -> bool:
    """Was it memory that was lacking? (CUDA says so by its own error, the CPU's allocator in words.)"""
    import torch

    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def out_of_memory(error: BaseException, recipe: str, how: Training, pipe: DiffusionPipeline, n_images: int, step: int = 0, processes: int = 1) -> HarnessError:
    """The sentence for a training that ran out of memory in a step: what it needs, what there is, what would fit."""
    room, kind = devices.room(), pipe.device.type
    try:
        needs = predict(recipe, how, pipe.origin.folder, n_images, kind, processes).memory_bytes
        ways = said(advise(recipe, how, pipe, n_images, min(room.total, needs - 1), kind, processes))
        known = f"these settings need about {units.size(needs)} of {room.what}, and {room.says} {units.size(room.total)}; {ways}"
    except HarnessError as unknown:
        known = f"how much these settings need is not known ({unknown})"
    if isinstance(error, HarnessError):
        return error
    return HarnessError(f"out of memory at step {step + 1}: {known}. The last checkpoint is kept, but belongs to these settings: start in another folder.")


# --- what is asked of the count -----------------------------------------------------------------------------------------


def _case(recipe: str, how: Training, folder: Path, kind: str, loaded: DiffusionPipeline | None, processes: int) -> training.Case:
    mixed = trainer.precision(how.mixed_precision, kind) != "no"
    half = mixed and (kind == "cuda" if loaded is None else loaded.unet.dtype.itemsize == 2)
    rows = math.ceil(_pictures(how) / processes)
    pixels = how.resolution or 0
    drawn = max(1, prior.BLOCK * prior.AT**2 // max(pixels, prior.AT) ** 2) if how.class_prompt else 0
    return training.Case(
        full=recipe == "full", lora=TARGETS[how.layers] if hasattr(how, "layers") else (), rank=getattr(how, "rank", 0), text=how.text_encoder,
        words=len(getattr(how, "names", ())), pixels=pixels, batch=math.ceil(rows / how.accumulation), again=how.accumulation > 1 and rows > 1,
        checkpointing=how.gradient_checkpointing, mixed=mixed, half=half, drawn=drawn)


def _changes(recipe: str, how: Training, model: Any) -> Iterator[tuple[str, str, Training]]:
    """Settings as they are typed, the recipe's name, and all settings: single changes first, then more and more of them."""
    from harness.finetune.lora import Lora

    steps: list[dict[str, Any]] = [{"accumulation": parts} for parts in _parts(how)]
    steps += [{"gradient_checkpointing": True}] if not how.gradient_checkpointing else []
    steps += [{"optimiser": "adamw8bit"}] if recipe == "full" and how.optimiser == "adamw" else []
    steps += [{"text_encoder": False, "text_learning_rate": None}] if how.text_encoder else []
    folder = flops.configuration(str(model)) if isinstance(model, (str, Path)) else model.origin.folder
    pixels = how.resolution or training.own_pixels(folder)
    smaller = [{"resolution": size} for share in (0.75, 0.5) if (size := int(pixels * share) // 64 * 64) >= 64]
    shared = {name: getattr(how, name) for name in Training.__dataclass_fields__ if name not in ("learning_rate", "weight_decay")}
    together = {key: value for step in steps for key, value in step.items()}
    for given in (*steps, together):
        yield _typed(given), recipe, replace(how, **given)
    if recipe == "full":
        for given in ({}, together):
            yield f"recipe=lora {_typed(given)}".strip(), "lora", Lora(**{**shared, **given, "optimiser": how.optimiser})
    for given in smaller:
        yield _typed({**together, **given}), recipe, replace(how, **{**together, **given})


def _parts(how: Training) -> list[int]:
    """Numbers of parts that a batch can be taken in, beyond the present one: half of it, then one picture at a time."""
    return sorted({parts for parts in (how.accumulation * 2, how.batch_size) if how.accumulation < parts <= how.batch_size})


def _typed(given: dict[str, Any]) -> str:
    return " ".join(f"{name}={str(value).lower()}" for name, value in given.items())


# --- memory -------------------------------------------------------------------------------------------------------------


def _memory(recipe: str, how: Training, needs: training.Needs, case: training.Case, kind: str, loaded: DiffusionPipeline | None,
            n_images: int) -> dict[str, int]:
    """Bytes at the peak, by what they are for."""
    large = needs.trained - needs.trained_small
    moments = large * STATE_BYTES[how.optimiser] + needs.trained_small * STATE_BYTES["adamw"]
    # torch's Adam makes a copy as large as what it trains on a GPU, where it works on all tensors at once
    update = needs.trained * (8 if kind == "cuda" and how.optimiser == "adamw" else 4)
    moment = max(update, needs.step_bytes, needs.encode_bytes * (1 + how.flip), needs.draw_bytes)
    parts = {"weights": needs.weight_bytes, "optimiser's moments": moments, "running average": needs.trained * 4 * (how.ema is not None),
             "activations and gradients": moment, "libraries": _libraries(kind, loaded)}
    if kind == "cpu":
        latent = (needs.pixels // 4) ** 2  # at most: 4 channels of an eighth of the side, mean and deviation, float32, with room for 16 channels
        parts |= {"base weights, to be given back": 4 * needs.trained * (recipe == "full"), "latents": n_images * (1 + how.flip) * latent * 2}
        parts |= {"class images": how.class_images * latent * bool(how.class_prompt)}
    return {name: round(size) for name, size in parts.items()}


def _libraries(kind: str, loaded: DiffusionPipeline | None) -> float:
    """What lies there besides the model: on the host as it is now, where the model is loaded in this process."""
    if kind == "cuda":
        return GPU_BASE
    if loaded is None:
        return HOST_BASE + LATE
    import psutil

    parts = (loaded.unet, loaded.vae, getattr(loaded, "text_encoder", None), getattr(loaded, "text_encoder_2", None))
    held = sum(p.numel() * p.element_size() for part in parts if part is not None for p in part.parameters())
    return max(0.3 * GIB, psutil.Process().memory_info().rss - held) + LATE


# --- time ---------------------------------------------------------------------------------------------------------------


def _time(how: Training, needs: training.Needs, case: training.Case, kind: str, loaded: DiffusionPipeline | None, n_images: int,
          processes: int) -> tuple[float, float, float, str, float]:
    """Seconds (best guess, least, most), how they were found, and all operations."""
    once, steps = _operations(how, needs, n_images)
    pictures, whole = _pictures(how), once + steps
    saves = math.ceil(how.steps / how.checkpoint_every) * needs.trained * 16 / SAVED_A_SECOND
    still = FIXED_SECONDS + saves + how.steps * needs.trained * 28 / BANDWIDTH.get(kind, BANDWIDTH["cpu"])
    timed = _timed(loaded, needs, case) if loaded is not None else None
    if timed:
        evaluations = how.steps * math.ceil(pictures / processes / case.batch)
        working = timed[0] * needs.step / needs.forward * evaluations * case.batch / timed[1] + once / needs.forward * timed[0] / timed[1]
        method = f"an evaluation of the U-Net on {timed[1]} pictures, timed just now ({timed[0]:.2g} s), times the counted operations"
        return still + working, (still + working) / TIMED_FACTOR, (still + working) * TIMED_FACTOR, f"{method}, good to a factor of {TIMED_FACTOR:g}", whole
    rate = devices.rate()
    guess = [still + whole / processes / speed for speed in (rate.middle, rate.high, rate.low)]
    return *guess, f"a guess from the operations and {rate.method}, wrong by up to a factor of {guess[2] / guess[0]:.0f}", whole


def _pictures(how: Training) -> int:
    """Pictures a step, class images included."""
    return how.batch_size * (2 if how.class_prompt else 1)


def _operations(how: Training, needs: training.Needs, n_images: int) -> tuple[float, float]:
    """Operations before the first step, and of all steps."""
    drawn = how.class_images * DRAW_STEPS * 2 * needs.forward if how.class_prompt else 0.0
    return n_images * ((1 + how.flip) * needs.encode + needs.text) + drawn, how.steps * _pictures(how) * needs.step


def _timed(pipe: DiffusionPipeline, needs: training.Needs, case: training.Case) -> tuple[float, int] | None:
    """Seconds of one evaluation of the U-Net and on how many pictures; None where that would take too long, or has no room."""
    import torch

    batch = case.batch if needs.forward * case.batch / devices.rate().middle <= PROBE_SECONDS else 1
    if needs.forward * batch / devices.rate().middle > 4 * PROBE_SECONDS:
        return None
    given = _zeros(pipe, needs.pixels, batch)
    best = math.inf
    try:
        for _ in range(3):  # the first call is slower
            began = time.perf_counter()
            with torch.inference_mode():
                float(pipe.unet(**given).sample.float().sum())  # waits for a GPU
            best = min(best, time.perf_counter() - began)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            return None
        raise
    return best, batch


def _zeros(pipe: DiffusionPipeline, pixels: int, batch: int) -> dict[str, Any]:
    """What the U-Net takes, all zeros."""
    import torch

    from harness.conditioning import Text

    config, like = pipe.unet.config, {"device": pipe.device, "dtype": pipe.unet.dtype}
    pooled = None
    if config.addition_embed_type == "text_time":
        pooled = torch.zeros(batch, config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim, **like)
    side, words = pixels // pipe.vae_scale_factor, torch.zeros(batch, pipe.tokenizer.model_max_length, config.cross_attention_dim, **like)
    noisy, level = torch.zeros(batch, config.in_channels, side, side, **like), torch.zeros(batch, device=pipe.device)
    return {"sample": noisy, "timestep": level, **Text(words, pooled).for_unet(pixels, pixels)}
