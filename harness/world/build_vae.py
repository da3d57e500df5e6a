"""The miniature autoencoder: an AutoencoderKL for 64-pixel portraits, trained from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from harness.world.training import Schedule, device, fit

if TYPE_CHECKING:
    import torch

SHAPE = {"in_channels": 3, "out_channels": 3, "latent_channels": 8, "block_out_channels": (32, 64, 96), "layers_per_block": 1,
         "down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3, "norm_num_groups": 16,
         "sample_size": 64, "mid_block_add_attention": False}
SCHEDULE = Schedule(steps=3000, batch=32, learning_rate=1e-3, ema=0.998)
KL_WEIGHT = 1e-6
"""of the KL term, per latent value (Rombach et al. 2022, section 3.1 and appendix G use the same order)"""


def build(folder: Path, images: "torch.Tensor", progress: Callable[[dict], None], how: Schedule = SCHEDULE) -> Any:
    """Train on uint8 images (n, 3, 64, 64) and save a diffusers folder `folder/vae`; returns (model, loss curve)."""
    import torch
    from diffusers import AutoencoderKL

    torch.manual_seed(how.seed)
    model = AutoencoderKL(**SHAPE).to(device())
    curve = fit(model, lambda g, step: _loss(model, _batch(images, g, how, step)), how, folder, progress, "vae")
    standardise(model, images[:: max(1, len(images) // 2000)])
    model.save_pretrained(folder / "vae")
    return model, curve


def _batch(images: "torch.Tensor", generator: "torch.Generator", how: Schedule, step: int) -> "torch.Tensor":
    """Crops in [-1, 1]: 32 pixels at first because they are four times cheaper, whole pictures for the last tenth."""
    import torch

    side = 32 if step < 0.9 * how.steps else 64
    batch = how.batch if side == 64 else 2 * how.batch
    index = torch.randint(len(images), (batch,), generator=generator)
    top, left = torch.randint(0, 64 - side + 1, (2,), generator=generator).tolist()
    x = images[index][:, :, top : top + side, left : left + side].float() / 127.5 - 1
    return _recolour(x, generator).to(device())


def _recolour(x: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
    """A third of the pictures get other colours, and a sixth another picture over them, so that unseen hands can be encoded too."""
    import torch

    n = len(x)
    chance = torch.rand(n, generator=generator)
    x = torch.where((chance < 1 / 6)[:, None, None, None], torch.minimum(x, x[torch.randperm(n, generator=generator)]), x)
    gain = 1 - 0.7 * torch.rand(n, 3, 1, 1, generator=generator)
    sign = torch.where(torch.rand(n, 1, 1, 1, generator=generator) < 0.5, -1.0, 1.0)
    other = sign * x[:, torch.randperm(3, generator=generator)] * gain + (1 - gain) * (2 * torch.rand(n, 3, 1, 1, generator=generator) - 1)
    return torch.where((chance > 2 / 3)[:, None, None, None], other, x)


def _loss(model: Any, x: "torch.Tensor") -> "torch.Tensor":
    """Absolute and squared error, the error of the picture's gradients (so that thin lines count), and a small KL term."""
    posterior = model.encode(x).latent_dist
    error = (model.decode(posterior.sample()).sample - x).float()
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    kl = posterior.kl().float().mean() / (posterior.mean[0].numel())
    return error.abs().mean() + 4 * error.square().mean() + 0.5 * edges + KL_WEIGHT * kl * 1000


def standardise(model: Any, images: "torch.Tensor") -> None:
    """Fold a per-channel shift and scale into the 1×1 convolutions, so that latents have mean 0 and deviation 1.

    The pipeline's only knob is one `scaling_factor`; white paper would otherwise leave each channel with a large mean. Exact: the
    decoder undoes what the encoder does.
    """
    import torch

    with torch.no_grad():
        z = torch.cat([model.encode((b.float() / 127.5 - 1).to(device())).latent_dist.mean for b in images.split(100)])
        mean, scale = z.mean((0, 2, 3)), z.std((0, 2, 3))
        n = len(mean)
        model.quant_conv.weight[:n] /= scale[:, None, None, None]
        model.quant_conv.bias[:n].sub_(mean).div_(scale)
        model.quant_conv.bias[n:] -= 2 * scale.log()
        model.post_quant_conv.bias += torch.einsum("oi,i->o", model.post_quant_conv.weight[:, :, 0, 0], mean)
        model.post_quant_conv.weight *= scale[None, :, None, None]
    model.register_to_config(scaling_factor=1.0)


def load(folder: Path) -> Any:
    """The autoencoder that `build` saved below a folder, on this device."""
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(folder / "vae").eval().to(device())
