"""What the recipes share beyond LoRA's own tests: prior preservation, parts of a step, validation, saved steps, whole models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from test_finetune import HOW, YES, plain

from harness import models, progress
from harness.consent import gate
from harness.errors import HarnessError, Refused
from harness.finetune import Adapter, Full, Lora, Training, cache, feed, full, lora, loss, trainer
from harness.finetune.settings import PREDICTIONS
from harness.images import ImageSet, read_table, sha256, write_set

WHOLE = Full(steps=6, warmup=1, checkpoint_every=3, batch_size=4, mixed_precision="no", learning_rate=1e-3)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes")


@pytest.fixture(scope="module")
def images(root: Path) -> ImageSet:
    return tiny.pictures(root / "works")


@pytest.fixture(scope="module")
def folders(root: Path) -> dict[str, Path]:
    return {name: build(root / name) for name, build in tiny.FAMILIES.items()}


@pytest.fixture(scope="module")
def pipe(folders: dict[str, Path]) -> object:
    return models.load_pipeline(str(folders["sd1"]), device="cpu")


def train(pipe: object, images: ImageSet, out: Path, how: Training = HOW, **extra: object) -> Adapter:
    recipe = full if isinstance(how, Full) else lora
    return recipe(how, pipe, images, out, extra.pop("consent", None) or gate.ask(images, YES), **{"progress": progress.silent} | extra)


# --- the loss of a step


class Wrong(torch.nn.Module):
    """A U-Net that answers with a fixed share of its input, and counts how often it is asked."""

    device, dtype, asked = torch.device("cpu"), torch.float32, 0

    def forward(self, noisy: torch.Tensor, levels: torch.Tensor, encoder_hidden_states: torch.Tensor) -> object:
        self.asked += 1
        return type("Said", (), {"sample": 0.3 * noisy})


def fed(how: Training, kind: str = "epsilon") -> feed.Feed:
    from harness.conditioning import Text

    stub = type("Pipe", (), {"unet": Wrong(), "vae_scale_factor": 2, "device": torch.device("cpu")})()
    mean = torch.randn(1, 5, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    posteriors, prior = cache.Latents(mean, torch.zeros_like(mean)), torch.randn(7, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    return feed.Feed(how, stub, tiny.noise(kind), posteriors, ["a"] * 5, lambda step: torch.arange(how.batch_size) % 5, prior, ["b"] * 7,
                     lambda captions: Text(torch.zeros(len(captions), 1, 1), None))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_min_snr_with_prior_preservation_is_the_per_sample_reference(size: int, kind: str) -> None:
    """The scripts that everyone copies crash here at batch 2 and weigh wrongly at batch 1."""
    food = fed(Training(batch_size=size, snr_gamma=5.0, prior_weight=0.7, class_prompt="b"), kind)
    (rows,) = food.rows(3)
    assert len(rows.latents) == 2 * size and rows.captions[size:] == ["b"] * size
    reference = 0.0
    for i in range(2 * size):  # one sample at a time, by the paper's words
        level, clean, noise = rows.levels[i:i + 1], rows.latents[i:i + 1], rows.noise[i:i + 1]
        signal = food.schedule.alphas_cumprod[level].item()
        snr = signal / (1 - signal)
        wanted = noise if kind == "epsilon" else signal**0.5 * noise - (1 - signal) ** 0.5 * clean
        error = (0.3 * food.schedule.add_noise(clean, noise, level) - wanted).square().mean().item()
        weight = min(snr, 5.0) / (snr if kind == "epsilon" else snr + 1)
        reference += (0.7 if i >= size else 1.0) * weight * error / size
    assert sum(part().item() for part in food.parts(3)) == pytest.approx(reference, rel=1e-5)


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_a_step_in_parts_is_the_same_step(parts: int) -> None:
    whole, cut = (fed(Training(batch_size=4, snr_gamma=5.0, accumulation=n)) for n in (1, parts))
    assert len(cut.parts(0)) == parts and sum(p() for p in cut.parts(0)) == pytest.approx(whole.parts(0)[0]().item(), rel=1e-6)


def test_a_noise_offset_moves_whole_channels() -> None:
    latents = torch.zeros(400, 4, 8, 8)
    plain_noise, moved = (loss.noise(latents, offset, torch.Generator().manual_seed(0)) for offset in (0.0, 0.1))
    assert plain_noise.mean((2, 3)).std() == pytest.approx(1 / 8, rel=0.1)
    assert moved.mean((2, 3)).std() == pytest.approx((1 / 64 + 0.01) ** 0.5, rel=0.1)


def test_every_prediction_can_be_asked_for(pipe: object) -> None:
    kinds = {prediction: loss.schedule(pipe, prediction).config.prediction_type for prediction in PREDICTIONS}
    assert kinds == {"model": "epsilon", "epsilon": "epsilon", "v_prediction": "v_prediction"}


# --- around the steps


def test_checkpointed_gradients_and_parts_change_nothing(pipe: object, images: ImageSet, tmp_path: Path) -> None:
    one = load_file(train(pipe, images, tmp_path / "one").path)
    for name, how in (("saved", replace(HOW, gradient_checkpointing=True)), ("parts", replace(HOW, accumulation=3))):
        other = load_file(train(pipe, images, tmp_path / name, how).path)
        assert max((one[key] - other[key]).abs().max() for key in one) < 1e-5
    assert not pipe.unet.is_gradient_checkpointing


def test_held_out_pictures_give_the_same_loss_whenever_they_are_asked(pipe: object, images: ImageSet, tmp_path: Path) -> None:
    held = tiny.pictures(tmp_path / "held", n=2, seed=5)
    held = held.assign(caption=["words that no picture is trained with", "a portrait 0"])
    both = gate.ask(images + held, YES)
    first, again = (read_table(train(pipe, images, tmp_path / name, held_out=held, consent=both).path.parent / "validation.csv") for name in "ab")
    assert first.equals(again) and first["step"].tolist() == [3, 6, 9] and first["loss"].nunique() == 3
    with pytest.raises(Refused, match="held-out pictures are encoded"):
        train(pipe, images, tmp_path / "d", held_out=held)
    with pytest.raises(HarnessError, match="trained on too"):
        train(pipe, images, tmp_path / "c", held_out=images)


def test_prior_preservation_draws_once_and_keeps(pipe: object, images: ImageSet, tmp_path: Path) -> None:
    told: list[dict] = []
    how = replace(HOW, class_prompt="a portrait", class_images=6, snr_gamma=5.0)
    with_prior = train(pipe, images, tmp_path / "a", how, latents=tmp_path / "kept", progress=told.append)
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}
    train(pipe, images, tmp_path / "b", replace(how, seed=1), latents=tmp_path / "kept")
    assert any(event["stage"] == "class images" for event in told)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()} == files
    without = load_file(train(pipe, images, tmp_path / "c").path)
    assert max((without[key] - tensor).abs().max() for key, tensor in load_file(with_prior.path).items()) > 1e-4


def test_buckets_train_on_pictures_as_they_are(pipe: object, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    drawn = [Image.fromarray(rng.integers(0, 255, (high, wide, 3), dtype=np.uint8)) for high, wide in ((16, 32), (32, 16), (24, 24), (32, 16), (16, 32), (20, 20))]
    table = tiny.pictures(tmp_path / "like").table.drop(columns=["file", "sha256"])
    images = write_set(tmp_path / "works", drawn, table)
    shapes: set = set()
    real = pipe.unet.forward
    pipe.unet.forward = lambda noisy, *args, **given: (shapes.add(tuple(noisy.shape[2:])), real(noisy, *args, **given))[1]
    try:
        train(pipe, images, tmp_path / "out", replace(HOW, buckets=True, batch_size=2))
    finally:
        del pipe.unet.forward
    assert len(shapes) == 3 and (8, 8) in shapes


def test_a_saved_step_can_be_taken_instead(pipe: object, images: ImageSet, tmp_path: Path) -> None:
    from harness.finetune import choose

    marks = {3: 0.1, 6: 0.9, 9: 0.2}
    adapter = train(pipe, images, tmp_path, judge=lambda worn, step: {"fidelity": (marks[step], marks[step] - 0.05, marks[step] + 0.05)})
    assert adapter.manifest["step"] == 6 and sha256(adapter.path) == sha256(tmp_path / "steps" / "00006" / adapter.path.name)
    taken = choose.take(tmp_path, 9)
    assert taken.manifest["step"] == 9 and read_table(tmp_path / "checkpoints.csv")["estimate"].tolist() == list(marks.values())


def test_a_judge_is_asked_again_after_a_stop_and_never_twice_in_the_table(pipe: object, images: ImageSet, tmp_path: Path) -> None:
    def judge(worn: object, step: int) -> dict:
        asked.append(step)
        if asked == [3, 6]:
            raise KeyboardInterrupt
        return {"fidelity": (step / 10, 0.0, 1.0)}

    asked: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        train(pipe, images, tmp_path, judge=judge)
    train(pipe, images, tmp_path, judge=judge)
    assert asked == [3, 6, 6, 9] and read_table(tmp_path / "checkpoints.csv")["step"].tolist() == [3, 6, 9]


# --- text encoders and whole models


@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_text_encoders_train_and_leave_in_the_canonical_form(family: str, folders: dict, images: ImageSet, tmp_path: Path) -> None:
    import diffusers

    pipe = models.load_pipeline(str(folders[family]), device="cpu")
    seen: list[np.ndarray] = []
    how = replace(HOW, learning_rate=0.05, text_encoder=True, text_learning_rate=0.05)
    adapter = train(pipe, images, tmp_path / "a", how, preview=lambda p, step: seen.append(plain(p)))
    with safe_open(adapter.path, "pt") as file:
        keys = [key for key in file.keys() if key.startswith("text_encoder")]
    towers = {key.split(".")[0] for key in keys}
    assert towers == ({"text_encoder", "text_encoder_2"} if family == "sdxl" else {"text_encoder"})
    assert all(key.split(".")[1] == "text_model" for key in keys)
    fresh = diffusers.DiffusionPipeline.from_pretrained(folders[family])
    before = plain(fresh)
    fresh.load_lora_weights(adapter.path)
    assert np.abs(plain(fresh) - seen[-1]).max() < 1e-4 < 0.01 < np.abs(before - seen[-1]).max()
    assert np.array_equal(plain(pipe), before)


@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_a_whole_model_opens_elsewhere_and_draws_the_same(family: str, folders: dict, images: ImageSet, tmp_path: Path) -> None:
    import diffusers

    pipe = models.load_pipeline(str(folders[family]), device="cpu")
    before, seen = plain(pipe), []
    how = replace(WHOLE, text_encoder=True, class_prompt="a portrait", class_images=4, learning_rate=5e-3)
    adapter = train(pipe, images, tmp_path / "a", how, preview=lambda p, step: seen.append(plain(p)))
    again = diffusers.DiffusionPipeline.from_pretrained(adapter.pipeline)
    assert np.abs(plain(again) - seen[-1]).max() < 1e-5 < 0.01 < np.abs(before - seen[-1]).max()
    assert np.array_equal(plain(pipe), before) and all(parameter.requires_grad for parameter in pipe.unet.parameters())
    assert Adapter.open(tmp_path / "a").manifest["recipe"] == "full" and (tmp_path / "a" / "steps" / "00003" / "pipeline" / "unet").is_dir()


def test_a_whole_model_has_float32_weights_under_bf16_and_resumes_to_the_same_bytes(folders: dict, images: ImageSet, tmp_path: Path) -> None:
    half = models.load_pipeline(str(folders["sd1"]), device="cpu", dtype=torch.bfloat16)
    how = replace(WHOLE, mixed_precision="bf16", ema=0.9, learning_rate=1e-6)

    def stop(event: dict) -> None:
        if event["stage"] == "train" and event.get("step") == 4:
            raise KeyboardInterrupt

    whole = train(half, images, tmp_path / "a", how)
    with pytest.raises(KeyboardInterrupt):
        train(half, images, tmp_path / "b", how, progress=stop)
    assert sha256(train(half, images, tmp_path / "b", how).path) == sha256(whole.path)
    weights, base = load_file(whole.path), half.unet.state_dict()
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32} and {tensor.dtype for tensor in base.values()} == {torch.bfloat16}
    moved = [(weights[key] - base[key].float()).abs().max().item() for key in base]
    assert 0 < max(moved) < 1e-4  # steps far below bf16's own, which would be lost without float32 masters


def test_what_a_whole_model_is_in_a_preview_is_said(pipe: object, images: ImageSet, tmp_path: Path) -> None:
    from harness.sample import Sampling, sample

    drawn: list[ImageSet] = []
    train(pipe, images, tmp_path / "a", WHOLE, preview=lambda p, step: drawn.append(
        sample(p, ["a portrait"], [0], Sampling(steps=2), tmp_path / str(step), progress=progress.silent)))
    assert [s.table["adapter"].item() for s in drawn] == ["in memory: full, step 3", "in memory: full, step 6"]
    assert len({s.table["adapter_sha256"].item() for s in drawn}) == 2 and not hasattr(pipe, "in_training")


@pytest.mark.parametrize(("how", "mixed"), [(HOW, "no"), (WHOLE, "bf16")])
def test_a_half_precision_model_can_be_looked_at_while_it_learns(how: Training, mixed: str, folders: dict, images: ImageSet, tmp_path: Path) -> None:
    half = models.load_pipeline(str(folders["sd1"]), device="cpu", dtype=torch.bfloat16)
    seen: list[np.ndarray] = []
    train(half, images, tmp_path, replace(how, mixed_precision=mixed), preview=lambda p, step: seen.append(plain(p)))
    assert len(seen) > 1 and all(np.isfinite(picture).all() for picture in seen)
    assert {part.dtype for part in (half.unet, half.vae, half.text_encoder)} == {torch.bfloat16}


def test_another_prediction_goes_along_with_a_whole_model_and_nowhere_else(pipe: object, images: ImageSet, tmp_path: Path) -> None:
    seen: list[str] = []
    whole = train(pipe, images, tmp_path / "a", replace(WHOLE, prediction="v_prediction"), preview=lambda p, step: seen.append(p.scheduler.config.prediction_type))
    opened = models.load_pipeline(str(whole.pipeline), device="cpu")
    assert opened.scheduler.config.prediction_type == "v_prediction" == seen[0] and pipe.scheduler.config.prediction_type == "epsilon"
    with pytest.raises(HarnessError, match="only a whole model"):
        train(pipe, images, tmp_path / "b", replace(HOW, prediction="v_prediction"))


def test_a_gradient_that_is_no_number_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    from test_finetune import alone

    parameter = torch.nn.Parameter(torch.ones(1))

    def parts(step: int) -> list:
        return [lambda: (parameter - 1 if step == 4 else parameter).clamp(min=0).sqrt().sum()]  # the root of 0 is finite, its slope is not

    with pytest.raises(HarnessError, match="gradient is no number at step 5"):
        parameter.data.fill_(1.0)
        loop = alone(parameter, replace(trainer_settings(), learning_rate=1e-12))
        trainer.train(loop, parts, tmp_path, "f", progress.silent)
    assert torch.isfinite(parameter).all() and torch.isfinite(load_file(tmp_path / "checkpoint.safetensors")["parameter:p"]).all()


def trainer_settings() -> Training:
    return Training(steps=9, warmup=0, schedule="constant", weight_decay=0.0, checkpoint_every=3)


def test_alpha_is_multiplied_in_for_loaders_that_do_not_read_it(folders: dict, images: ImageSet, tmp_path: Path) -> None:
    import diffusers

    pipe = models.load_pipeline(str(folders["sd1"]), device="cpu")
    seen: list[np.ndarray] = []
    adapter = train(pipe, images, tmp_path / "a", replace(HOW, alpha=32, learning_rate=0.02, text_encoder=True), preview=lambda p, step: seen.append(plain(p)))
    for weights in (adapter.path, load_file(adapter.path)):  # with its metadata, and without
        fresh = diffusers.DiffusionPipeline.from_pretrained(folders["sd1"])
        fresh.load_lora_weights(weights if isinstance(weights, dict) else str(weights))
        assert np.abs(plain(fresh) - seen[-1]).max() < 1e-4
    assert str(tmp_path.parent.parent).encode() not in adapter.path.read_bytes()


def test_an_entry_about_somebody_else_does_not_end_a_training(pipe: object, images: ImageSet, tmp_path: Path) -> None:
    from harness.consent import ledger

    other = ledger.of([*YES.records, ledger.Record("artist-09", "*", "cawg.ai_generative_training", "notAllowed", "a letter", "2024-01-01")])
    first = train(pipe, images, tmp_path)
    assert train(pipe, images, tmp_path, consent=gate.ask(images, other)).losses.equals(first.losses)
    with pytest.raises(HarnessError, match="another consent"):
        train(pipe, images, tmp_path, consent=gate.ask(images, other, purpose="audit"))


def test_captions_that_are_cut_are_said(pipe: object, images: ImageSet, tmp_path: Path) -> None:
    told: list[dict] = []
    train(pipe, images.assign(caption="a " * 30 + "portrait"), tmp_path, progress=told.append)
    assert any("will not read the end" in event.get("note", "") and "portrait" in event["note"] for event in told)


def test_settings_of_another_recipe_and_two_steps_in_one_folder_are_refused(pipe: object, images: ImageSet, tmp_path: Path) -> None:
    import json

    with pytest.raises(HarnessError, match="takes settings of Full"):
        full(HOW, pipe, images, tmp_path / "a", gate.ask(images, YES))
    train(pipe, images, tmp_path / "b")
    path = tmp_path / "b" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"step": 3}))
    with pytest.raises(HarnessError, match="interrupted"):
        Adapter.open(tmp_path / "b")
