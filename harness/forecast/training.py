"""Bytes and operations of a training, counted from the model's configuration: any recipe, batch, size and precision.

As in ``flops`` nothing is loaded: the model is built on the meta device and made ready as its recipe does, and one step
is followed from the first activation to the last gradient, gradient checkpointing and mixed precision included.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.forecast import flops

TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")
BLOCKWISE = 4096  # elements: smaller tensors keep 32-bit moments under an 8-bit optimiser
VERSION = 1


@dataclass(frozen=True)
class Case:
    """What decides a step."""

    full: bool = False
    """the whole U-Net is trained"""
    lora: tuple[str, ...] | str = ()
    """layers of the U-Net that wear a LoRA, as peft takes them"""
    rank: int = 8
    """its rank"""
    text: bool = False
    """the text encoders are trained too, in the same way as the U-Net"""
    words: int = 0
    """rows of the text encoders' embedding tables that are trained"""
    pixels: int = 0
    """side of the square picture; 0 is the model's own"""
    batch: int = 1
    """pictures that pass through the U-Net at once"""
    again: bool = False
    """gradients of an earlier pass are there already (accumulation)"""
    checkpointing: bool = False
    """activations are computed again in the backward pass"""
    mixed: bool = False
    """autocast to bfloat16"""
    half: bool = False
    """what is not trained lies in 16 bits"""
    drawn: int = 0
    """class images that are drawn at once"""


@dataclass(frozen=True)
class Needs:
    """What a case comes to. Operations are those of one picture."""

    pixels: int
    """side of the picture"""
    forward: float
    """operations of one U-Net evaluation"""
    step: float
    """operations of a training step"""
    encode: float
    """operations of encoding a picture"""
    text: float
    """operations of the text encoders for one prompt"""
    weight_bytes: int
    """the pipeline as it lies while it is trained, what is trained in float32"""
    trained: int
    """elements of what is trained"""
    trained_small: int
    """those of them in tensors of fewer than BLOCKWISE"""
    step_bytes: int
    """most that is alive in a step besides: activations and gradients"""
    encode_bytes: int
    """most that is alive while a picture is encoded, in float32"""
    draw_bytes: int
    """most that is alive in an evaluation while class images are drawn"""


def needs(folder: Path, case: Case) -> Needs:
    """The needs of a case with the model whose configuration lies in ``folder``; kept once they are counted (some seconds).

    Imports torch and diffusers. Raises HarnessError for a model that cannot be counted.
    """
    from harness.images import atomic_write

    kept = flops.kept_in() / f"{flops.key(folder, 'training', VERSION, asdict(case))}.json"
    try:
        return Needs(**json.loads(kept.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # none, or a broken one
        found = measure(folder, case)
    try:
        atomic_write(kept, json.dumps(asdict(found)) + "\n")
    except OSError:  # a home that cannot be written to: it is counted again next time
        pass
    return found


def own_pixels(folder: Path) -> int:
    """Side of the pictures that the model in ``folder`` was made for."""
    unet, vae = (json.loads((folder / part / "config.json").read_text(encoding="utf-8")) for part in ("unet", "vae"))
    return unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)


def measure(folder: Path, case: Case) -> Needs:
    """Count a case; see ``needs``."""
    done = _worked(folder, Case(case.full, case.lora, case.rank, case.text, case.words, case.pixels))
    unet, vae, texts = flops.built(folder)
    side = done["pixels"] // 2 ** (len(vae.config.block_out_channels) - 1)
    drawing = flops.alive(lambda: flops.evaluate(unet, texts, side, 2 * case.drawn), unet) if case.drawn else 0
    sizes = [parameter.numel() for parameter in _prepare(unet, texts, case)]
    _halve(case, unet, vae.requires_grad_(False), *texts)
    weights = sum(parameter.numel() * parameter.element_size() for model in (unet, vae, *texts) for parameter in model.parameters())
    again = {"step": done["step"] + done["forward"] * case.checkpointing}
    return Needs(**{**done, **again}, weight_bytes=weights, trained=sum(sizes), trained_small=sum(size for size in sizes if size < BLOCKWISE),
                 step_bytes=_step_bytes(unet, texts, side, case), draw_bytes=drawing // (1 + case.half))


@cache
def _worked(folder: Path, case: Case) -> dict[str, Any]:
    """Operations, and what does not depend on batch and precision: pixels, encoding."""
    from harness import guard

    guard.install()
    unet, vae, texts = flops.built(folder)
    pixels = case.pixels or own_pixels(folder)
    side, tokens = pixels // 2 ** (len(vae.config.block_out_channels) - 1), flops.empty(flops.length(texts)).long()
    calls = {"forward": lambda: flops.evaluate(unet, texts, side), "text": lambda: [each(tokens) for each in texts],
             "encode": lambda: vae.encode(flops.empty(3, pixels, pixels))}
    worked = {name: flops.operations(call) for name, call in calls.items()}
    encoding = flops.alive(calls["encode"], vae)
    _prepare(unet, texts, case)
    step = flops.operations(lambda: _forward(unet, texts, side, 1, case).sum().backward(), grad=True)
    return {"pixels": pixels, "step": step, "encode_bytes": encoding, **worked}


def _halve(case: Case, *models: Any) -> None:
    """What is not trained in 16 bits."""
    for model in models if case.half else ():
        for parameter in model.parameters():
            parameter.data = parameter.data if parameter.requires_grad else parameter.data.bfloat16()


def _prepare(unet: Any, texts: Sequence[Any], case: Case) -> list[Any]:
    """The models made ready as the recipes do it; gives the parameters that are trained."""
    for model in (unet, *texts):
        model.requires_grad_(False)
    _adapt(unet, case.full, case.lora, case.rank)
    for text in texts:
        if case.text:
            _adapt(text, case.full, case.lora and TEXT_TARGETS, case.rank)
        if case.words:
            _add_words(text, case.words)
    return [parameter for model in (unet, *texts) for parameter in model.parameters() if parameter.requires_grad]


def _add_words(text: Any, rows: int) -> None:
    """New rows beside an embedding table, the only ones of it that are trained."""
    import torch

    table = text.get_input_embeddings()
    table.rows = torch.nn.Parameter(torch.empty(rows, table.weight.shape[1], device="meta"))
    table.register_forward_hook(lambda module, _, found: found + module.rows.sum(0))


def _adapt(model: Any, full: bool, targets: Sequence[str] | str, rank: int) -> None:
    """Let a model be trained as a whole, or through a LoRA."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    if full:
        model.requires_grad_(True)
    elif targets:
        with torch.device("meta"):
            inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets if isinstance(targets, str) else list(targets)), model)


def _step_bytes(unet: Any, texts: Sequence[Any], side: int, case: Case) -> int:
    """Most that is alive in a step, the weights apart."""
    import torch

    from harness.forecast.live import Live, as_computed

    if case.checkpointing:
        unet.enable_gradient_checkpointing()
    with as_computed(case.mixed) as casts, torch.enable_grad(), Live((unet, *texts)) as live:
        for _ in range(1 + case.again):
            loss = _forward(unet, texts, side, case.batch, case).float().sum()
            casts.clear()
            loss.backward()
            del loss
    return live.peak


def _forward(unet: Any, texts: Sequence[Any], side: int, batch: int, case: Case) -> Any:
    """One evaluation of the U-Net, behind the text encoders where these are trained."""
    words = _words(texts, batch) if case.text or case.words else None
    return flops.evaluate(unet, list(texts), side, batch, words)


def _words(texts: Sequence[Any], batch: int) -> Any:
    """What the text encoders say of a batch of prompts, as the U-Net takes it."""
    import torch

    tokens = flops.empty(flops.length(list(texts)), batch=batch).long()
    return torch.cat([text(tokens, output_hidden_states=True).hidden_states[-1] for text in texts], -1)
