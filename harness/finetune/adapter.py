"""What a training leaves behind: safetensors with the training manifest inside, and beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HarnessError, Refused
from harness.images import atomic_write, pieces

if TYPE_CHECKING:
    import pandas as pd
    import torch

WEIGHTS = "pytorch_lora_weights.safetensors"
PIPELINE = "pipeline"
"""folder of a training that leaves a whole model"""
WORDS = "learned_embeds.safetensors"
KNOWN = (WEIGHTS, f"{PIPELINE}/unet/diffusion_pytorch_model.safetensors", WORDS)
"""where the manifest of a finished training may stand, by recipe; the first that is there counts"""
MANIFEST_KEY = "likeness"


@dataclass(frozen=True, eq=False)
class Adapter:
    """What a training made: an adapter, learned words, or a whole model."""

    path: Path
    """The safetensors file with the manifest; an adapter's loads in plain diffusers with `pipe.load_lora_weights(path)`."""
    manifest: dict
    """What it was made from and how; the same stands in the file's metadata."""
    losses: pd.DataFrame
    """Columns step (from 1), loss, learning_rate."""

    @classmethod
    def open(cls, folder: Path) -> Adapter:
        """Read a finished training's folder; raises HarnessError."""
        from harness.images import read_table

        path = next((Path(folder) / name for name in KNOWN if (Path(folder) / name).is_file()), None)
        if path is None:
            raise HarnessError(f"{folder}: no finished training (none of {', '.join(KNOWN)}).")
        manifest, beside = read_manifest(path), json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8"))
        if manifest.get("step") != beside.get("step"):
            raise HarnessError(f"{folder}: manifest.json is of step {beside.get('step')}, the weights are of step {manifest.get('step')}; another checkpoint "
                               "was being put in place when it was interrupted: choose.take(folder, step) ends that.")
        return cls(path, manifest, read_table(Path(folder) / "losses.csv"))

    @property
    def pipeline(self) -> Path | None:
        """The diffusers folder of a training that left a whole model, else None."""
        return self.path.parent.parent if self.path.parent.parent.name == PIPELINE else None

    def export(self, to: Path) -> Path:
        """Copy the file (with learned words beside it; of a whole model, its folder) to where others can take it.

        The decision is that of the training; what was withdrawn since, `harness consent withdraw` finds. Raises Refused for one made without consent, for an audit."""
        consent = self.manifest["consent"]
        if not consent["exportable"]:
            raise Refused(f"{self.path}: made for an {consent['purpose']} (consent: {'; '.join(consent['reasons']) or 'given'}); "
                          "it must not be exported.")
        if self.pipeline:
            for path in sorted(path for path in self.pipeline.rglob("*") if path.is_file()):
                atomic_write(Path(to) / path.relative_to(self.pipeline), pieces(path))
            return Path(to)
        words, beside = self.path.with_name(WORDS), Path(to).with_name(WORDS)
        if words.is_file() and words != self.path:
            if beside.is_file() and beside.read_bytes() != words.read_bytes():
                raise HarnessError(f"{beside}: other learned words lie there already; export into a folder of its own.")
            atomic_write(beside, words.read_bytes())
        return atomic_write(Path(to), self.path.read_bytes())


def read_manifest(path: Path) -> dict:
    """The training manifest inside an adapter's file; raises HarnessError where there is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {})[MANIFEST_KEY])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise HarnessError(f"{path}: holds no training manifest of this harness ({type(error).__name__}).") from error


# The format's names; those with wider items first, as the library orders them, so that all data stays aligned.
_DTYPES = {"float64": "F64", "int64": "I64", "float32": "F32", "int32": "I32", "float16": "F16", "bfloat16": "BF16", "int8": "I8", "uint8": "U8", "bool": "BOOL"}


def tensor_chunks(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> Iterator[bytes]:
    """A safetensors file piece by piece, whose bytes depend on nothing but its content.

    The library writes metadata in the order of a randomised hash map and holds the whole file in memory; here keys are
    sorted and one tensor is copied at a time, so that a checkpoint of several gigabytes costs none.
    """
    import torch

    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, dict] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name in names:
        start, end = end, end + tensors[name].numel() * tensors[name].element_size()
        dtype = _DTYPES[str(tensors[name].dtype).removeprefix("torch.")]
        header[name] = {"dtype": dtype, "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data aligned to 8 bytes
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        yield tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def tensor_file(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """`tensor_chunks` in one piece, for what is small."""
    return b"".join(tensor_chunks(tensors, metadata))
