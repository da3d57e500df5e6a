"""LoRA: low-rank updates of the U-Net's attention, on pictures with captions (Hu et al. 2021)."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from harness import conditioning, progress as showing
from harness.consent.gate import Decision
from harness.errors import HarnessError, Refused
from harness.finetune import cache, loss as losses, trainer
from harness.finetune.adapter import MANIFEST_KEY, WEIGHTS, Adapter, read_manifest, tensor_file
from harness.images import ImageSet, atomic_write, sha256, write_csv

if TYPE_CHECKING:
    import torch
    from diffusers import DDPMScheduler, DiffusionPipeline, UNet2DConditionModel

USE = "cawg.ai_generative_training"
TARGETS = {"attention": ("to_k", "to_q", "to_v", "to_out.0")}
TARGETS["attention+convolutions"] = (*TARGETS["attention"], "conv1", "conv2", "conv_shortcut", "conv_in", "conv_out")
NAME = "likeness"
TIMES = "times.json"
"""when a training began and ended: the one file beside an adapter that is not the same after a repetition"""


@dataclass(frozen=True)
class Lora:
    """Settings of the recipe."""

    rank: int = 8
    """Rank of each update."""
    layers: str = "attention"
    """attention, or attention+convolutions: textures and backgrounds of a hand need the latter in small models."""
    alpha: int | None = None
    """Scale of the update in units of the rank; the rank when not given."""
    learning_rate: float = 1e-3
    """The highest."""
    steps: int = 300
    """Optimiser steps."""
    batch_size: int = 8
    """Pictures a step."""
    warmup: int = 10
    """Steps of linear rise to the learning rate."""
    schedule: str = "cosine"
    """constant, or cosine (down to zero at the end)."""
    snr_gamma: float | None = None
    """Min-SNR's gamma (5 is usual); none weighs all noise levels alike."""
    caption_dropout: float = 0.1
    """Share of pictures shown without their caption, so that guidance keeps working."""
    seed: int = 0
    """Of everything random: order, noise, noise levels, dropout, first weights."""
    checkpoint_every: int = 50
    """Steps between checkpoints and previews."""
    flip: bool = False
    """Mirror half of the pictures; not for faces or writing that are not symmetric."""
    resolution: int | None = None
    """Side in pixels of the centred square; the model's own when not given."""
    weight_decay: float = 1e-4
    """AdamW's."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this length."""
    mixed_precision: str = "auto"
    """no, bf16 (the LoRA's own weights stay float32), or auto: bf16 on a GPU that multiplies in it, otherwise no."""

    def __post_init__(self) -> None:
        """Raise HarnessError for settings that contradict themselves."""
        if min(self.rank, self.steps, self.batch_size, self.checkpoint_every) < 1 or self.learning_rate <= 0:
            raise HarnessError("rank, steps, batch_size, checkpoint_every and learning_rate must be above 0.")
        if not 0 <= self.warmup < self.steps:
            raise HarnessError(f"warmup ({self.warmup}) must be shorter than the training ({self.steps} steps).")
        if not 0 <= self.caption_dropout < 1:
            raise HarnessError(f"caption_dropout must be at least 0 and below 1, not {self.caption_dropout}.")
        if self.layers not in TARGETS:
            raise HarnessError(f"layers {self.layers!r} is none of {', '.join(TARGETS)}.")
        if self.snr_gamma is not None and self.snr_gamma <= 0:
            raise HarnessError(f"snr_gamma must be above 0, not {self.snr_gamma}.")
        if self.schedule not in ("constant", "cosine") or self.mixed_precision not in trainer.PRECISIONS:
            raise HarnessError(f"schedule is constant or cosine (not {self.schedule}), mixed_precision one of "
                               f"{', '.join(trainer.PRECISIONS)} (not {self.mixed_precision}).")


def lora(how: Lora, pipe: DiffusionPipeline, images: ImageSet, out: Path, consent: Decision,
         progress: Callable[[dict], None] | None = None, preview: Callable[[DiffusionPipeline, int], None] | None = None,
         latents: Path | None = None) -> Adapter:
    """Train a LoRA on `images` (column `caption`) into the folder `out`; the pipeline comes back as it was.

    `preview(pipe, step)` is called at every checkpoint with the adapter as it is then. `latents` is a cache that runs
    may share (default: in `out`). The same call again goes on where it stopped, or gives back what is finished.
    Raises Refused without consent, HarnessError for pictures or settings that cannot be trained on.
    """
    out, tell = Path(out), progress or showing.printer()
    _check(pipe, images, consent)
    times = _begun(out, consent)
    manifest = _manifest(how, pipe, images, replace(consent, at=times["consent_at"]))
    if _finished(out / WEIGHTS, manifest):
        tell({"stage": "train", "note": f"{out / WEIGHTS} is finished; it is used again"})
        return Adapter.open(out)
    size, mixed = manifest["resolution"], manifest["mixed_precision"]
    posteriors = cache.latents(pipe, images, size, how.flip, latents or out / "latents", tell)
    with _wrapped(pipe, how, mixed) as parameters:
        step_loss = _loss(how, pipe, posteriors, list(images.table["caption"]), size)
        show = (lambda step: _show(preview, pipe, step)) if preview else None
        history = trainer.train(_loop(how, mixed), parameters, step_loss, out, _fingerprint(manifest), tell, show)
        file = _file(pipe, manifest)
    return _finish(out, file, manifest, history, times)


def _check(pipe: DiffusionPipeline, images: ImageSet, consent: Decision) -> None:
    """Raise for missing consent, captions or pictures."""
    if not isinstance(consent, Decision) or consent.use != USE or not consent.covers(images):
        raise Refused(f"training needs the gate's decision on {USE} for exactly these pictures: "
                      "gate.ask(images, ledger) gives it.")
    if not consent.allowed and consent.purpose != "audit":
        raise Refused("; ".join(consent.reasons))
    if "caption" not in images.table or (images.table["caption"].str.strip() == "").any():
        raise HarnessError(f"{images.folder}: every picture needs a caption; images.assign(caption=...) gives them.")
    if images.table["sha256"].nunique() < 3:
        raise HarnessError(f"{images.folder}: {images.table['sha256'].nunique()} different pictures; a fine-tune needs at least 3.")
    if pipe.get_active_adapters():
        raise HarnessError("the pipeline already wears an adapter; call pipe.unload_lora_weights() first.")


def _manifest(how: Lora, pipe: DiffusionPipeline, images: ImageSet, consent: Decision) -> dict:
    """All that decides the result, and nothing that changes from run to run (no times, no paths)."""
    name, weights = conditioning.origin(pipe)
    size = how.resolution or conditioning.pixel_size(pipe)[0]
    cache.check_size(size, pipe.vae_scale_factor, len(pipe.unet.config.block_out_channels))
    artists = images.table["artist"] if "artist" in images.table else [""] * len(images)
    listed = [{"sha256": work, "artist": artist, "caption": caption} for work, artist, caption
              in zip(images.table["sha256"], artists, images.table["caption"], strict=True)]
    manifest = {
        "recipe": "lora", "purpose": consent.purpose, "consent": consent.as_dict(), "settings": asdict(how),
        "base_model": name, "base_model_sha256": weights, "family": pipe.origin.family,
        "safety_checker_removed": pipe.origin.safety_checker, "resolution": size, "crop": cache.CROP,
        "mixed_precision": trainer.precision(how.mixed_precision, pipe.device.type), "device": pipe.device.type,
        "images": listed, "versions": {package: version(package) for package in ("torch", "diffusers", "peft", "transformers")}}
    return json.loads(json.dumps(manifest, sort_keys=True))


def _finished(path: Path, manifest: dict) -> bool:
    """Is this very training done? Raises HarnessError where another one lies in its place."""
    if not path.is_file():
        return False
    held = read_manifest(path)
    changed = sorted(key for key in manifest if held.get(key) != manifest[key])
    if changed:
        raise HarnessError(f"{path}: made with another {', '.join(changed)}; choose another folder, or delete this one.")
    return True


def _fingerprint(manifest: dict) -> str:
    """Hash of the manifest."""
    return sha256(json.dumps(manifest, sort_keys=True).encode())


def _loop(how: Lora, mixed: str) -> trainer.Loop:
    """The trainer's part of the settings."""
    shared = {name: getattr(how, name) for name in trainer.Loop.__dataclass_fields__ if name != "mixed_precision"}
    return trainer.Loop(**shared, mixed_precision=mixed)


@contextmanager
def _wrapped(pipe: DiffusionPipeline, how: Lora, mixed: str) -> Iterator[dict[str, torch.nn.Parameter]]:
    """The U-Net with a fresh float32 LoRA, its parameters by name; afterwards the U-Net as it was."""
    import torch
    from peft import LoraConfig

    unet, dtype = pipe.unet, pipe.unet.dtype
    frozen = {name: parameter.requires_grad for name, parameter in unet.named_parameters()}
    config = LoraConfig(r=how.rank, lora_alpha=how.alpha or how.rank, init_lora_weights="gaussian", target_modules=list(TARGETS[how.layers]))
    unet.requires_grad_(False).eval()
    if mixed == "no":
        unet.to(torch.float32)  # half precision without autocast would leave gradients at zero
    try:
        with torch.random.fork_rng():
            torch.manual_seed(how.seed)
            unet.add_adapter(config, adapter_name=NAME)
        parameters = {name: parameter for name, parameter in unet.named_parameters() if parameter.requires_grad}
        for parameter in parameters.values():
            parameter.data = parameter.data.float()
        yield parameters
    finally:
        pipe.unload_lora_weights()
        unet.to(dtype)
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(frozen[name])


def _loss(how: Lora, pipe: DiffusionPipeline, posteriors: cache.Latents, captions: list[str],
          size: int) -> Callable[[int, torch.Generator], torch.Tensor]:
    """The recipe's loss as a function of step and generator; captions are embedded once."""
    import torch
    from diffusers import DDPMScheduler

    schedule = DDPMScheduler.from_config(pipe.scheduler.config)
    words = sorted(set(captions))
    texts = conditioning.join(conditioning.encode(pipe, words), conditioning.unconditional(pipe)).to(pipe.unet.dtype)
    caption_row = torch.tensor([words.index(caption) for caption in captions])

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        index = trainer.batch(how.seed, step, how.batch_size, len(captions))
        latents = posteriors.draw(index, generator)
        dropped = torch.rand(index.shape, generator=generator) < how.caption_dropout
        text = texts.rows(torch.where(dropped, len(words), caption_row[index]).tolist()).for_unet(size, size)
        return _denoising_loss(pipe.unet, schedule, latents, text, how.snr_gamma, generator)

    return loss


def _denoising_loss(unet: UNet2DConditionModel, schedule: DDPMScheduler, latents: torch.Tensor, text: dict,
                    gamma: float | None, generator: torch.Generator) -> torch.Tensor:
    """Mean loss at noise and noise levels drawn from the generator."""
    import torch

    noise = torch.randn(latents.shape, generator=generator)
    times = torch.randint(schedule.config.num_train_timesteps, (len(latents),), generator=generator)
    wanted = losses.target(schedule, latents, noise, times).to(unet.device)
    noisy = schedule.add_noise(latents, noise, times).to(unet.device, unet.dtype)
    said = unet(noisy, times.to(unet.device), **text).sample
    return losses.per_sample(said, wanted, losses.weights(schedule, times, gamma).to(unet.device)).mean()


def _show(preview: Callable[[DiffusionPipeline, int], None], pipe: DiffusionPipeline, step: int) -> None:
    """Call the preview without gradients."""
    import torch

    with torch.no_grad():
        preview(pipe, step)


def _file(pipe: DiffusionPipeline, manifest: dict) -> bytes:
    """The adapter's file: keys and LoRA metadata as diffusers writes them, our manifest beside those."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    state = get_peft_model_state_dict(pipe.unet, adapter_name=NAME)
    if manifest["settings"]["layers"] == "attention":  # the older form has no names for convolutions, and loaders drop them in a mixture
        state = convert_state_dict_to_diffusers(state)
    # peft keeps its target modules in a set, whose order differs from process to process
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in pipe.unet.peft_config[NAME].to_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        type(pipe).save_lora_weights(folder, unet_lora_layers=state, unet_lora_adapter_metadata=config)
        with safe_open(Path(folder) / WEIGHTS, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
            metadata = file.metadata()
    return tensor_file(tensors, metadata | {MANIFEST_KEY: json.dumps(manifest, sort_keys=True)})


def _begun(out: Path, consent: Decision) -> dict[str, str]:
    """When this training first began and on which day consent was asked, so that one that goes on after midnight is still the same."""
    path = out / TIMES
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    times = {"started": datetime.now(UTC).isoformat(timespec="seconds"), "consent_at": consent.at}
    atomic_write(path, json.dumps(times) + "\n")
    return times


def _finish(out: Path, file: bytes, manifest: dict, history: list[tuple[int, float, float]], times: dict[str, str]) -> Adapter:
    """Write losses, manifest and times, and the adapter last: where it stands, everything stands."""
    import pandas as pd

    table = pd.DataFrame(history, columns=["step", "loss", "learning_rate"])
    write_csv(out / "losses.csv", table)
    around = {"adapter_sha256": sha256(file), "last_loss": history[-1][1]}
    atomic_write(out / "manifest.json", json.dumps(manifest | around, indent=2, sort_keys=True) + "\n")
    atomic_write(out / TIMES, json.dumps(times | {"ended": datetime.now(UTC).isoformat(timespec="seconds")}) + "\n")
    path = atomic_write(out / WEIGHTS, file)
    (out / trainer.CHECKPOINT).unlink(missing_ok=True)
    return Adapter(path, manifest, table)
