"""How many operations and how much memory a model needs for one sample, counted from its configuration without its weights.

The model is built on torch's meta device, where tensors have shapes and no contents, and run once under torch's
``FlopCounterMode``. Counted are matrix products and convolutions, a multiply-add as two operations; at Stable Diffusion
1.5 and 512 pixels that gives 0.803 T for a U-Net forward, 2.407 T for a full training step, 1.117 T to encode and
2.515 T to decode a picture. Counting takes some seconds of imports, so it is done in a process of its own and kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness import provenance
from harness.errors import HarnessError

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
VERSION = 1  # of the way of counting; a change makes every kept count stale
PATIENCE = 300  # seconds
RANK = 8  # of the LoRA that is counted
BATCHES = (1, 8)  # a single picture's peak is where gradients meet, a batch's where activations do


@dataclass(frozen=True)
class Counts:
    """One model: operations and bytes for one sample. Bytes are those of float32."""

    pixels: int
    """side of the square picture"""
    forward: float
    """operations of one U-Net evaluation"""
    step: float
    """operations of the U-Net forward and backward in a training step, without encoding"""
    encode: float
    """operations of the autoencoder's encoder for one picture"""
    decode: float
    """operations of its decoder"""
    text: float
    """operations of all text encoders for one prompt"""
    weight_bytes: int
    """all weights of the pipeline"""
    trained_bytes: int
    """the weights that training changes"""
    forward_bytes: int
    """most that is alive at once during a U-Net evaluation, weights apart"""
    step_bytes: tuple[int, ...]
    """the same during a training step, gradients included, for each batch of BATCHES"""
    encode_bytes: int
    """the same during encoding"""
    decode_bytes: int
    """the same during decoding"""

    def step_peak(self, batch: float) -> float:
        """Bytes alive in a training step of a batch: those of one picture at least, else a share of the large batch's."""
        return max(self.step_bytes[0], self.step_bytes[1] * batch / BATCHES[1])


def counts(model: str, pixels: int = 0, trains: str = "lora", start: bool = True) -> Counts | None:
    """The counts of a model by its name: kept ones at once, else counted in a process of its own.

    ``pixels`` 0 is the model's own size; ``trains`` is lora (on the attention's projections) or full. With ``start``
    False nothing is started, and None says that no count is kept. Raises HarnessError when the model cannot be counted.
    """
    folder = configuration(model)
    kept = kept_in() / f"{key(folder, pixels, trains)}.json"
    try:
        return _read(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):  # none, or a broken one: it is counted again
        return _count_apart(folder, kept, [str(pixels), trains]) if start else None


def configuration(model: str) -> Path:
    """The folder with a model's configuration: the miniature's, a folder, or what the hub's cache holds; nothing is fetched.

    Raises HarnessError where there is none.
    """
    try:
        folder = provenance.PACKAGE / "world" / "weights" / "pipeline" if model == "miniature" else Path(model).expanduser()
        if not folder.is_dir() and model.count("/") == 1:
            folder = _cached_by_hub(model) or folder
        if (folder / "unet" / "config.json").is_file():
            return folder
    except (OSError, RuntimeError, ValueError):  # too long a name, an unknown ~user, a name that the hub does not allow
        pass
    raise HarnessError(f"{model[:80]}: its configuration is not on this machine, so its work cannot be counted before the start")


def _cached_by_hub(model: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "unet/config.json")
    return Path(found).parents[1] if isinstance(found, str) else None


def kept_in() -> Path:
    """The folder of kept counts."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "likeness" / "flops"


def key(folder: Path, *settings: Any) -> str:
    """A hash of everything that decides the counts."""
    files = [folder / part / "config.json" for part in PARTS if (folder / part / "config.json").is_file()]
    versions = {name: provenance.versions_that_matter().get(name) for name in ("torch", "diffusers", "transformers", "peft")}
    facts = [VERSION, settings, versions, [[file.parent.name, provenance.sha256(file)] for file in files]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def _count_apart(folder: Path, kept: Path, settings: list[str]) -> Counts:
    """Count in a child, so that the launcher of a run need not hold torch beside the kernel."""
    from harness.images import atomic_write

    print("counting the model's operations, once: some seconds", flush=True)
    command = [sys.executable, "-m", "harness.forecast.flops", str(folder), *settings]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HarnessError(f"{folder}: its operations could not be counted: {error}") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise HarnessError(f"{folder}: its operations could not be counted: {last[:300]}")
    text = done.stdout.strip().splitlines()[-1]
    try:
        atomic_write(kept, text + "\n")
    except OSError:  # a home that cannot be written to: it is counted again next time
        pass
    return _read(text)


def _read(text: str) -> Counts:
    found = Counts(**json.loads(text))
    return replace(found, step_bytes=tuple(found.step_bytes))


# --- counting itself, in the child -------------------------------------------------------------------------------------


def measure(folder: Path, pixels: int = 0, trains: str = "lora") -> Counts:
    """Count a pipeline of the Stable Diffusion families by the configuration in ``folder``; imports torch and diffusers.

    ``trains`` full, or lora: one of rank RANK on the attention. Its backward pass goes through the whole U-Net and only
    the frozen weights' gradients are spared, so that another rank changes little (0.05 % of a step for each, at SD 1.5).
    """
    from harness import guard

    guard.install()
    unet, vae, texts = built(folder)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    pixels = pixels or unet.config.sample_size * factor
    side = pixels // factor
    weights = sum(map(_bytes, (unet, vae, *texts)))
    picture, latent, tokens = empty(3, pixels, pixels), empty(vae.config.latent_channels, side, side), empty(length(texts)).long()
    calls = {"forward": lambda: evaluate(unet, texts, side), "encode": lambda: vae.encode(picture), "decode": lambda: vae.decode(latent)}
    worked = {name: operations(call) for name, call in calls.items()} | {"text": operations(lambda: [each(tokens) for each in texts])}
    held = {f"{name}_bytes": alive(call, unet, vae) for name, call in calls.items()}
    _prepare(unet, trains)
    steps = [lambda batch=batch: evaluate(unet, texts, side, batch).sum().backward() for batch in BATCHES]
    step, steps_held = operations(steps[0], grad=True), tuple(alive(step, unet, grad=True) for step in steps)
    trained = sum(p.numel() * 4 for p in unet.parameters() if p.requires_grad)
    return Counts(pixels, step=step, weight_bytes=weights, trained_bytes=trained, step_bytes=steps_held, **worked, **held)


def built(folder: Path) -> tuple[Any, Any, list[Any]]:
    """U-Net, autoencoder and text encoders on the meta device, by the configuration in ``folder``."""
    import torch
    import transformers
    from diffusers import AutoencoderKL, UNet2DConditionModel

    read = {part: json.loads((folder / part / "config.json").read_text(encoding="utf-8")) for part in PARTS if (folder / part / "config.json").is_file()}
    with torch.device("meta"):
        texts = [getattr(transformers, read[part]["architectures"][0])(transformers.CLIPTextConfig.from_dict(read[part])) for part in PARTS[2:] if part in read]
        return UNet2DConditionModel.from_config(read["unet"]), AutoencoderKL.from_config(read["vae"]), texts


def empty(*shape: int, batch: int = 1) -> Any:
    """A tensor (batch, *shape) on the meta device."""
    import torch

    return torch.empty(batch, *shape, device="meta")


def length(texts: list[Any]) -> int:
    """Tokens of a prompt."""
    return texts[0].config.max_position_embeddings


def evaluate(unet: Any, texts: list[Any], side: int, batch: int = 1, words: Any = None) -> Any:
    """One evaluation of the U-Net on latents of ``side``, with what SDXL's wants besides; ``words`` are embedded prompts."""
    more = {}
    if unet.config.addition_embed_type == "text_time":
        pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        more = {"added_cond_kwargs": {"text_embeds": empty(pooled, batch=batch), "time_ids": empty(6, batch=batch)}}
    words = empty(length(texts), unet.config.cross_attention_dim, batch=batch).to(unet.dtype) if words is None else words
    noisy = empty(unet.config.in_channels, side, side, batch=batch).to(unet.dtype)
    return unet(noisy, empty(batch=batch), words, **more).sample


def _prepare(unet: Any, trains: str) -> None:
    """Let the U-Net be trained as a whole, or through a LoRA alone."""
    if trains == "full":
        return
    import torch
    from peft import LoraConfig

    unet.requires_grad_(False)
    with torch.device(unet.device):
        unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["to_k", "to_q", "to_v", "to_out.0"]))


def operations(call: Callable[[], Any], grad: bool = False) -> float:
    """Floating-point operations of a call, a multiply-add as two."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.set_grad_enabled(grad), FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def alive(call: Callable[[], Any], *models: Any, grad: bool = False) -> int:
    """The most bytes that are alive in a call, those of the models' weights apart."""
    import torch

    from harness.forecast.live import Live, as_computed

    for model in models:
        model.zero_grad(set_to_none=True)
    with torch.set_grad_enabled(grad), as_computed(), Live(models) as live:
        call()
    return live.peak


def _bytes(model: Any) -> int:
    return sum(p.numel() * 4 for p in model.parameters())


def main() -> None:
    """Print the counts of the folder named on the command line as one line of JSON."""
    parser = argparse.ArgumentParser(prog="harness.forecast.flops", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("pixels", type=int)
    parser.add_argument("trains", choices=("lora", "full"))
    found = parser.parse_args()
    print(json.dumps(asdict(measure(found.folder, found.pixels, found.trains))))


if __name__ == "__main__":
    main()
