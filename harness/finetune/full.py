"""Full fine-tuning of the U-Net and, on request, of the text encoder: DreamBooth (Ruiz et al. 2023) where class images are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.consent.gate import Decision
from harness.finetune.adapter import MANIFEST_KEY, PIPELINE, Adapter, tensor_chunks
from harness.finetune.fit import fit
from harness.finetune.lora import frozen, text_encoders
from harness.finetune.settings import Training
from harness.finetune.trainer import Attached, Group
from harness.images import ImageSet, atomic_write, pieces

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

FILES = {"unet": "diffusion_pytorch_model.safetensors", "text_encoder": "model.safetensors", "text_encoder_2": "model.safetensors"}
"""The file of each part that can be trained, in a diffusers folder."""
COPIED = (".json", ".txt", ".safetensors")
SCHEDULER = "scheduler/scheduler_config.json"


@dataclass(frozen=True)
class Full(Training):
    """Settings of the recipe; the result is a model of its own, as large as the base model."""

    learning_rate: float = 3e-4
    """The highest; large models want about 5e-6."""
    weight_decay: float = 1e-2
    """AdamW's."""

    schedule_goes_along = True


class FullRecipe:
    """Every weight of the U-Net."""

    name = "full"
    settings = Full
    weights = f"{PIPELINE}/unet/{FILES['unet']}"

    @contextmanager
    def attach(self, how: Full, pipe: DiffusionPipeline, mixed: str) -> Iterator[Attached]:
        """The U-Net (and the text encoders) in float32 with gradients; afterwards with the weights that they came with."""
        import torch

        parts = _parts(how, pipe)
        with frozen(pipe, "no"):  # float32 masters; what is mixed, autocast mixes
            before = {name: {key: value.to("cpu", copy=True) for key, value in part.state_dict().items()} for name, part in parts.items()}
            try:
                for part in parts.values():
                    part.to(torch.float32).requires_grad_(True)
                groups = [Group({f"{name}.{key}": value for key, value in part.named_parameters()}, how.text_rate if name != "unet" else how.learning_rate)
                          for name, part in parts.items()]
                yield Attached(groups, [pipe.unet])
            finally:
                for name, part in parts.items():
                    part.load_state_dict(before[name])

    def export(self, how: Full, pipe: DiffusionPipeline, manifest: dict) -> Mapping[str, Any]:
        """The trained parts' files, in float32, named as in a diffusers folder, and the noise schedule that they were trained for."""
        text = json.dumps(manifest, sort_keys=True)
        return {f"{PIPELINE}/{SCHEDULER}": pipe.scheduler.to_json_string().encode()} | {f"{PIPELINE}/{name}/{FILES[name]}": tensor_chunks(_saved(name, part), {"format": "pt", MANIFEST_KEY: text})
                for name, part in _parts(how, pipe).items()}

    def finish(self, how: Full, pipe: DiffusionPipeline, out: Path) -> None:
        """Copy what was not trained from the base model: with the trained parts it makes a whole diffusers folder."""
        base, trained = pipe.origin.folder, _parts(how, pipe)
        for path in sorted(base.rglob("*")):
            name = path.relative_to(base)
            replaced = name.as_posix() == SCHEDULER or (".safetensors" in path.name and path.parent.name in trained)  # an index of shards, too
            if path.suffix in COPIED and not replaced and path.is_file():
                atomic_write(out / PIPELINE / name, pieces(path))


def full(how: Full, pipe: DiffusionPipeline, images: ImageSet, out: Path, consent: Decision, **rest: Any) -> Adapter:
    """Train the whole U-Net; arguments, files and errors as in `fit.fit`. The result opens with `models.load_pipeline(out / "pipeline")`."""
    return fit(FullRecipe(), how, pipe, images, out, consent, **rest)


def _parts(how: Full, pipe: DiffusionPipeline) -> dict[str, torch.nn.Module]:
    """What is trained, by name."""
    return {"unet": pipe.unet} | (text_encoders(pipe) if how.text_encoder else {})


def _saved(name: str, part: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A part's tensors under the names that its file has: transformers 5.6 dropped a level of its text encoder, files keep it."""
    state = part.state_dict()
    if name == "unet":
        return state
    return {key if key.startswith(("text_model.", "text_projection")) else f"text_model.{key}": value for key, value in state.items()}
