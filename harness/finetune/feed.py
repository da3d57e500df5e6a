"""What a step sees: latents drawn afresh, noise, noise levels, captions; the same however the step is cut into parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from harness import conditioning
from harness.finetune import buckets, loss as losses, trainer
from harness.finetune.settings import Training

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

    from harness.finetune.cache import Latents
    from harness.images import ImageSet

CLASS = 1 << 20
"""Added to the seed for the order of the class images, so that it is not that of the pictures."""
LEVELS = 8
"""Noise levels at which a held-out picture is looked at, spread evenly."""


@dataclass(frozen=True, eq=False)
class Rows:
    """n samples of one shape."""

    latents: torch.Tensor
    """(n, c, h, w), clean."""
    captions: list[str | None]
    """n texts; None for the text that guidance pushes away from."""
    noise: torch.Tensor
    """(n, c, h, w)."""
    levels: torch.Tensor
    """(n,) steps of the noise schedule."""
    share: torch.Tensor
    """(n,) what each sample counts in the step's loss."""

    def take(self, index: slice) -> Rows:
        """Some of the samples."""
        return Rows(self.latents[index], self.captions[index], self.noise[index], self.levels[index], self.share[index])

    def __add__(self, other: Rows) -> Rows:
        import torch

        both = [torch.cat([getattr(self, name), getattr(other, name)]) for name in ("latents", "noise", "levels", "share")]
        return Rows(both[0], self.captions + other.captions, *both[1:])


@dataclass(frozen=True, eq=False)
class Feed:
    """Pictures and class images of a training, and how the U-Net is asked about them."""

    how: Training
    pipe: DiffusionPipeline
    schedule: object
    """The model's noise levels (DDPMScheduler)."""
    posteriors: Latents
    """Of the pictures."""
    captions: list[str]
    """One a picture."""
    order: Callable[[int], torch.Tensor]
    """Which pictures a step takes."""
    class_latents: torch.Tensor | None
    """(m, c, h, w) of the class images, or None."""
    class_captions: list[str]
    """One a class image."""
    texts: Callable[[Sequence[str | None]], conditioning.Text]
    """Embeds captions, from memory where they do not change."""
    mine: slice = field(default_factory=lambda: slice(None))
    """Which samples of a step this process takes."""

    @classmethod
    def of(cls, how: Training, pipe: DiffusionPipeline, posteriors: Latents, images: ImageSet, order: Callable[[int], torch.Tensor],
           drawn: Sequence[torch.Tensor], prompts: Sequence[str]) -> Feed:
        """The feed of a training on `images`, with the class images `drawn` for each of `prompts`."""
        import torch

        captions, processes = list(images.table["caption"]), trainer.team(pipe.device.type)
        named = [prompt for prompt, latents in zip(prompts, drawn, strict=True) for _ in range(len(latents))]
        return cls(how, pipe, losses.schedule(pipe, how.prediction), posteriors, captions, order, torch.cat(list(drawn)) if drawn else None, named,
                   reader(pipe, [*captions, *named], how.trains_text), slice(processes.process_index, None, processes.num_processes))

    def parts(self, step: int) -> list[Callable[[], torch.Tensor]]:
        """Losses whose sum is that of the step, for this process: the batch's randomness is drawn whole, and then cut."""
        pieces = [piece for rows in self.rows(step) for piece in _cut(rows.take(self.mine), self.how.accumulation)]
        return [lambda piece=piece: self.loss(piece) for piece in pieces]

    def rows(self, step: int) -> list[Rows]:
        """All samples of a step, in as few sets of one shape as there are."""
        import torch

        generator = trainer.generator(self.how.seed, step)
        index = self.order(step)
        latents = self.posteriors.draw(index, generator)
        dropped = (torch.rand(index.shape, generator=generator) < self.how.caption_dropout).tolist()
        captions = [None if none else self.captions[i] for i, none in zip(index.tolist(), dropped, strict=True)]
        pictures = self._noised(latents, captions, 1.0, generator)
        if self.class_latents is None:
            return [pictures]
        index = buckets.batch(self.how.seed + CLASS, step, self.how.batch_size, [0] * len(self.class_latents))
        prior = self._noised(self.class_latents[index], [self.class_captions[i] for i in index.tolist()], self.how.prior_weight, generator)
        return [pictures + prior] if prior.latents.shape[1:] == latents.shape[1:] else [pictures, prior]

    def _noised(self, latents: torch.Tensor, captions: list[str | None], weight: float, generator: torch.Generator) -> Rows:
        """Noise and noise levels for clean latents; each counts so that their mean loss counts `weight`.

        Min-SNR's weight is each sample's own, so that pictures and class images can lie in one batch of any size.
        """
        import torch

        latents = latents.contiguous()  # what was just encoded lies otherwise in memory than what was read back, and convolutions round by that
        noise = losses.noise(latents, self.how.noise_offset, generator)
        levels = torch.randint(self.schedule.config.num_train_timesteps, (len(latents),), generator=generator)
        snr = losses.weights(self.schedule, levels, self.how.snr_gamma)
        return Rows(latents, captions, noise, levels, snr * weight / len(latents))

    def loss(self, rows: Rows) -> torch.Tensor:
        """The samples' squared errors, each times its share, added."""
        return self.errors(rows).sum()

    def errors(self, rows: Rows) -> torch.Tensor:
        """(n,) squared error of each sample times its share."""
        size, (device, dtype) = [side * self.pipe.vae_scale_factor for side in rows.latents.shape[2:]], self.place
        wanted = losses.target(self.schedule, rows.latents, rows.noise, rows.levels).to(device)
        noisy = self.schedule.add_noise(rows.latents, rows.noise, rows.levels).to(device, dtype)
        said = self.pipe.unet(noisy, rows.levels.to(device), **self.texts(rows.captions).to(dtype).for_unet(*size)).sample
        return losses.per_sample(said, wanted, rows.share.to(device))

    @cached_property
    def place(self) -> tuple[torch.device, torch.dtype]:
        """The U-Net's device and precision, asked once: a module walks all its parameters to say them."""
        return self.pipe.unet.device, self.pipe.unet.dtype

    def validation(self, posteriors: Latents, captions: list[str]) -> float:
        """Mean loss on pictures that are not trained on: the same noise and noise levels whenever it is asked, and no min-SNR."""
        import torch

        total, levels = self.schedule.config.num_train_timesteps, torch.arange(LEVELS)
        levels = ((levels + 0.5) * total / LEVELS).long()
        asked = replace(self, texts=reader(self.pipe, captions, self.how.trains_text))
        errors = []
        with torch.no_grad():
            for i, caption in enumerate(captions):
                centre = posteriors.mean[0][i] if isinstance(posteriors.mean, torch.Tensor) else posteriors.mean[i][0]
                latents = centre.expand(LEVELS, -1, -1, -1)
                noise = torch.randn(latents.shape, generator=trainer.generator(self.how.seed, -CLASS - i))
                errors.append(asked.errors(Rows(latents, [caption] * LEVELS, noise, levels, torch.ones(LEVELS))).mean().item())
        return sum(errors) / len(errors)


def _cut(rows: Rows, parts: int) -> list[Rows]:
    """The samples in at most so many parts, none empty."""
    return [part for i in range(parts) if len((part := rows.take(slice(i, None, parts))).captions)]


def reader(pipe: DiffusionPipeline, captions: Sequence[str], trained: bool) -> Callable[[Sequence[str | None]], conditioning.Text]:
    """How captions become embeddings: once for all where the text encoder is frozen, anew with gradients where it is trained.

    None is the text that guidance pushes away from, by the family's own convention.
    """
    if trained:
        return lambda wanted: _encoded(pipe, wanted)
    words = sorted(set(captions))
    texts = conditioning.join(conditioning.encode(pipe, words), conditioning.unconditional(pipe))
    row = {word: i for i, word in enumerate(words)} | {None: len(words)}
    return lambda wanted: texts.rows([row[caption] for caption in wanted])


def _encoded(pipe: DiffusionPipeline, captions: Sequence[str | None]) -> conditioning.Text:
    """Embeddings with gradients."""
    text = conditioning.encode(pipe, [caption or "" for caption in captions], gradients=True)
    empty = [i for i, caption in enumerate(captions) if caption is None]
    if not empty or not pipe.config.get("force_zeros_for_empty_prompt"):
        return text
    keep = text.hidden.new_tensor([caption is not None for caption in captions])
    return conditioning.Text(text.hidden * keep[:, None, None], text.pooled * keep[:, None])
