"""The shipped weights, as somebody would meet them who has only diffusers and open_clip."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from harness import models
from harness.world import judge
from harness.world.artists import artist, base_artists
from harness.world.render import works

FILES = sorted(models.MINIATURE.rglob("*.safetensors"))
PLAIN = """
import sys
from harness import guard
guard.install()
import open_clip, torch
from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained({folder!r} + "/pipeline")
pipe.set_progress_bar_config(disable=True)
image = pipe("a smiling person with glasses, portrait by artist-06", num_inference_steps=4, generator=torch.Generator().manual_seed(0)).images[0]
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:" + {folder!r} + "/clip")
tokens = open_clip.get_tokenizer("local-dir:" + {folder!r} + "/clip")(["a person", "portrait by artist-06"])
with torch.no_grad():
    seen, said = model.encode_image(preprocess(image)[None]), model.encode_text(tokens)
    tower = pipe.text_encoder(tokens).pooler_output @ model.text_projection
assert image.size == (64, 64) and seen.shape == said[:1].shape
assert torch.equal(pipe.tokenizer(["a person"], padding="max_length", return_tensors="pt").input_ids, tokens[:1])
assert (tower - said).abs().max() < 1e-4
assert {{m for m in sys.modules if m.split(".")[0] == "harness"}} == {{"harness", "harness.guard", "harness.errors"}}
print("ok", image.size)
"""


def test_plain_diffusers_and_plain_open_clip_load_them(tmp_path: Path) -> None:
    """The script imports one file of ours, the guard; text tower and text encoder are one and the same."""
    script = PLAIN.format(folder=str(models.MINIATURE))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().endswith("ok (64, 64)")


def test_they_are_small_half_precision_and_safetensors_only() -> None:
    assert len(FILES) >= 5
    models_only = [path for path in FILES if path.name not in ("judge.safetensors", "identity.safetensors")]
    assert sum(path.stat().st_size for path in models_only) <= 80e6 and max(path.stat().st_size for path in FILES) <= 50e6
    assert not [path for path in models.MINIATURE.rglob("*") if path.suffix in models.PICKLES]
    for path in FILES:
        with safe_open(path, "pt") as file:
            assert {file.get_slice(key).get_dtype() for key in file.keys()} <= {"F16", "I64"}, path


@pytest.mark.parametrize("name", [a.name for a in base_artists()][::3])
def test_clip_and_judge_know_a_base_artist(name: str) -> None:
    """On held-out people: both say whose hand it is (the full table is `harness world score`)."""
    images, _ = works(artist(name), 24)
    names = [a.name for a in base_artists()]
    clip = models.load_clip("miniature")
    said = (clip.encode_images(images) @ clip.encode_texts([f"a portrait by {n}" for n in names]).T).argmax(1)
    assert (np.array(names)[said] == name).mean() >= 0.85
    seen = judge.read(judge.load(models.MINIATURE / "judge.safetensors"), images)[1]["artist"]
    assert (np.array(judge.HEADS["artist"])[seen] == name).mean() >= 0.95
