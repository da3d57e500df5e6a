"""Latents kept as the posterior's mean and standard deviation, by content; drawn afresh every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness import images as pictures
from harness.errors import HarnessError
from harness.finetune.adapter import tensor_file
from harness.images import ImageSet, atomic_write
from harness.models import weights_hash

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline
    from PIL import Image

CROP = "centre square, lanczos"


@dataclass(frozen=True, eq=False)
class Latents:
    """Posteriors of n pictures, in the scale that the U-Net sees; shapes (variants, n, c, h, w)."""

    mean: torch.Tensor
    """Means; variant 1, where there is one, is the mirrored picture."""
    std: torch.Tensor
    """Standard deviations."""

    def draw(self, index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Fresh samples (b, c, h, w) of the pictures `index`, each mirrored or not by the same generator."""
        import torch

        variant = torch.randint(len(self.mean), index.shape, generator=generator)
        mean = self.mean[variant, index]
        return mean + self.std[variant, index] * torch.randn(mean.shape, generator=generator)


def latents(pipe: DiffusionPipeline, images: ImageSet, size: int, flip: bool, folder: Path,
            progress: Callable[[dict], None]) -> Latents:
    """The set's posteriors (float32, on the CPU), from `folder` where they are known.

    The key is VAE weights, picture bytes, crop, size and mirroring, never a file's name.
    """
    import torch
    from safetensors.torch import load

    vae_hash = weights_hash(pipe.origin.folder / "vae")
    found = []
    for i, (digest, path) in enumerate(zip(images.table["sha256"], images.paths, strict=True), 1):
        key = pictures.sha256(f"{vae_hash} {digest} {CROP} {size} flip={flip}".encode())
        file = folder / f"{key}.safetensors"
        if not file.is_file():
            atomic_write(file, tensor_file(_posterior(pipe, pictures.decode(path), size, flip), {"sha256": digest}))  # a withdrawal finds it by that
        found.append(load(file.read_bytes()))
        progress({"stage": "latents", "step": i, "of": len(images)})
    return Latents(torch.stack([f["mean"] for f in found], 1), torch.stack([f["std"] for f in found], 1))


def _posterior(pipe: DiffusionPipeline, picture: Image.Image, size: int, flip: bool) -> dict[str, torch.Tensor]:
    """mean and std (variants, c, h, w) of one picture; the VAE works in float32, because SDXL's overflows in half."""
    import torch

    square = np.asarray(pictures.square(picture, size))
    variants = np.stack([square, square[:, ::-1]] if flip else [square])
    pixels = torch.from_numpy(variants).permute(0, 3, 1, 2).float() / 127.5 - 1
    vae, dtype = pipe.vae, pipe.vae.dtype
    with torch.inference_mode():
        posterior = vae.to(torch.float32).encode(pixels.to(vae.device)).latent_dist
    vae.to(dtype)
    shift, scale = getattr(vae.config, "shift_factor", None) or 0.0, vae.config.scaling_factor
    return {"mean": (posterior.mean - shift).mul(scale).cpu(), "std": posterior.std.mul(scale).cpu()}


def check_size(size: int, factor: int, levels: int) -> None:
    """Raise when a picture size does not survive the VAE's and the U-Net's halvings."""
    step = factor * 2 ** (levels - 1)
    if size < step or size % step:
        raise HarnessError(f"resolution {size} is not divisible by {step}, as this model needs; "
                           f"the nearest is {max(step, round(size / step) * step)}.")
