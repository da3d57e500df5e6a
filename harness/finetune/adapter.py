"""What a training leaves behind: safetensors with the training manifest inside, and beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HarnessError, Refused
from harness.images import atomic_write

if TYPE_CHECKING:
    import pandas as pd
    import torch

WEIGHTS = "pytorch_lora_weights.safetensors"
MANIFEST_KEY = "likeness"


@dataclass(frozen=True, eq=False)
class Adapter:
    """A trained adapter."""

    path: Path
    """The safetensors file; plain diffusers loads it with `pipe.load_lora_weights(path)`."""
    manifest: dict
    """What it was made from and how; the same stands in the file's metadata."""
    losses: pd.DataFrame
    """Columns step (from 1), loss, learning_rate."""

    @classmethod
    def open(cls, folder: Path) -> Adapter:
        """Read a finished training's folder; raises HarnessError."""
        from harness.images import read_table

        return cls(folder / WEIGHTS, read_manifest(folder / WEIGHTS), read_table(folder / "losses.csv"))

    def export(self, to: Path) -> Path:
        """Copy the adapter to where others can take it. Raises Refused for one made without consent, for an audit."""
        consent = self.manifest["consent"]
        if not consent["exportable"]:
            raise Refused(f"{self.path}: made for an {consent['purpose']} (consent: {'; '.join(consent['reasons']) or 'given'}); "
                          "it must not be exported.")
        return atomic_write(Path(to), self.path.read_bytes())


def read_manifest(path: Path) -> dict:
    """The training manifest inside an adapter's file; raises HarnessError where there is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {})[MANIFEST_KEY])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise HarnessError(f"{path}: holds no training manifest of this harness ({type(error).__name__}).") from error


def tensor_file(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file whose bytes depend on nothing but its content.

    The library writes metadata in the order of a randomised hash map; here its keys are sorted.
    """
    from safetensors.torch import save

    raw = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    length = int.from_bytes(raw[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items()))} | json.loads(raw[8:8 + length])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data aligned to 8 bytes
    return len(text).to_bytes(8, "little") + text + raw[8 + length:]
