"""Models by name, and what is refused before it is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from harness import models
from harness.errors import HarnessError


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.sd(tmp_path_factory.mktemp("models") / "sd1")


@pytest.fixture
def copy(sd1: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sd1, tmp_path / "model"))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_loads_and_says_where_it_came_from(family: str, tmp_path: Path) -> None:
    folder = tiny.FAMILIES[family](tmp_path / family)
    pipe = models.load_pipeline(str(folder), device="cpu")
    assert pipe.origin.family == ("sdxl" if family == "sdxl" else "sd") and pipe.origin.folder == folder
    assert pipe.origin.name == family
    assert pipe.unet.dtype.itemsize == 4 and pipe.device.type == "cpu"


def test_a_safety_checker_is_taken_out_and_remembered(tmp_path: Path) -> None:
    pipe = models.load_pipeline(str(tiny.sd(tmp_path / "m", checker=True)), device="cpu")
    assert pipe.safety_checker is None and pipe.origin.safety_checker == "StableDiffusionSafetyChecker"


def test_no_safety_checker_is_remembered_as_none(sd1: Path) -> None:
    assert models.load_pipeline(str(sd1), device="cpu").origin.safety_checker == ""


def test_a_folder_without_weights_is_refused(copy: Path) -> None:
    next((copy / "unet").glob("*.safetensors")).unlink()
    with pytest.raises(HarnessError, match="no weights"):
        models.load_pipeline(str(copy))


def test_pickle_weights_are_refused_as_such(copy: Path) -> None:
    file = next((copy / "unet").glob("*.safetensors"))
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(HarnessError, match=r"pickle.*run code"):
        models.load_pipeline(str(copy))


def test_a_git_lfs_pointer_is_named(copy: Path) -> None:
    next((copy / "vae").glob("*.safetensors")).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(HarnessError, match="git lfs pull"):
        models.load_pipeline(str(copy))


def test_truncated_weights_are_one_sentence(copy: Path) -> None:
    file = next((copy / "unet").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(HarnessError) as caught:
        models.load_pipeline(str(copy))
    assert "cannot load" in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_family_is_refused(copy: Path) -> None:
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"_class_name": "FluxPipeline"}))
    with pytest.raises(HarnessError, match="FluxPipeline.*family"):
        models.load_pipeline(str(copy))


@pytest.mark.parametrize(("name", "words"), [
    ("no such folder at all", "neither"), ("./gone/away", "neither"), ("model.ckpt", "single file"), ("a/model.safetensors", "single file")])
def test_names_that_mean_nothing(name: str, words: str) -> None:
    with pytest.raises(HarnessError, match=words):
        models.load_pipeline(name)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"model_index\.json"):
        models.load_pipeline(str(tmp_path))


def test_a_hub_id_that_cannot_be_reached_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import DiffusionPipeline

    monkeypatch.setattr(DiffusionPipeline, "download", lambda *_, **__: (_ for _ in ()).throw(OSError("no route\nto host")))
    with pytest.raises(HarnessError) as caught:
        models.load_pipeline("somebody/some-model")
    assert "go online" in str(caught.value) and "\n" not in str(caught.value)


def test_a_gated_model_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx
    from diffusers import DiffusionPipeline
    from huggingface_hub.errors import GatedRepoError

    def gated(*_: object, **__: object) -> None:
        raise GatedRepoError("403", response=httpx.Response(403, request=httpx.Request("GET", "http://hub.invalid")))

    monkeypatch.setattr(DiffusionPipeline, "download", gated)
    with pytest.raises(HarnessError, match="licence.*auth login"):
        models.load_pipeline("somebody/some-model")


def test_the_hash_changes_with_one_byte_of_weights_or_configuration(copy: Path) -> None:
    first = models.weights_hash(copy)
    assert first == models.weights_hash(str(copy)) and len(first) == 64
    config = copy / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("epsilon", "v_prediction"))
    second = models.weights_hash(copy)
    file = next((copy / "vae").glob("*.safetensors"))
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    assert len({first, second, models.weights_hash(copy)}) == 3


def test_the_hash_does_not_depend_on_where_the_model_lies(sd1: Path, copy: Path) -> None:
    assert models.weights_hash(sd1) == models.weights_hash(copy)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> models.Clip:
    return models.load_clip(str(tiny.clip(tmp_path_factory.mktemp("clip"))), device="cpu")


def test_clip_rows_are_unit_vectors_whatever_the_batch(clip: models.Clip) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    rows = clip.encode_images(pixels)
    assert rows.shape == (5, clip.dim) and rows.dtype == np.float32
    assert np.allclose((rows**2).sum(1), 1, atol=1e-6)
    assert np.allclose(rows, clip.encode_images([Image.fromarray(p) for p in pixels], batch_size=2), atol=1e-6)
    assert clip.encode_texts(["a person", "a portrait"]).shape == (2, clip.dim)
    assert clip.encode_images([]).shape == (0, clip.dim)


def test_clip_with_damaged_weights_is_refused(clip: models.Clip) -> None:
    kept = clip.model.visual.proj.data.clone()
    clip.model.visual.proj.data.fill_(float("nan"))
    with pytest.raises(HarnessError, match="not numbers"):
        clip.encode_images(np.zeros((1, 16, 16, 3), np.uint8))
    clip.model.visual.proj.data.copy_(kept)


def test_clip_names_that_mean_nothing(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="neither"):
        models.load_clip("ViT-B-32/no_such_tag")
    with pytest.raises(HarnessError, match=r"open_clip_config\.json"):
        models.load_clip(str(tmp_path))
    folder = tiny.clip(tmp_path / "c")
    (folder / "open_clip_model.safetensors").rename(folder / "open_clip_pytorch_model.bin")
    with pytest.raises(HarnessError, match="pickle"):
        models.load_clip(str(folder))
