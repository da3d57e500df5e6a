"""An adapter for the time of a block: loaded whole, or refused, and taken off again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HarnessError
from harness.finetune import inversion
from harness.finetune.adapter import PIPELINE, WEIGHTS, WORDS
from harness.images import sha256
from harness.models import PICKLES

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def adapter_file(adapter: Path) -> Path:
    """The safetensors file meant by a path to it or to its folder (the LoRA's, where learned words stand beside it); raises HarnessError."""
    path = Path(adapter)
    if (path / PIPELINE).is_dir():
        raise HarnessError(f"{path}: a whole model, not an adapter; open it with load_pipeline({str(path / PIPELINE)!r}).")
    if path.is_dir():
        path = path / (WEIGHTS if (path / WEIGHTS).is_file() or not (path / WORDS).is_file() else WORDS)
    if path.suffix in PICKLES:
        raise HarnessError(f"{path}: a pickle, which can run code when it is read; convert the adapter to safetensors.")
    if not path.is_file():
        raise HarnessError(f"{path}: no such adapter.")
    return path


def adapter_hash(path: Path) -> str:
    """SHA-256 of an adapter's file; with learned words beside it, of both files' hashes."""
    words = path.with_name(WORDS)
    return sha256(path) if path == words or not words.is_file() else sha256(f"{sha256(words)} {sha256(path)}".encode())


@contextmanager
def wearing(pipe: DiffusionPipeline, adapter: Path | None) -> Iterator[None]:
    """The pipeline with a LoRA, learned words or both on; every tensor of the file must have found its place. Without one, nothing happens."""
    if adapter is None:
        yield
        return
    if pipe.get_active_adapters():
        raise HarnessError("the pipeline already wears an adapter; call pipe.unload_lora_weights() first.")
    path = adapter_file(adapter)
    words = path.with_name(WORDS)
    with inversion.wearing(pipe, words) if words.is_file() else nullcontext():
        try:
            if path != words:
                _put_on(pipe, path)
            yield
        finally:
            pipe.unload_lora_weights()


def _put_on(pipe: DiffusionPipeline, path: Path) -> None:
    """Load, and compare what arrived with what the file holds: diffusers itself only warns."""
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            held = len([key for key in file.keys() if not key.endswith("alpha")])
        pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name="sample")
        arrived = sum("lora_" in name for part in _parts(pipe) for name, _ in part.named_parameters())
    except Exception as error:  # the loaders raise whatever they meet: key, shape, value and type errors
        raise HarnessError(f"{path}: does not fit a {type(pipe).__name__} ({str(error).strip().splitlines()[0]}).") from error
    if held == 0 or arrived != held:
        raise HarnessError(f"{path}: made for another kind of model; {arrived} of its {held} tensors fit this one.")


def in_memory(pipe: DiffusionPipeline) -> tuple[str, str]:
    """(name, hash of the weights) of what a pipeline wears already, or is being taught, as in a preview; two times '' if nothing."""
    names = getattr(pipe, "in_training", "") or ",".join(pipe.get_active_adapters())
    if not names:
        return "", ""
    weights = b"".join(parameter.detach().float().cpu().numpy().tobytes() for part in _parts(pipe)
                       for name, parameter in part.named_parameters() if "lora_" in name or parameter.requires_grad)
    return f"in memory: {names}", sha256(weights)


def _parts(pipe: DiffusionPipeline) -> list:
    """The components that can wear a LoRA."""
    return [getattr(pipe, name) for name in ("unet", "text_encoder", "text_encoder_2") if getattr(pipe, name, None) is not None]
