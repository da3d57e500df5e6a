"""Prior preservation (Ruiz et al. 2023, equation 2): what the base model draws for the class, kept as latents."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from harness import conditioning
from harness.errors import HarnessError
from harness.finetune.cache import check_size, keep, kept
from harness.images import sha256

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler

BLOCK, AT = 8, 512
"""Pictures drawn together up to AT pixels a side; above, as many as have the same area."""


def class_latents(pipe: DiffusionPipeline, prompt: str, n: int, folder: Path, progress: Callable[[dict], None], size: int, steps: int = 20,
                  guidance_scale: float = 7.5, seed: int = 0) -> torch.Tensor:
    """`n` class images as the base model draws them for `prompt`: latents (n, c, h, w) in the U-Net's scale, float32, on the CPU.

    Drawn with DPM-Solver++ (2M; Lu et al. 2022) and never decoded. Each is a file of its own in `folder`, shared between runs:
    its name is the hash of weights, prompt, sampler, steps, guidance, size, precision, device and its own seed (seed + i).
    What is drawn together changes last bits, so seeds are always drawn in the same blocks, whole, whatever `n` is and wherever
    drawing was stopped. Raises HarnessError for a request that cannot be drawn, and for a model that already wears an adapter.
    """
    import torch

    _check(pipe, prompt, n, size)
    block = max(1, BLOCK * AT**2 // max(size, AT)**2)
    sampler = _sampler(pipe)
    identity = _identity(pipe, prompt, sampler, steps, guidance_scale, size, block)

    def draw(seeds: range) -> list[torch.Tensor]:
        return _draw(pipe, sampler, prompt, seeds, size, steps, guidance_scale)

    found: list[torch.Tensor] = []
    for first in range(seed // block * block, seed + n, block):
        together = range(first, first + block)
        wanted = range(max(seed, first), min(seed + n, first + block))
        found += _block(draw, together, wanted, folder, identity, prompt, progress)
        progress({"stage": "class images", "step": len(found), "of": n})
    return torch.stack(found)


def _block(draw: Callable[[range], list[torch.Tensor]], together: range, wanted: range, folder: Path, identity: str, prompt: str,
           progress: Callable[[dict], None]) -> list[torch.Tensor]:
    """The latents of the seeds `wanted`, which are some of those that are drawn together; where one is missing, all are drawn and kept."""
    files = {seed: folder / f"{sha256(f'{identity} {seed}'.encode())}.safetensors" for seed in together}
    held = {seed: kept(files[seed], progress) for seed in wanted}
    if None in held.values():
        for seed, latents in zip(together, draw(together), strict=True):
            held[seed] = keep(files[seed], {"latents": latents}, {"class_prompt": prompt, "seed": str(seed)})
    return [held[seed]["latents"] for seed in wanted]


def _check(pipe: DiffusionPipeline, prompt: str, n: int, size: int) -> None:
    """Raise for requests that cannot be drawn."""
    if not prompt.strip() or n < 1:
        raise HarnessError(f"class images need a prompt (such as \"a photo of a person\") and at least one image; got {prompt!r} and {n}.")
    if pipe.get_active_adapters():
        raise HarnessError("class images show what the base model knows, and this pipeline wears an adapter; call pipe.unload_lora_weights() first.")
    check_size(size, pipe.vae_scale_factor, len(pipe.unet.config.block_out_channels))


def _sampler(pipe: DiffusionPipeline) -> DPMSolverMultistepScheduler:
    """DPM-Solver++ on the model's own noise schedule and prediction type."""
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, algorithm_type="dpmsolver++", solver_order=2)


def _identity(pipe: DiffusionPipeline, prompt: str, sampler: DPMSolverMultistepScheduler, steps: int, guidance_scale: float, size: int,
              block: int) -> str:
    """Everything but the seed that decides a class image."""
    levels = {name: value for name, value in sampler.config.items() if not name.startswith("_")}
    decides = ["class image", conditioning.origin(pipe)[1], prompt, levels, steps, float(guidance_scale), size, block,
               str(pipe.unet.dtype), pipe.device.type]
    return json.dumps(decides, sort_keys=True, default=str)


def _draw(pipe: DiffusionPipeline, sampler: DPMSolverMultistepScheduler, prompt: str, seeds: range, size: int, steps: int,
          guidance_scale: float) -> list[torch.Tensor]:
    """Latents (c, h, w) of one block, one CPU generator an image. Raises HarnessError on NaN or lack of memory."""
    import torch

    rows = [0] * len(seeds)
    given = conditioning.encode(pipe, [prompt]).rows(rows).for_pipeline()
    if guidance_scale > 1:
        given |= conditioning.unconditional(pipe).rows(rows).for_pipeline("negative_")
    own, pipe.scheduler = pipe.scheduler, sampler
    try:
        drawn = pipe(**given, height=size, width=size, num_inference_steps=steps, guidance_scale=guidance_scale, output_type="latent",
                     generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds]).images.float().cpu()
    except torch.OutOfMemoryError as error:
        raise HarnessError(f"not enough memory for {len(seeds)} class images of {size} pixels at once; choose a smaller resolution, or load "
                           "the model in half precision.") from error
    finally:
        pipe.scheduler = own
    if not torch.isfinite(drawn).all():
        raise HarnessError(f"the model drew class images that are not numbers (dtype {pipe.unet.dtype}); try dtype=torch.float32.")
    return list(drawn)
