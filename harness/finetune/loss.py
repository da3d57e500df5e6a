"""The diffusion loss: what the U-Net has to say about a noisy latent, and how much each noise level counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.errors import HarnessError

if TYPE_CHECKING:
    import torch
    from diffusers import DDPMScheduler, DiffusionPipeline

PREDICTIONS = ("epsilon", "v_prediction", "sample")


def schedule(pipe: DiffusionPipeline, prediction: str = "model") -> DDPMScheduler:
    """The model's own noise levels; `prediction` other than "model" changes what the U-Net is asked for. Raises HarnessError."""
    from diffusers import DDPMScheduler

    own = pipe.scheduler.config
    levels = DDPMScheduler.from_config(own, prediction_type=own.get("prediction_type", "epsilon") if prediction == "model" else prediction)
    if levels.config.prediction_type not in PREDICTIONS:
        raise HarnessError(f"the model's prediction type {levels.config.prediction_type!r} is none of {', '.join(PREDICTIONS)}.")
    return levels


def noise(latents: torch.Tensor, offset: float, generator: torch.Generator) -> torch.Tensor:
    """Gaussian noise of the latents' shape; with an offset, plus that much of one number a channel (Guttenberg 2023, "Diffusion with offset noise")."""
    import torch

    drawn = torch.randn(latents.shape, generator=generator)
    return drawn + offset * torch.randn((*latents.shape[:2], 1, 1), generator=generator) if offset else drawn


def target(schedule: DDPMScheduler, latents: torch.Tensor, noise: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """What the U-Net should answer, by the schedule's prediction type. All shapes (n, c, h, w); steps (n,)."""
    kind = schedule.config.prediction_type
    if kind == "v_prediction":
        return schedule.get_velocity(latents, noise, steps)
    return noise if kind == "epsilon" else latents


def weights(schedule: DDPMScheduler, steps: torch.Tensor, gamma: float | None) -> torch.Tensor:
    """(n,) weight of each sample's squared error; ones without gamma.

    Min-SNR (Hang et al. 2023, equation 7): min(SNR, gamma) in terms of x0. An error of x0 is an error of epsilon
    divided by SNR, and an error of v divided by SNR + 1, hence the three forms.
    """
    import torch

    if gamma is None:
        return torch.ones(len(steps), device=steps.device)
    signal = schedule.alphas_cumprod.to(steps.device)[steps].float()
    snr = signal / (1 - signal)
    kind = schedule.config.prediction_type
    if kind == "epsilon":
        return torch.clamp(gamma / snr, max=1.0)  # = min(snr, gamma) / snr, also where snr is 0
    return torch.clamp(snr, max=gamma) / (snr + 1 if kind == "v_prediction" else 1)


def per_sample(prediction: torch.Tensor, wanted: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(n,) mean squared error of each sample, in float32, times its weight."""
    return (prediction.float() - wanted.float()).square().flatten(1).mean(1) * weight
