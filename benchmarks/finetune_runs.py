"""The runs of benchmarks/finetune.py: a model, photos, the peer's scripts and our recipes, each run in a process of its own.

A run is forked from a process that has imported everything, so that its time is that of the work. The peer's scripts run as they
are, as `__main__`; what is laid around them only takes the time of every step or, where weights are to be equal, puts given
latents, noise and noise levels in place of those that the script would draw.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from harness import guard
from harness.consent import ledger
from harness.runs import child

CONTEXT = multiprocessing.get_context("fork")
SCRIPTS = {"full": "examples/dreambooth/train_dreambooth.py", "lora": "examples/dreambooth/train_dreambooth_lora.py"}
PROMPT, CLASS_PROMPT = "a photo of sks dog", "a photo of dog"
WHO = "person-01"
CONSENT = ledger.of([ledger.Record(WHO, "*", "cawg.ai_generative_training", "allowed", "synthetic pictures", "2024-01-01")])
PHOTO = (3000, 4000)
"""height and width of a photo of 12 megapixels"""


@dataclass(frozen=True)
class Shape:
    """A model of Stable Diffusion 1.x's classes with random weights."""

    pixels: int
    """side of its pictures"""
    unet: Mapping[str, Any]
    """what UNet2DConditionModel is told"""
    vae: Mapping[str, Any]
    """what AutoencoderKL is told; its scale is a power of two, so that latents divided and multiplied by it are the same bits"""
    text: Mapping[str, Any]
    """what CLIPTextConfig is told"""


MINIATURE = Shape(
    256, {"block_out_channels": (64, 96, 128, 128), "layers_per_block": 1, "attention_head_dim": 2},
    {"block_out_channels": (32, 32, 64, 64), "layers_per_block": 1, "scaling_factor": 0.125},
    {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2})
SD15 = Shape(
    512, {"block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2, "attention_head_dim": 8},
    {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "scaling_factor": 0.125},
    {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12})


@dataclass(frozen=True)
class Run:
    """What a run took."""

    seconds: float
    """from its first line, imports apart, to its end"""
    stamps: list[float] = field(repr=False)
    """when each training step was over"""
    memory: int
    """most bytes that it held: of a GPU where it used one, otherwise of the process"""
    ended: float
    """seconds since 1970 at its end"""
    result: Any = None
    """what the task gave back"""

    @property
    def step(self) -> float:
        """Mean seconds of a step, the first apart."""
        return (self.stamps[-1] - self.stamps[0]) / (len(self.stamps) - 1)


def preload() -> None:
    """Import in this process what both sides need, and start nothing: the runs are forked from it."""
    guard.install()  # before anything imports torchvision
    import accelerate
    import diffusers
    import peft
    import transformers
    from diffusers.training_utils import EMAModel, compute_snr  # noqa: F401
    from torchvision import transforms  # noqa: F401

    from harness import models  # noqa: F401
    from harness.finetune import full, lora, prior  # noqa: F401

    for module, names in ((diffusers, "AutoencoderKL DDPMScheduler PNDMScheduler DPMSolverMultistepScheduler StableDiffusionPipeline UNet2DConditionModel"),
                          (transformers, "AutoTokenizer CLIPTextModel CLIPTokenizer PretrainedConfig"), (peft, "LoraConfig"), (accelerate, "Accelerator")):
        for name in names.split():
            getattr(module, name)


def apart(log: Path, task: Callable[..., Any], *given: Any, gpu: bool = False, dies: bool = False) -> Run | None:
    """Run `task(stamps, *given)` in a fork; what it says goes to `log`. None where it was killed, which only `dies` expects."""
    reader, writer = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_child, args=(writer, log, gpu, task, given))
    process.start()
    writer.close()
    try:
        found = reader.recv()
    except EOFError:
        found = None
    process.join()
    if (found is None) != dies:
        raise SystemExit(f"{log.stem} {'went on' if dies else f'ended with {process.exitcode}'}:\n{log.read_text(errors='replace')[-4000:]}")
    return found


def _child(writer: Any, log: Path, gpu: bool, task: Callable[..., Any], given: Sequence[Any]) -> None:
    """In the fork: everything said goes to the log, the last thing is what it took."""
    child.die_with_parent()
    stamps: list[float] = []
    if not gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with open(log, "w", buffering=1) as said:
        sys.stdout = sys.stderr = said
        for stream in (1, 2):
            os.dup2(said.fileno(), stream)
        begun = time.perf_counter()
        try:
            result = task(stamps, *given)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        writer.send(Run(time.perf_counter() - begun, stamps, _memory(), time.time(), result))


def _memory() -> int:
    """Peak of this process: on the GPU where torch used one, otherwise resident."""
    import torch

    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def build(stamps: list[float], shape: Shape, folder: Path) -> dict[str, float]:
    """Write the model as a diffusers folder, with the schedule of Stable Diffusion 1.x and the tokenizer of the embedded model.

    Gives back the operations that encoding a picture, drawing it and a full training step take.
    """
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from harness.forecast import flops
    from harness.models import MINIATURE as EMBEDDED

    torch.manual_seed(0)
    words = CLIPTokenizer.from_pretrained(EMBEDDED / "pipeline" / "tokenizer", model_max_length=77)
    special = {f"{name}_token_id": getattr(words, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    unet = UNet2DConditionModel(sample_size=shape.pixels // 8, cross_attention_dim=shape.text["hidden_size"], **shape.unet)
    vae = AutoencoderKL(sample_size=shape.pixels, latent_channels=4, down_block_types=("DownEncoderBlock2D",) * 4,
                        up_block_types=("UpDecoderBlock2D",) * 4, **shape.vae)
    text = CLIPTextModel(CLIPTextConfig(vocab_size=len(words), hidden_act="quick_gelu", **special, **shape.text))
    schedule = PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, skip_prk_steps=True)
    StableDiffusionPipeline(vae=vae, unet=unet, text_encoder=text, tokenizer=words, scheduler=schedule, safety_checker=None,
                            feature_extractor=None, requires_safety_checker=False).save_pretrained(folder)
    found = flops.measure(folder, shape.pixels, "full")
    return {"encode": found.encode, "step": found.step, "decode": found.decode, "weights": sum(p.numel() for p in unet.parameters())}


def photos(stamps: list[float], folder: Path, seed: int, n: int = 5) -> None:
    """`n` JPEGs of 12 megapixels: soft shapes with a little grain, quality 90."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for i in range(n):
        soft = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize(PHOTO[::-1], Image.Resampling.BICUBIC)
        grain = rng.integers(-12, 13, (*PHOTO, 1), dtype=np.int16)
        Image.fromarray((np.asarray(soft) + grain).clip(0, 255).astype(np.uint8)).save(folder / f"{i}.jpg", quality=90)


# --- the peer


def peer(stamps: list[float], script: Path, arguments: Mapping[str, Any], drawn: Path | None = None) -> None:
    """Run a script of the peer as it is; `drawn` is what a run of ours drew (`record`), to be drawn again."""
    from accelerate import Accelerator

    told = Accelerator.log

    def log(self: Any, *args: Any, **rest: Any) -> None:
        stamps.append(time.perf_counter())  # the scripts log once a step, after they have read its loss
        told(self, *args, **rest)

    Accelerator.log = log
    if drawn:
        _feed(drawn)
    sys.argv = [str(script), *words(arguments)]
    runpy.run_path(str(script), run_name="__main__")


def words(arguments: Mapping[str, Any]) -> list[str]:
    """A command line from options; True is a switch."""
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in arguments.items()]


def _feed(path: Path) -> None:
    """Let the script find the latents, noise and noise levels of each step in a file, and its LoRA begin as ours does."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors.torch import load_file

    drawn, step = load_file(path), [-1]
    wrap, chance = UNet2DConditionModel.add_adapter, torch.randint

    def encode(self: Any, pixels: torch.Tensor) -> SimpleNamespace:
        step[0] += 1
        latents = drawn["latents"][step[0]] / self.config.scaling_factor
        return SimpleNamespace(latent_dist=SimpleNamespace(sample=lambda: latents))

    def add_adapter(self: Any, *args: Any, **rest: Any) -> None:
        torch.manual_seed(0)
        wrap(self, *args, **rest)

    AutoencoderKL.encode, UNet2DConditionModel.add_adapter = encode, add_adapter
    torch.randn_like = lambda latents: drawn["noise"][step[0]]
    # only the noise levels are drawn on a named device; where a photo is cropped is not
    torch.randint = lambda *args, **rest: drawn["levels"][step[0]] if "device" in rest else chance(*args, **rest)


# --- ours


def ours(stamps: list[float], kind: str, model: Path, pictures: Path, out: Path, kept: Path, settings: Mapping[str, Any],
         drawn: Path | None = None, die_at: int = 0) -> None:
    """Train by our recipe; writes what every step drew to `drawn`, and kills itself after step `die_at`, where those are given."""
    from harness import models
    from harness.consent import gate
    from harness.finetune.full import Full, full
    from harness.finetune.lora import Lora, lora
    from harness.images import open_set

    def watch(event: Mapping[str, Any]) -> None:
        if event.get("stage") == "train" and "loss" in event:
            stamps.append(time.perf_counter())
            if event["step"] == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    seen = _record() if drawn else {}
    settings_of, recipe = (Full, full) if kind == "full" else (Lora, lora)
    images = open_set(pictures).assign(caption=PROMPT, artist=WHO)
    recipe(settings_of(**settings), models.load_pipeline(str(model)), images, out, gate.ask(images, CONSENT), progress=watch, latents=kept)
    if drawn:
        from safetensors.torch import save_file
        from torch import stack

        save_file({name: stack(values).contiguous() for name, values in seen.items()}, drawn)


def _record() -> dict[str, list[Any]]:
    """Everything that is noised from now on, in order."""
    from diffusers import DDPMScheduler

    seen: dict[str, list[Any]] = {"latents": [], "noise": [], "levels": []}
    noised = DDPMScheduler.add_noise

    def add_noise(self: Any, latents: Any, noise: Any, levels: Any) -> Any:
        for values, value in zip(seen.values(), (latents, noise, levels), strict=True):
            values.append(value.clone())
        return noised(self, latents, noise, levels)

    DDPMScheduler.add_noise = add_noise
    return seen
