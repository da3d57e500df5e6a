"""LoRA: low-rank updates of the U-Net and, on request, of the text encoder (Hu et al. 2021)."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.consent.gate import Decision
from harness.errors import HarnessError
from harness.finetune.adapter import MANIFEST_KEY, WEIGHTS, Adapter, tensor_file
from harness.finetune.fit import fit
from harness.finetune.settings import Training
from harness.finetune.trainer import Attached, Group
from harness.images import ImageSet

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")
CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "conv_in", "conv_out")
TARGETS: dict[str, Any] = {
    "attention": ATTENTION,
    "attention+convolutions": (*ATTENTION, *CONVOLUTIONS),
    "all": (*ATTENTION, *CONVOLUTIONS, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    "cross-attention": r".*attn2\.to_[kv]",
}
"""Layers by name, as peft takes them. cross-attention is the linear kin of the hypernetworks of 2022, which bent what keys and
values see of the caption with a small network; neither diffusers nor peft keeps that form."""
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")
NAME = "likeness"


@dataclass(frozen=True)
class Lora(Training):
    """Settings of the recipe."""

    rank: int = 8
    """Rank of each update."""
    layers: str = "attention"
    """attention, attention+convolutions (textures and backgrounds of a hand need them in small models), all, or cross-attention (keys
    and values from the caption alone)."""
    alpha: int | None = None
    """The update counts alpha / rank; the rank when not given."""

    def __post_init__(self) -> None:
        """Raise HarnessError for settings that contradict themselves."""
        super().__post_init__()
        if self.rank < 1 or self.layers not in TARGETS or (self.alpha is not None and self.alpha < 1):
            raise HarnessError(f"rank and alpha must be above 0 (not {self.rank}, {self.alpha}), layers one of {', '.join(TARGETS)} (not {self.layers!r}).")


class LoraRecipe:
    """Fresh low-rank matrices on frozen weights."""

    name = "lora"
    weights = WEIGHTS
    settings = Lora

    @contextmanager
    def attach(self, how: Lora, pipe: DiffusionPipeline, mixed: str) -> Iterator[Attached]:
        """The U-Net (and the text encoders) with fresh float32 LoRAs; afterwards as they were."""
        import torch

        parts = {"unet": pipe.unet} | (text_encoders(pipe) if how.text_encoder else {})
        with frozen(pipe, mixed):
            try:
                with torch.random.fork_rng(devices=[]):  # peft draws on the CPU
                    torch.default_generator.manual_seed(how.seed)
                    groups = [Group(_wrap(part, name, how), how.text_rate if name != "unet" else how.learning_rate) for name, part in parts.items()]
                yield Attached(groups, [pipe.unet])
            finally:
                pipe.unload_lora_weights()

    def export(self, how: Lora, pipe: DiffusionPipeline, manifest: dict) -> dict[str, bytes]:
        """The adapter's file: keys and LoRA metadata as diffusers writes them, our manifest beside those."""
        from safetensors import safe_open
        from safetensors.torch import load_file

        parts = {"unet": pipe.unet} | (text_encoders(pipe) if how.text_encoder else {})
        given: dict[str, Any] = {}
        for name, part in parts.items():
            given[f"{name}_lora_layers"], given[f"{name}_lora_adapter_metadata"] = _state(part, how), _config(part, how)
        with tempfile.TemporaryDirectory() as folder:
            type(pipe).save_lora_weights(folder, **given)
            tensors = {_canonical(name): tensor.clone() for name, tensor in load_file(Path(folder) / WEIGHTS).items()}
            with safe_open(Path(folder) / WEIGHTS, "pt") as file:
                metadata = file.metadata()
        return {self.weights: tensor_file(tensors, metadata | {MANIFEST_KEY: json.dumps(manifest, sort_keys=True)})}

    def finish(self, how: Lora, pipe: DiffusionPipeline, out: Path) -> None:
        """An adapter needs nothing beside it."""


def lora(how: Lora, pipe: DiffusionPipeline, images: ImageSet, out: Path, consent: Decision, **rest: Any) -> Adapter:
    """Train a LoRA; arguments, files and errors as in `fit.fit`."""
    return fit(LoraRecipe(), how, pipe, images, out, consent, **rest)


def text_encoders(pipe: DiffusionPipeline) -> dict[str, torch.nn.Module]:
    """The text encoders by name: one, with SDXL two."""
    return {name: part for name in ("text_encoder", "text_encoder_2") if (part := getattr(pipe, name, None)) is not None}


@contextmanager
def frozen(pipe: DiffusionPipeline, mixed: str) -> Iterator[None]:
    """No weight asks for a gradient, and without mixed precision all are float32, the VAE too, so that previews can be drawn; afterwards as before."""
    import torch

    parts = [pipe.unet, pipe.vae, *text_encoders(pipe).values()]
    before = [(part, part.dtype, part.training, {name: p.requires_grad for name, p in part.named_parameters()}) for part in parts]
    for part in parts:
        part.requires_grad_(False).eval()
        if mixed == "no":
            part.to(torch.float32)  # half precision without autocast would leave gradients at zero
    try:
        yield
    finally:
        for part, dtype, training, asked in before:
            part.to(dtype).train(training)
            for name, parameter in part.named_parameters():
                parameter.requires_grad_(asked.get(name, False))


def _wrap(part: torch.nn.Module, name: str, how: Lora) -> dict[str, torch.nn.Parameter]:
    """Put a LoRA on; its parameters by name, in float32."""
    from peft import LoraConfig

    targets = TARGETS[how.layers] if name == "unet" else TEXT_TARGETS
    config = LoraConfig(r=how.rank, lora_alpha=how.alpha or how.rank, init_lora_weights="gaussian",
                        target_modules=targets if isinstance(targets, str) else list(targets))
    part.add_adapter(config, adapter_name=NAME)
    parameters = {f"{name}.{key}": parameter for key, parameter in part.named_parameters() if parameter.requires_grad}
    for parameter in parameters.values():
        parameter.data = parameter.data.float()
    return parameters


def _state(part: torch.nn.Module, how: Lora) -> dict[str, torch.Tensor]:
    """The LoRA's tensors, alpha / rank multiplied in, for not every loader reads it; in the older form of names where that has names for all of them."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict

    scale = (how.alpha or how.rank) / how.rank
    state = {name: tensor * scale if "lora_B" in name else tensor for name, tensor in get_peft_model_state_dict(part, adapter_name=NAME).items()}
    # the older form has no names for convolutions, and loaders drop them in a mixture
    return convert_state_dict_to_diffusers(state) if how.layers in ("attention", "cross-attention") else state


def _config(part: torch.nn.Module, how: Lora) -> dict:
    """peft's settings without a path of this machine; it keeps the target modules in a set, whose order differs from process to process."""
    settings = {key: sorted(value) if isinstance(value, set) else value for key, value in part.peft_config[NAME].to_dict().items()}
    return settings | {"lora_alpha": how.rank, "base_model_name_or_path": None}


def _canonical(name: str) -> str:
    """The name that every loader knows: transformers 5.6 dropped a level of its CLIP text encoder, files keep it."""
    first, rest = name.split(".", 1)
    return f"{first}.text_model.{rest}" if first.startswith("text_encoder") and not rest.startswith("text_model.") else name
