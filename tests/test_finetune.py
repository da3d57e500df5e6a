"""LoRA: right loss, exact resume, an export that others load, and nothing without consent."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from harness import conditioning, models, progress
from harness.consent import gate, ledger
from harness.errors import HarnessError, Refused
from harness.finetune import Adapter, Full, Lora, Training, buckets, cache, feed, full, lora, loss, trainer
from harness.finetune.adapter import read_manifest, tensor_file
from harness.images import ImageSet, sha256
from harness.sample import Sampling, sample

USE = "cawg.ai_generative_training"
HOW = Lora(steps=9, warmup=2, checkpoint_every=3, batch_size=4, mixed_precision="no")
YES = ledger.of([ledger.Record("artist-07", "*", USE, "allowed", "a letter", "2024-01-01")])
NO = ledger.of([ledger.Record("artist-07", "*", USE, "notAllowed", "a role", "2024-01-01")])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("finetune")


@pytest.fixture(scope="module")
def images(root: Path) -> ImageSet:
    return tiny.pictures(root / "works")


@pytest.fixture(scope="module")
def folders(root: Path) -> dict[str, Path]:
    return {name: build(root / name) for name, build in tiny.FAMILIES.items()}


@pytest.fixture(scope="module")
def pipe(folders: dict[str, Path]) -> object:
    return models.load_pipeline(str(folders["sd1"]), device="cpu")


def train(pipe: object, images: ImageSet, out: Path, how: Lora = HOW, **extra: object) -> Adapter:
    consent = extra.pop("consent", None) or gate.ask(images, YES)
    return lora(how, pipe, images, out, consent, **{"progress": progress.silent} | extra)


# --- the loss


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_min_snr_is_the_clipped_error_of_x0_whatever_is_predicted(prediction: str) -> None:
    schedule = tiny.noise(prediction)
    generator = torch.Generator().manual_seed(0)
    steps = torch.tensor([0, 50, 300, 600, 999])
    x0, noise, said = (torch.randn(5, 4, 3, 3, generator=generator) for _ in range(3))
    signal_part, noise_part = (a.sqrt().view(-1, 1, 1, 1) for a in (schedule.alphas_cumprod[steps], 1 - schedule.alphas_cumprod[steps]))
    noisy = schedule.add_noise(x0, noise, steps)
    guess = {"epsilon": (noisy - noise_part * said) / signal_part, "sample": said,
             "v_prediction": signal_part * noisy - noise_part * said}[prediction]
    snr = (signal_part / noise_part).square().flatten()
    reference = torch.stack([min(snr[i], 5.0) * (guess[i] - x0[i]).square().mean() for i in range(5)])
    ours = loss.per_sample(said, loss.target(schedule, x0, noise, steps), loss.weights(schedule, steps, 5.0))
    assert torch.allclose(ours, reference, rtol=2e-3)


def test_the_loss_asks_for_the_noise_that_was_added() -> None:
    schedule, latents = tiny.noise("epsilon"), torch.randn(3, 4, 8, 8)

    class Knowing(torch.nn.Module):
        device, dtype = torch.device("cpu"), torch.float32

        def forward(self, noisy: torch.Tensor, steps: torch.Tensor, encoder_hidden_states: torch.Tensor) -> object:
            signal = schedule.alphas_cumprod[steps].view(-1, 1, 1, 1)
            return type("Said", (), {"sample": (noisy - signal.sqrt() * latents) / (1 - signal).sqrt()})

    noise, levels = torch.randn(latents.shape), torch.tensor([10, 500, 900])
    text = conditioning.Text(torch.zeros(3, 1, 1), None)
    pipe = type("Pipe", (), {"unet": Knowing(), "vae_scale_factor": 2})()
    food = feed.Feed(Training(), pipe, schedule, None, [], None, None, [], lambda captions: text)
    rows = feed.Rows(latents, ["a"] * 3, noise, levels, torch.ones(3))
    other = feed.Feed(Training(), pipe, tiny.noise("v_prediction"), None, [], None, None, [], lambda captions: text)
    assert food.loss(rows) < 1e-5 < other.loss(rows)


def test_sdxl_is_told_the_sizes_that_its_pipeline_tells(folders: dict[str, Path]) -> None:
    pipe = models.load_pipeline(str(folders["sdxl"]), device="cpu")
    text = conditioning.encode(pipe, ["a", "b"])
    told = text.for_unet(16, 24)["added_cond_kwargs"]
    ids = pipe._get_add_time_ids((16, 24), (0, 0), (16, 24), torch.float32, text_encoder_projection_dim=16)
    assert torch.equal(told["time_ids"], ids.expand(2, -1)) and told["text_embeds"].shape == (2, 16)


def test_min_snr_at_zero_terminal_snr_is_finite() -> None:
    for prediction, wanted in (("v_prediction", 0.0), ("epsilon", 1.0)):
        weight = loss.weights(tiny.noise(prediction, zero_snr=True), torch.tensor([999]), 5.0)
        assert weight.item() == pytest.approx(wanted, abs=1e-6)


def test_without_gamma_every_noise_level_counts_alike() -> None:
    assert loss.weights(tiny.noise("epsilon"), torch.arange(5), None).tolist() == [1.0] * 5


def test_an_unknown_prediction_type_is_refused() -> None:
    with pytest.raises(HarnessError, match="prediction type"):
        loss.schedule(type("Pipe", (), {"scheduler": tiny.noise("flow")})())


# --- what a step draws


def test_every_epoch_shows_every_picture_once_and_in_another_order() -> None:
    shown = torch.cat([buckets.batch(7, step, 4, [0] * 6) for step in range(6)]).tolist()
    epochs = [shown[i:i + 6] for i in range(0, 24, 6)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) == 4
    assert buckets.batch(7, 2, 4, [0] * 6).tolist() == shown[8:12] != buckets.batch(8, 2, 4, [0] * 6).tolist()


def test_latents_are_drawn_afresh_around_the_posterior(pipe: object, images: ImageSet, root: Path) -> None:
    kept = cache.latents(pipe, images, 16, True, root / "cache", progress.silent)
    assert kept.mean.shape == (2, 6, 4, 8, 8)
    with torch.no_grad():
        pixels = torch.from_numpy(images.pixels()).permute(0, 3, 1, 2).float() / 127.5 - 1
        posterior = pipe.vae.encode(pixels.flip(3)).latent_dist
    scale = pipe.vae.config.scaling_factor
    assert torch.allclose(kept.mean[1], posterior.mean * scale, atol=1e-5) and torch.allclose(kept.std[1], posterior.std * scale, atol=1e-5)
    index = torch.zeros(4000, dtype=torch.long)
    drawn = cache.Latents(kept.mean[:1], kept.std[:1]).draw(index, trainer.generator(0, 0))
    error = (drawn.mean(0) - kept.mean[0, 0]) / kept.std[0, 0]
    assert error.abs().max() < 6 / 4000**0.5 and 0.9 < drawn.std(0).div(kept.std[0, 0]).mean() < 1.1


def test_the_cache_goes_by_content_and_not_by_name(pipe: object, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = cache._posterior
    monkeypatch.setattr(cache, "_posterior", lambda *a: calls.append(1) or real(*a))
    first = tiny.pictures(tmp_path / "a", n=3, seed=5)
    cache.latents(pipe, first, 16, False, tmp_path / "kept", progress.silent)
    (tmp_path / "a").rename(tmp_path / "b")
    cache.latents(pipe, ImageSet(tmp_path / "b", first.table), 16, False, tmp_path / "kept", progress.silent)
    assert len(calls) == 3
    cache.latents(pipe, tiny.pictures(tmp_path / "b", n=3, seed=6), 16, False, tmp_path / "kept", progress.silent)
    assert len(calls) == 6  # the same names, other pictures


# --- the recipe


@pytest.mark.parametrize(("family", "layers"), [*((family, "attention") for family in tiny.FAMILIES), ("sd1", "attention+convolutions")])
def test_every_family_trains_exports_and_leaves_the_pipeline_as_it_was(family: str, layers: str, folders: dict, images: ImageSet, tmp_path: Path) -> None:
    pipe = models.load_pipeline(str(folders[family]), device="cpu")
    before = {name: tensor.clone() for name, tensor in pipe.unet.state_dict().items()}
    seen: list[np.ndarray] = []
    how = replace(HOW, learning_rate=0.05, snr_gamma=5.0, flip=True, layers=layers)
    adapter = train(pipe, images, tmp_path / "a", how, preview=lambda p, step: seen.append(plain(p)))
    after = pipe.unet.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    base = plain(pipe)
    import diffusers

    fresh = diffusers.DiffusionPipeline.from_pretrained(folders[family])
    fresh.load_lora_weights(adapter.path)
    assert len(seen) == 3 and np.abs(seen[-1] - base).max() > 0.02
    assert np.abs(plain(fresh) - seen[-1]).max() < 1e-4


def plain(pipe: object) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    return pipe("a portrait 1", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="np").images[0]


def test_keys_are_canonical_and_metadata_tells_everything(pipe: object, images: ImageSet, tmp_path: Path) -> None:
    adapter = train(pipe, images, tmp_path / "a")
    with safe_open(adapter.path, "pt") as file:
        keys, metadata = list(file.keys()), file.metadata()
    assert len(keys) == 64 and all(key.startswith("unet.") and ".lora." in key for key in keys)
    manifest = json.loads(metadata["likeness"])
    assert manifest == adapter.manifest == read_manifest(adapter.path) == Adapter.open(tmp_path / "a").manifest
    assert [row["sha256"] for row in manifest["images"]] == images.table["sha256"].tolist()
    assert manifest["base_model_sha256"] == models.weights_hash(pipe.origin.folder)
    assert manifest["purpose"] == "training" and manifest["settings"]["steps"] == 9 and manifest["consent"]["ledger_sha256"] == YES.sha256
    beside = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert beside["adapter_sha256"] == sha256(adapter.path) and adapter.losses["step"].tolist() == list(range(1, 10))


def test_training_lowers_the_loss_on_what_it_was_shown(pipe: object, images: ImageSet, tmp_path: Path) -> None:
    how = replace(HOW, steps=90, learning_rate=0.02, checkpoint_every=90, batch_size=6, caption_dropout=0.0)
    curve = train(pipe, images, tmp_path, how).losses["loss"]
    assert curve[-20:].mean() < 0.92 * curve[:5].mean()


def test_lora_weights_stay_float32_under_bf16(pipe: object, images: ImageSet, tmp_path: Path) -> None:
    adapter = train(pipe, images, tmp_path / "b", replace(HOW, mixed_precision="bf16"))
    assert {tensor.dtype for tensor in load_file(adapter.path).values()} == {torch.float32}
    assert adapter.manifest["mixed_precision"] == "bf16"
    full = load_file(train(pipe, images, tmp_path / "f").path)
    far = [(tensor - full[name]).abs().max() for name, tensor in load_file(adapter.path).items()]
    assert 0 < max(far) < 0.02  # another rounding, the same training


def test_a_base_in_half_precision_is_trained_and_given_back_in_it(folders: dict, images: ImageSet, tmp_path: Path) -> None:
    half = models.load_pipeline(str(folders["sd1"]), device="cpu", dtype=torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in half.unet.state_dict().items()}
    adapter = train(half, images, tmp_path)
    assert all(torch.equal(before[name], tensor) and tensor.dtype == torch.bfloat16 for name, tensor in half.unet.state_dict().items())
    assert {tensor.dtype for tensor in load_file(adapter.path).values()} == {torch.float32}
    assert max(t.abs().max() for n, t in load_file(adapter.path).items() if n.endswith("up.weight")) > 0


def test_previews_drawn_with_sample_are_told_apart(pipe: object, images: ImageSet, tmp_path: Path) -> None:
    def preview(worn: object, step: int) -> None:
        sets.append(sample(worn, ["a portrait"], [0], Sampling(steps=2), tmp_path / f"preview-{step}", progress=progress.silent))

    sets: list[ImageSet] = []
    train(pipe, images, tmp_path / "a", replace(HOW, learning_rate=0.05), preview=preview)
    assert [s.table["adapter"].item() for s in sets] == [f"in memory: lora, step {step}" for step in (3, 6, 9)]
    assert len({s.table["adapter_sha256"].item() for s in sets}) == 3


# --- killed and resumed

SCRIPT = """
import os, signal, sys
sys.path[:0] = [{here!r}]
import test_finetune as t
from harness.images import open_set
images, kill = open_set(t.Path({images!r})), {kill!r}
if kill[0] != "step":
    count, real = 0, getattr(os, kill[0])
    def die(*args):
        global count
        count += 1
        if count == kill[1]:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)
    setattr(os, kill[0], die)
def tell(event):
    if kill[0] == "step" and event.get("stage") == "train" and event.get("step") == kill[1]:
        os.kill(os.getpid(), signal.SIGKILL)
t.train(t.models.load_pipeline({model!r}, device="cpu"), images, t.Path({out!r}), progress=tell)
"""


def process(folders: dict, images: ImageSet, out: Path, kill: tuple[str, int]) -> subprocess.CompletedProcess:
    here = Path(__file__).parent
    code = SCRIPT.format(here=str(here), images=str(images.folder), model=str(folders["sd1"]), out=str(out), kill=kill)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=here.parent, check=False)


@pytest.fixture(scope="module")
def uninterrupted(folders: dict, images: ImageSet, root: Path) -> str:
    done = process(folders, images, root / "whole", ("step", -1))
    assert done.returncode == 0, done.stderr.decode()
    return sha256(root / "whole" / "pytorch_lora_weights.safetensors")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("kill", [("step", 5), ("fsync", 10), ("replace", 11)])  # times, 6 latents, checkpoint and export of step 3 are written first
def test_killed_anywhere_it_ends_with_the_same_bytes(folders: dict, pipe: object, images: ImageSet, tmp_path: Path, uninterrupted: str,
                                                     kill: tuple[str, int]) -> None:
    done = process(folders, images, tmp_path, kill)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not (tmp_path / "pytorch_lora_weights.safetensors").exists() and (tmp_path / "checkpoint.safetensors").exists()
    told: list[dict] = []
    adapter = train(pipe, images, tmp_path, progress=told.append)
    assert any("goes on after step" in event.get("note", "") for event in told)
    assert sha256(adapter.path) == uninterrupted
    assert not list(tmp_path.glob(".*")) and not (tmp_path / "checkpoint.safetensors").exists()


def test_ctrl_c_keeps_the_last_checkpoint_and_says_how_to_go_on(pipe: object, images: ImageSet, tmp_path: Path, uninterrupted: str) -> None:
    told: list[dict] = []

    def tell(event: dict) -> None:
        told.append(event)
        if event.get("stage") == "train" and event.get("step") == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(pipe, images, tmp_path, progress=tell)
    assert "goes on from the last checkpoint" in told[-1]["note"] and not pipe.get_active_adapters()
    assert sha256(train(pipe, images, tmp_path).path) == uninterrupted


def test_a_training_that_goes_on_after_midnight_is_still_the_same(pipe: object, images: ImageSet, tmp_path: Path, uninterrupted: str) -> None:
    def stop(event: dict) -> None:
        if event.get("stage") == "train" and event.get("step") == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(pipe, images, tmp_path, progress=stop)
    today = gate.ask(images, YES)
    tomorrow = replace(today, at="2999-01-01")
    adapter = lora(HOW, pipe, images, tmp_path, tomorrow, progress=progress.silent)
    assert sha256(adapter.path) == uninterrupted and adapter.manifest["consent"]["at"] == today.at
    assert json.loads((tmp_path / "times.json").read_text())["ended"]


def test_what_is_finished_is_not_done_twice_and_not_mistaken_for_something_else(pipe: object, images: ImageSet, tmp_path: Path) -> None:
    first = train(pipe, images, tmp_path)
    told: list[dict] = []
    again = train(pipe, images, tmp_path, progress=told.append)
    assert again.losses.equals(first.losses) and not any("loss" in event for event in told)
    with pytest.raises(HarnessError, match="another settings"):
        train(pipe, images, tmp_path, replace(HOW, rank=4))


def test_a_checkpoint_of_other_settings_is_not_gone_on_from(pipe: object, images: ImageSet, tmp_path: Path) -> None:
    def stop(event: dict) -> None:
        if event.get("step") == 4 and event["stage"] == "train":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(pipe, images, tmp_path, progress=stop)
    with pytest.raises(HarnessError, match="other settings"):
        train(pipe, images, tmp_path, replace(HOW, seed=1))


PLAIN = Training(steps=9, learning_rate=0.1, warmup=0, schedule="constant", weight_decay=0.0, checkpoint_every=3)


def alone(parameter: torch.nn.Parameter, how: Training = PLAIN) -> trainer.Loop:
    return trainer.Loop(how, trainer.Attached([trainer.Group({"p": parameter}, how.learning_rate)], []), "no", trainer.team("cpu"))


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))

    def parts(step: int) -> list:
        return [lambda: parameter.sum() * (float("nan") if step == 4 else 1.0)]

    with pytest.raises(HarnessError, match="no number at step 5"):
        trainer.train(alone(parameter), parts, tmp_path, "f", progress.silent)
    kept = load_file(tmp_path / "checkpoint.safetensors")
    assert len(kept["history"]) == 3 and torch.isfinite(kept["parameter:p"]).all()


def test_a_damaged_checkpoint_is_said(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(b"half")
    with pytest.raises(HarnessError, match="damaged"):
        trainer.train(alone(torch.nn.Parameter(torch.ones(1))), lambda step: [lambda: torch.zeros(())], tmp_path, "f", progress.silent)


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [trainer.rate(Training(steps=100, warmup=9), step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) > 0.97 and rates[-1] < 1e-3
    assert trainer.rate(Training(steps=100, warmup=0, schedule="constant"), 99) == 1.0
    assert trainer.rate(Training(steps=100, warmup=0, schedule="linear"), 50) == 0.5


def test_the_running_average_is_what_is_shown_and_survives_a_stop(tmp_path: Path) -> None:
    how, shown = replace(PLAIN, ema=0.5), []

    def go(folder: Path, until: int) -> None:
        parameter = torch.nn.Parameter(torch.ones(1))

        def parts(step: int) -> list:
            if step == until:
                raise KeyboardInterrupt
            return [lambda: (parameter * (step + 1)).sum()]

        trainer.train(alone(parameter, how), parts, folder, "f", progress.silent, lambda step: shown.append((step, parameter.item())))

    go(tmp_path / "whole", -1)
    whole, shown = dict(shown), []
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "stopped", 7)
    go(tmp_path / "stopped", -1)
    assert dict(shown) == whole and (tmp_path / "whole" / "checkpoint.safetensors").read_bytes() == (tmp_path / "stopped" / "checkpoint.safetensors").read_bytes()
    kept = load_file(tmp_path / "whole" / "checkpoint.safetensors")
    assert whole[9] == pytest.approx(kept["average:p"].item()) and whole[9] > kept["parameter:p"].item()


def test_precision_is_resolved_and_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trainer.precision("auto", "cpu") == "no" and trainer.precision("bf16", "cpu") == "bf16"
    for able, wanted in ((True, "bf16"), (False, "no")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, able=able: able)
        assert trainer.precision("auto", "cuda") == wanted


def test_a_tensor_file_is_the_same_in_every_process_and_is_ordinary(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, 2, dtype=torch.bfloat16)}
    one = tensor_file(tensors, {str(i): "x" for i in range(20)})
    assert one == tensor_file(tensors, {str(i): "x" for i in reversed(range(20))})
    (tmp_path / "t.safetensors").write_bytes(one)
    assert torch.equal(load_file(tmp_path / "t.safetensors")["b"], tensors["b"])
    with safe_open(tmp_path / "t.safetensors", "pt") as file:
        assert len(file.metadata()) == 20


# --- consent and bad input


def test_nothing_is_trained_without_consent(pipe: object, images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="artist-07: 6 works notAllowed"):
        train(pipe, images, tmp_path, consent=gate.ask(images, NO))
    yes, other = gate.ask(images, YES), tiny.pictures(tmp_path / "others", seed=9)
    for wrong in (replace(yes, allowed=False, reasons=("no",)), replace(yes, use="cawg.data_mining"), gate.ask(other, YES)):
        with pytest.raises(Refused):
            train(pipe, images, tmp_path / "out", consent=wrong)
    with pytest.raises(Refused, match="gate"):
        lora(HOW, pipe, images, tmp_path / "out", None)
    assert not (tmp_path / "out").exists()


def test_an_audit_goes_on_marked_and_cannot_be_exported(pipe: object, images: ImageSet, tmp_path: Path) -> None:
    marked = train(pipe, images, tmp_path / "audit", consent=gate.ask(images, NO, purpose="audit"))
    manifest = read_manifest(marked.path)
    assert manifest["purpose"] == "audit" and not manifest["consent"]["allowed"] and "notAllowed" in manifest["consent"]["reasons"][0]
    with pytest.raises(Refused, match="must not be exported"):
        marked.export(tmp_path / "public.safetensors")
    assert not (tmp_path / "public.safetensors").exists()
    assert train(pipe, images, tmp_path / "yes").export(tmp_path / "public.safetensors").is_file()


def test_pictures_that_cannot_be_trained_on(pipe: object, images: ImageSet, tmp_path: Path) -> None:
    twice = ImageSet(images.folder, images.table.iloc[[0, 0, 0, 1]].reset_index(drop=True))
    for wrong, words in ((twice, "2 different"), (images.assign(caption=""), "caption"),
                         (ImageSet(images.folder, images.table.drop(columns="caption")), "caption")):
        with pytest.raises(HarnessError, match=words):
            train(pipe, wrong, tmp_path)
    with pytest.raises(HarnessError, match="resolution 15.*nearest is 16"):
        train(pipe, images, tmp_path, replace(HOW, resolution=15))


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"warmup": 300}, {"caption_dropout": 1.0}, {"snr_gamma": 0.0}, {"schedule": "steep"}, {"layers": "none"},
                                   {"accumulation": 9}, {"ema": 1.0}, {"text_learning_rate": 1e-4}, {"optimiser": "sgd"}, {"prediction": "sample"},
                                   {"mixed_precision": "fp8"}, {"learning_rate": 0.0}])
def test_settings_that_contradict_themselves(wrong: dict) -> None:
    with pytest.raises(HarnessError):
        Lora(**wrong)


def test_samples_say_which_adapter_drew_them(pipe: object, images: ImageSet, tmp_path: Path) -> None:
    adapter = train(pipe, images, tmp_path / "a", replace(HOW, learning_rate=0.05))
    how = Sampling(steps=2)
    base = sample(pipe, ["a portrait"], [0], how, tmp_path / "base", progress=progress.silent)
    tuned = sample(pipe, ["a portrait"], [0], how, tmp_path / "tuned", adapter=adapter.path, progress=progress.silent)
    assert tuned.table["adapter_sha256"].tolist() == [sha256(adapter.path)] and base.table["adapter"].tolist() == [""]
    assert not np.array_equal(base.pixels(), tuned.pixels()) and not pipe.get_active_adapters()
    with pytest.raises(HarnessError, match="adapter"):
        sample(pipe, ["a portrait"], [0], how, tmp_path / "base", adapter=adapter.path, progress=progress.silent)
