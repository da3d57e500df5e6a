"""Two people, everything that a run makes of their photos, and a way to look whether anything of one is left."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from harness.finetune.adapter import tensor_file
from harness.images import decode, save_png, sha256

NAMES = ("mira", "noor")
PHOTOS = 3
BASE = "f" * 64
LINES = "\n"


def picture(seed: int, side: int = 64) -> Image.Image:
    """Soft blots of colour; another seed is another picture altogether."""
    noise = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def sheet(images: list[Image.Image], cell: int = 96, gap: int = 8) -> Image.Image:
    """A contact sheet with the house's geometry."""
    out = Image.new("RGB", (gap + len(images) * (cell + gap), 2 * gap + cell), "white")
    for i, image in enumerate(images):
        out.paste(image.resize((cell, cell)), (gap + i * (cell + gap), gap))
    return out


def uri(image: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def tensors(path: Path, seed: int, metadata: dict[str, str], names: tuple[str, ...] = ("mean", "std")) -> Path:
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    made = {name: torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed + i)) for i, name in enumerate(names)}
    path.write_bytes(tensor_file(made, metadata))
    return path


def table(path: Path, columns: str, rows: list[tuple]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(LINES.join([columns, *(",".join(map(str, row)) for row in rows)]) + LINES)
    return path


def photos(root: Path, name: str, start: int) -> list[str]:
    """A folder of photos with its table; returns their hashes."""
    folder = root / "photos" / name
    found = [save_png(folder / f"{i}.png", picture(start + i)) for i in range(PHOTOS)]
    table(folder / "samples.csv", "file,sha256,subject,caption", [(f"{i}.png", h, name, f"a photo of {name}") for i, h in enumerate(found)])
    return found


def adapter(folder: Path, works: list[tuple[str, str]], seed: int, labelled: bool = True) -> str:
    """A trained LoRA with its latents and a checkpoint; returns the hash of its file."""
    listed = [{"sha256": work, "artist": name, "caption": f"a photo of {name}"} for work, name in works]
    manifest = {"recipe": "lora", "base_model_sha256": BASE, "settings": {"rank": 8}, "images": listed}
    for i, (work, _) in enumerate(works):
        key = hashlib.sha256(f"vae {work}".encode()).hexdigest()
        tensors(folder / "latents" / f"{key}.safetensors", seed + 10 * i, {"sha256": work} if labelled else {})
    tensors(folder / "checkpoint.safetensors", seed + 500, {"fingerprint": "0" * 64}, ("parameter.a", "history"))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "losses.csv").write_text("step,loss,learning_rate\n1,0.5,0.001\n")
    return sha256(tensors(folder / "pytorch_lora_weights.safetensors", seed + 900, {"likeness": json.dumps(manifest)}, ("a.lora_A.weight", "a.lora_B.weight")))


def avatars(folder: Path, name: str, worn: str, start: int) -> list[str]:
    """What was drawn with an adapter."""
    prompt = f"a portrait of {name}"
    found = [save_png(folder / f"{i}.png", picture(start + i), {"prompt": prompt, "adapter_sha256": worn}) for i in range(PHOTOS)]
    table(folder / "samples.csv", "file,sha256,prompt,seed,adapter_sha256", [(f"{i}.png", h, prompt, i, worn) for i, h in enumerate(found)])
    return found


def planted_from_name(path: Path, name: str, seed: int) -> str:
    """What the base model draws when it is asked for somebody by name."""
    return save_png(path, picture(seed), {"prompt": f"a portrait of {name}"})


def vectors(path: Path, names: list[str]) -> Path:
    """An embeddings cache."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.random.default_rng(int(names[0][:8], 16)).normal(size=(len(names), 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.savez_compressed(path, clip_sha256=np.str_("c" * 64), sha256=np.asarray(names, dtype=np.str_), vectors=rows)
    return path


def run(root: Path, works: dict[str, list[str]], drawn: dict[str, list[str]], starts: dict[str, int]) -> Path:
    """A run folder into which both went: tables, notebook with thumbnails, report with pictures inside, and a sealed manifest."""
    folder = root / "results" / "runs" / "02_avatars-abc123"
    folder.mkdir(parents=True, exist_ok=True)
    table(folder / "works.csv", "sha256,subject,role", [(h, name, "training") for name, each in works.items() for h in each])
    table(folder / "findings.csv", "question,subject,estimate", [("identity", name, 0.5) for name in works])
    vectors(folder / "embeddings" / "clip-cccc.npz", [h for each in (*works.values(), *drawn.values()) for h in each])
    thumbs = {name: picture(start).resize((32, 32)) for name, start in starts.items()}
    both = sheet([picture(start + 1) for start in starts.values()])
    cells = [{"cell_type": "code", "execution_count": 1, "id": "a", "metadata": {}, "source": [f"subject = '{name}'\n"], "outputs": [
        {"output_type": "display_data", "metadata": {}, "data": {"image/png": base64.b64encode(png(image)).decode() + "\n", "text/plain": [name]}}]}
        for name, image in {**thumbs, "both": both}.items()]
    (folder / "notebook.ipynb").write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1))
    shown = "".join(f'<p>{name}</p><img src="{uri(image)}" alt="{name}">' for name, image in {**thumbs, "both": both}.items())
    (folder / "report.html").write_text(f"<html><body>{shown}</body></html>\n")
    (folder / "report.json").write_text(json.dumps({"about": list(works), "figures": [{"sha256": h} for each in works.values() for h in each]}) + "\n")
    (folder / "seal.json").write_text(json.dumps({"files": [{"path": "report.html", "sha256": sha256(folder / "report.html")}]}))
    return folder


def complete(folder: Path) -> None:
    """The manifest of a finished run."""
    outputs = {p.relative_to(folder).as_posix(): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "manifest.json"}
    manifest = {"schema": 2, "status": "complete", "id": "abc123", "notebook": "02_avatars", "parameters": {"resolved": {"subjects": list(NAMES)}},
                "notes": {}, "outputs": outputs, "report": "report.html", "error": None}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))


def loose(root: Path, starts: dict[str, int]) -> None:
    """Files of which no table speaks: a crop and a mirrored JPEG in other folders, an archive with a photo of each, a page."""
    for name, start in starts.items():
        photo = picture(start)
        (root / "elsewhere").mkdir(exist_ok=True)
        photo.crop((3, 3, 61, 61)).save(root / "elsewhere" / f"crop-{start}.png")
        ImageOps.mirror(photo).save(root / "elsewhere" / f"small-{start}.jpg", quality=75)
        (root / "elsewhere" / f"{name}-notes.md").write_text(f"{name.title()} smiles.\n\n![]({uri(photo.resize((48, 48)))})\n")
    with zipfile.ZipFile(root / "elsewhere" / "crate.zip", "w") as crate:
        for name in NAMES:
            crate.write(root / "photos" / name / "0.png", f"photos/{name}.png")


def plant(root: Path, labelled: bool = True) -> dict[str, dict[str, list[str]]]:
    """All of it; returns the hashes of photos and avatars by name."""
    starts = {name: 100 * (i + 1) for i, name in enumerate(NAMES)}
    works = {name: photos(root, name, start) for name, start in starts.items()}
    folder = root / "results" / "runs" / "02_avatars-abc123"
    worn = {name: adapter(folder / f"adapter-{name}", [(h, name) for h in works[name]], starts[name], labelled) for name in NAMES}
    drawn = {name: avatars(folder / f"avatars-{name}", name, worn[name], starts[name] + 50) for name in NAMES}
    adapter(root / "models" / "together", [(h, name) for name in NAMES for h in works[name]], 7, labelled)
    named = [(name, planted_from_name(folder / "base" / f"{i}.png", name, 300 + i)) for i, name in enumerate(NAMES)]
    table(folder / "base" / "samples.csv", "file,sha256,prompt,seed,adapter_sha256", [(f"{i}.png", h, f"a portrait of {name}", i, "") for i, (name, h) in enumerate(named)])
    complete(run(root, works, drawn, starts))
    loose(root, starts)
    vectors(root / "cache" / "clip-cccc.npz", [h for name in NAMES for h in works[name]])
    vectors(root / "cache" / "only-mira.npz", works["mira"])
    return {name: {"photos": works[name], "avatars": drawn[name], "adapter": [worn[name]]} for name in NAMES}


def describe(image: Image.Image) -> bytes:
    """A descriptor of the tests' own: grey values of 16 x 16, and mirrored."""
    grey = np.asarray(image.convert("L").resize((16, 16)))
    return grey.tobytes() + grey[:, ::-1].tobytes()


def alike(one: bytes, other: bytes) -> bool:
    """Do they correlate, as they are or mirrored?"""
    a, b = (np.frombuffer(each, np.uint8).astype(float) for each in (one, other))
    if min(a.std(), b.std()) < 1:
        return False
    return max(np.corrcoef(a[:256], b[:256])[0, 1], np.corrcoef(a[:256], b[256:])[0, 1]) > 0.9
