"""Models by name: the embedded miniature, a folder, or a hub id; checked before they are trusted.

Only safetensors are read (a pickle can run code). Nothing is downloaded unless a hub id was asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from harness import guard
from harness.errors import HarnessError
from harness.images import sha256

guard.install()  # must come before anything below imports torchvision

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

MINIATURE = Path(__file__).parent / "world" / "weights"
"""The embedded models: `pipeline/` for diffusers, `clip/` for open_clip."""
FAMILIES = {"StableDiffusionPipeline": "sd", "StableDiffusionXLPipeline": "sdxl"}  # trained and sampled by one code
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_HASHES: dict[tuple, str] = {}


@dataclass(frozen=True)
class Origin:
    """Where a pipeline came from; hangs on it as `pipe.origin`."""
    name: str
    """miniature, a hub id, or the name of a folder (without its path: names travel with every image)."""
    folder: Path
    """Where the files lie."""
    family: str
    """sd or sdxl."""
    safety_checker: str
    """Class of the checker that the model brought and that was taken out of the call path, or ''."""


def device() -> str:
    """The best device here: cuda, mps or cpu."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load_pipeline(model: str = "miniature", device: str | None = None, dtype: torch.dtype | None = None) -> DiffusionPipeline:
    """A text-to-image pipeline on `device`, in `dtype` (float32; on CUDA bfloat16, or float16 where that is all).

    `model`: "miniature", a diffusers folder, or a hub id "owner/name". A safety checker is not called, because it
    blackens images without a word; that there was one stands in `pipe.origin`. Raises HarnessError.
    """
    import diffusers

    _quiet()
    folder = _pipeline_folder(str(model))
    index = check_pipeline(folder)
    target = device or globals()["device"]()
    given = {"safety_checker": None, "requires_safety_checker": False} if "safety_checker" in index else {}
    try:
        kind = getattr(diffusers, index["_class_name"])
        pipe = kind.from_pretrained(folder, dtype=dtype or _dtype(target), use_safetensors=True, local_files_only=True, **given)
    except (OSError, ValueError, TypeError, RuntimeError, KeyError, AttributeError, ImportError) as error:
        raise HarnessError(f"{model}: diffusers cannot load {folder}: {_first_line(error)}") from error
    pipe.set_progress_bar_config(disable=True)
    checker = (index.get("safety_checker") or [None, None])[1] or ""
    name = folder.resolve().name if Path(model).expanduser().is_dir() else str(model)
    pipe.origin = Origin(name, folder, FAMILIES[index["_class_name"]], checker)
    return pipe.to(target)


def check_pipeline(folder: Path) -> dict:
    """The model_index.json of a diffusers folder that can be used; raises HarnessError saying what is wrong with it."""
    if not (folder / "model_index.json").is_file():
        raise HarnessError(f"{folder}: not a diffusers folder (no model_index.json); single-file checkpoints have to be "
                           "converted with diffusers first.")
    index = _json(folder / "model_index.json")
    family = index.get("_class_name")
    if family not in FAMILIES:
        raise HarnessError(f"{folder}: a {family} is of a family unknown here; known are {', '.join(FAMILIES)}.")
    for name, value in index.items():
        wanted = isinstance(value, list) and value[0] is not None and name != "safety_checker"
        if wanted and (name in ("unet", "vae") or name.startswith("text_encoder")):
            _check_weights(folder / name)
    return index


def _check_weights(folder: Path) -> None:
    """A component needs its weights as safetensors; pickles and Git LFS pointers are named as such."""
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        pickles = [p.name for p in folder.glob("*") if p.suffix in PICKLES]
        if pickles:
            raise HarnessError(f"{folder}: the weights are a pickle ({pickles[0]}), which can run code when it is read; "
                               "convert them to safetensors.")
        raise HarnessError(f"{folder}: no weights (*.safetensors); the download or copy of the model is incomplete.")
    for path in found:
        with open(path, "rb") as file:
            if file.read(20).startswith(b"version https://git"):
                raise HarnessError(f"{path}: a Git LFS pointer instead of weights; run `git lfs pull` in that folder.")


def _pipeline_folder(model: str) -> Path:
    """The folder behind a name; a hub id is downloaded (safetensors only)."""
    if model == "miniature":
        return _present(MINIATURE / "pipeline", "the embedded miniature model")
    if Path(model).expanduser().is_dir():
        return Path(model).expanduser()
    if Path(model).suffix in (*PICKLES, ".safetensors"):
        raise HarnessError(f"{model}: a single file; give the diffusers folder (one with a model_index.json).")
    if not re.fullmatch(r"[\w-]+/[\w.-]+", model) or model.startswith("."):
        raise HarnessError(f"{model}: neither 'miniature', nor a folder that is there, nor a hub id like owner/name.")
    from diffusers import DiffusionPipeline

    return Path(_from_hub(model, lambda: DiffusionPipeline.download(model, use_safetensors=True, safety_checker=None)))


def _present(folder: Path, what: str) -> Path:
    """The folder, or the sentence that it is missing."""
    if not folder.is_dir():
        raise HarnessError(f"{what} is not installed ({folder} is missing); reinstall the package, or build it with "
                           "`harness world build`.")
    return folder


def _from_hub(name: str, download: Callable[[], Any]) -> Any:
    """Run a download; whatever goes wrong becomes one sentence that says what to do."""
    from huggingface_hub import errors, logging

    logging.set_verbosity_error()
    try:
        return download()
    except errors.GatedRepoError as error:
        raise HarnessError(f"{name}: its makers ask you to accept a licence first; do so on the model's page, log in "
                           "with `hf auth login`, then run this again (no token is stored here).") from error
    except errors.RepositoryNotFoundError as error:
        raise HarnessError(f"{name}: the hub has no such model, or it is private; check the spelling.") from error
    except Exception as error:  # the hub's client raises a dozen kinds for "no network"
        raise HarnessError(f"{name}: cannot be fetched from the hub and is not in the local cache ({type(error).__name__}); "
                           "go online, or give a folder that holds the model.") from error


def _dtype(target: str) -> torch.dtype:
    """float32 everywhere but on CUDA."""
    import torch

    if not target.startswith("cuda"):
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def _quiet() -> None:
    """No progress widgets and no advice from the libraries; the harness prints its own."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def _json(path: Path) -> dict:
    """A JSON file, or the sentence that it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HarnessError(f"{path}: not readable as JSON ({_first_line(error)}).") from error


def _first_line(error: BaseException) -> str:
    """The first line of an error's text, or its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def weights_hash(folder_or_name: str | Path) -> str:
    """SHA-256 over all weights and configuration files of a model: names and bytes, in order of name.

    Takes "miniature", a folder, one weights file, or a hub id. Kept in memory by path, size and time of change.
    """
    path = Path(folder_or_name)
    root = path if path.exists() else _pipeline_folder(str(folder_or_name))
    files = [root] if root.is_file() else sorted(
        p for p in root.rglob("*") if p.suffix in (".safetensors", ".json", ".txt") and "/." not in f"/{p.relative_to(root).as_posix()}")
    key = tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files)
    if not key:
        raise HarnessError(f"{root}: no weights and no configuration to take a hash of.")
    if key not in _HASHES:
        lines = (f"{p.relative_to(root).as_posix() if p != root else 'weights'} {sha256(p)}" for p in files)
        _HASHES[key] = sha256("\n".join(lines).encode())
    return _HASHES[key]


@dataclass(frozen=True, eq=False)
class Clip:
    """An open_clip model with its own preprocessing; rows are unit vectors of float32."""

    name: str
    """What was asked for."""
    sha256: str
    """Hash of weights and configuration."""
    dim: int
    """Length of an embedding."""
    logit_scale: float
    """exp of the learned temperature: softmax(logit_scale * cosine) are the model's probabilities."""
    model: Any = field(repr=False)
    preprocess: Callable = field(repr=False)
    tokenizer: Callable = field(repr=False)
    device: str = "cpu"
    """Where the model lies. (preprocess: PIL -> tensor (3, h, w); tokenizer: list of str -> int64 (n, context).)"""

    def encode_images(self, images: Sequence[Image.Image] | np.ndarray, batch_size: int = 64) -> np.ndarray:
        """float32 (n, dim), unit rows, of PIL images or uint8 (n, h, w, 3)."""
        import torch

        def encode(chunk: Sequence) -> torch.Tensor:
            pictures = [Image.fromarray(i) if isinstance(i, np.ndarray) else i.convert("RGB") for i in chunk]
            return self.model.encode_image(torch.stack([self.preprocess(p) for p in pictures]).to(self.device))

        return self._encode(encode, images, batch_size)

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> np.ndarray:
        """float32 (n, dim), unit rows. Words beyond the model's context are cut off by its tokenizer."""
        return self._encode(lambda chunk: self.model.encode_text(self.tokenizer(list(chunk)).to(self.device)), texts, batch_size)

    def _encode(self, encode: Callable, items: Sequence, batch_size: int) -> np.ndarray:
        """Batches through the model, to unit rows; raises HarnessError on NaN."""
        import torch

        rows = [np.zeros((0, self.dim), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(items), batch_size):
                raw = encode(items[start:start + batch_size]).float()
                rows.append(torch.nn.functional.normalize(raw, dim=-1).cpu().numpy())
        vectors = np.concatenate(rows)
        if not np.isfinite(vectors).all():
            raise HarnessError(f"CLIP {self.name} gave values that are not numbers; its weights are damaged.")
        return vectors


def load_clip(clip: str = "miniature", device: str | None = None) -> Clip:
    """A CLIP: "miniature", an open_clip folder, "ViT-B-32/laion2b_s34b_b79k" (architecture/tag), or "hf-hub:owner/name"."""
    import open_clip

    identifier, tag, weights = _clip_source(str(clip))
    target = device or globals()["device"]()
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(identifier, pretrained=tag, device=target)
        tokenizer = open_clip.get_tokenizer(identifier)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise HarnessError(f"{clip}: open_clip cannot load it: {_first_line(error)}") from error
    model.eval().requires_grad_(False)
    return Clip(str(clip), weights_hash(weights), _embed_dim(model), float(model.logit_scale.exp()), model, preprocess, tokenizer, target)


def _clip_source(clip: str) -> tuple[str, str | None, Path]:
    """(open_clip identifier, pretrained tag or None, folder or file that holds the weights)."""
    import open_clip

    folder = _present(MINIATURE / "clip", "the embedded miniature CLIP") if clip == "miniature" else Path(clip).expanduser()
    if folder.is_dir():
        if not (folder / "open_clip_config.json").is_file():
            raise HarnessError(f"{folder}: not an open_clip folder (no open_clip_config.json).")
        _check_weights(folder)
        return f"local-dir:{folder.resolve()}", None, folder
    if clip.startswith("hf-hub:"):
        name = clip.removeprefix("hf-hub:")
        return clip, None, _safe_file(clip, _from_hub(clip, lambda: open_clip.download_pretrained_from_hf(name)))
    arch, _, tag = clip.partition("/")
    if not tag or tag not in open_clip.list_pretrained_tags_by_model(arch):
        raise HarnessError(f"{clip}: neither 'miniature', nor an open_clip folder, nor a name like ViT-B-32/laion2b_s34b_b79k.")
    path = _from_hub(clip, lambda: open_clip.download_pretrained(open_clip.get_pretrained_cfg(arch, tag)))
    return arch, tag, _safe_file(clip, path)


def _safe_file(name: str, path: str) -> Path:
    """The weights file that was fetched, unless it is a pickle."""
    if Path(path).suffix != ".safetensors":
        raise HarnessError(f"{name}: its weights exist only as a pickle ({Path(path).name}), which can run code when it is "
                           "read; choose one that is published as safetensors.")
    return Path(path)


def _embed_dim(model: Any) -> int:
    """Width of the joint space, from the model itself."""
    import torch

    tokens = torch.zeros(1, getattr(model, "context_length", 77), dtype=torch.long, device=model.logit_scale.device)
    with torch.inference_mode():
        return model.encode_text(tokens).shape[-1]
