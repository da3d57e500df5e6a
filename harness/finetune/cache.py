"""Latents kept as the posterior's mean and standard deviation, by content; drawn afresh every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from harness import images as pictures
from harness.errors import HarnessError
from harness.finetune import crops
from harness.finetune.adapter import tensor_file
from harness.images import ImageSet, atomic_write
from harness.models import weights_hash

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

CROP = "centre square, lanczos"


@dataclass(frozen=True, eq=False)
class Latents:
    """Posteriors of n pictures, in the scale that the U-Net sees; shapes (variants, n, c, h, w), or of pictures of several shapes
    n times (variants, c, h, w)."""

    mean: torch.Tensor | list[torch.Tensor]
    """Means; variant 1, where there is one, is the mirrored picture."""
    std: torch.Tensor | list[torch.Tensor]
    """Standard deviations."""
    sizes: tuple[tuple[int, int], ...] = ()
    """(height, width) of each picture in pixels, as it was encoded."""

    def __len__(self) -> int:
        return self.mean.shape[1] if hasattr(self.mean, "shape") else len(self.mean)

    def draw(self, index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Fresh samples (b, c, h, w) of the pictures `index`, all of one shape, each mirrored or not by the same generator."""
        import torch

        variants = len(self.mean if isinstance(self.mean, torch.Tensor) else self.mean[0])
        variant = torch.randint(variants, index.shape, generator=generator)
        mean = _rows(self.mean, variant, index)
        return mean + _rows(self.std, variant, index) * torch.randn(mean.shape, generator=generator)


def _rows(values: torch.Tensor | list[torch.Tensor], variant: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    import torch

    if isinstance(values, torch.Tensor):
        return values[variant, index]
    return torch.stack([values[i][v] for v, i in zip(variant.tolist(), index.tolist(), strict=True)])


def latents(pipe: DiffusionPipeline, images: ImageSet, size: int, flip: bool, folder: Path,
            progress: Callable[[dict], None], buckets: Sequence[tuple[int, int]] | None = None) -> Latents:
    """The set's posteriors (float32, on the CPU), from `folder` where they are known.

    The key is VAE weights, picture bytes, crop, size and mirroring, never a file's name. Pictures become squares of `size` pixels or,
    with `buckets`, (height, width) of each as buckets.plan gives them; a column `crop` of the table (crops.apply) is cut out first.
    A picture is unpacked only where its latents are not known, and encoded without company, which would change last bits.
    """
    wanted = [(size, size)] * len(images) if buckets is None else list(buckets)
    name, found = weights_hash(pipe.origin.folder / "vae"), []
    rows = zip(images.table["sha256"], images.paths, crops.column(images), wanted, strict=True)
    with _float32(pipe.vae):
        for i, (digest, path, crop, shape) in enumerate(rows, 1):
            file = folder / f"{_key(name, digest, crop, shape, flip)}.safetensors"
            posterior = kept(file, progress)
            if posterior is None:
                made = _posterior(pipe, _cut(path, crop), shape, flip)
                posterior = keep(file, made, {"sha256": digest})  # a withdrawal finds it by that
            found.append(posterior)
            progress({"stage": "latents", "step": i, "of": len(images)})
    return _together(found, wanted)


def kept(file: Path, progress: Callable[[dict], None]) -> dict[str, torch.Tensor] | None:
    """The tensors of a cache's file; None where there is none, or a damaged one, which is said."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    if not file.is_file():
        return None
    try:
        return load(file.read_bytes())
    except SafetensorError as error:
        progress({"stage": "cache", "note": f"{file} is damaged ({error}); it is made again"})
        return None


def keep(file: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> dict[str, torch.Tensor]:
    """Write a cache's file and give back what it holds: fresh tensors may lie otherwise in memory, and later sums would round otherwise."""
    from safetensors.torch import load

    return load(atomic_write(file, tensor_file(tensors, metadata)).read_bytes())


def _key(vae: str, digest: str, crop: crops.Box | None, shape: tuple[int, int], flip: bool) -> str:
    """What decides a picture's latents. Of a whole picture as a square it is the key that earlier versions gave."""
    high, wide = shape
    size = str(high) if high == wide else f"{high}x{wide}"
    return pictures.sha256(f"{vae} {digest} {CROP if crop is None else f'{crop}, {CROP}'} {size} flip={flip}".encode())


def _cut(path: Path, crop: crops.Box | None) -> Image.Image:
    """The picture, upright, or the part of it that was chosen. Raises BadImage, HarnessError for a crop that lies outside."""
    picture = pictures.decode(path)
    return picture if crop is None else crops.cut(picture, crop, path)


def _together(found: list[dict[str, torch.Tensor]], sizes: list[tuple[int, int]]) -> Latents:
    """One tensor where all have one shape, otherwise a list."""
    import torch

    mean, std = ([posterior[name] for posterior in found] for name in ("mean", "std"))
    if len(set(sizes)) == 1:
        return Latents(torch.stack(mean, 1), torch.stack(std, 1), tuple(sizes))
    return Latents(mean, std, tuple(sizes))


@contextmanager
def _float32(vae: torch.nn.Module) -> Iterator[None]:
    """The VAE in float32, because SDXL's overflows in half; afterwards as it was."""
    import torch

    dtype = vae.dtype
    try:
        vae.to(torch.float32)
        yield
    finally:
        vae.to(dtype)


def _posterior(pipe: DiffusionPipeline, picture: Image.Image, shape: tuple[int, int], flip: bool) -> dict[str, torch.Tensor]:
    """mean and std (variants, c, h, w) of one picture, brought to `shape` (height, width) by its centre. Raises HarnessError on NaN."""
    import torch

    fitted = np.asarray(ImageOps.fit(picture, shape[::-1], method=Image.Resampling.LANCZOS))
    variants = np.stack([fitted, fitted[:, ::-1]] if flip else [fitted])
    pixels = torch.from_numpy(variants).permute(0, 3, 1, 2).float() / 127.5 - 1
    vae = pipe.vae
    with torch.inference_mode():
        posterior = vae.encode(pixels.to(vae.device)).latent_dist
    if not (torch.isfinite(posterior.mean).all() and torch.isfinite(posterior.std).all()):
        raise HarnessError("the VAE gave latents that are not numbers; its weights are damaged, or not those of this model.")
    shift, scale = getattr(vae.config, "shift_factor", None) or 0.0, vae.config.scaling_factor
    return {"mean": (posterior.mean - shift).mul(scale).cpu(), "std": posterior.std.mul(scale).cpu()}


def check_size(size: int, factor: int, levels: int) -> None:
    """Raise when a picture size does not survive the VAE's and the U-Net's halvings."""
    step = factor * 2 ** (levels - 1)
    if size < step or size % step:
        raise HarnessError(f"resolution {size} is not divisible by {step}, as this model needs; "
                           f"the nearest is {max(step, round(size / step) * step)}.")
