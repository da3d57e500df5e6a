"""What a training is said to need, against what real ones took; and advice that fits."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from torch.profiler import ProfilerActivity, profile

from harness import models
from harness.errors import HarnessError, Refused
from harness.finetune import Full, Lora, fits
from harness.finetune.lora import ATTENTION, TARGETS
from harness.forecast import device, flops, training

MIB, GIB = 1 << 20, 1 << 30
FOLDER = models.MINIATURE / "pipeline"


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


# --- a step, against what torch allocates ---------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [
    training.Case(full=True, batch=4), training.Case(full=True, batch=8, checkpointing=True), training.Case(full=True, batch=2, again=True),
    training.Case(lora=ATTENTION, batch=8, checkpointing=True), training.Case(lora=TARGETS["all"], rank=16, batch=4)], ids=str)
def test_the_memory_of_a_step_is_what_torch_allocates(case: training.Case, capfd: pytest.CaptureFixture[str]) -> None:
    unet = models.load_pipeline("miniature", device="cpu").unet
    training._prepare(unet, [], case)
    if case.checkpointing:
        unet.enable_gradient_checkpointing()
    for module in unet.modules():  # the counted model was made without contents, but the real LoRA's matrices come with some
        module.to("cpu") if any(p.is_meta for p in module.parameters(recurse=False)) and module.to_empty(device="cpu", recurse=False) else None
    noisy, words = torch.zeros(case.batch, 8, 16, 16), torch.zeros(case.batch, 40, 192)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        for _ in range(1 + case.again):
            unet(noisy, torch.zeros(case.batch), words).sample.float().sum().backward()
    capfd.readouterr()  # the profiler talks
    now = peak = 0
    for event in sorted((each for each in seen.profiler.kineto_results.events() if each.name() == "[memory]"), key=lambda each: each.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    found = training.measure(FOLDER, case)
    assert found.step_bytes == pytest.approx(peak, rel=0.1)


def test_what_is_trained_is_counted_like_the_recipe_trains_it(tmp_path: Path) -> None:
    from harness.finetune.fit import fit  # noqa: F401 - the recipes come with it
    from harness.finetune.full import FullRecipe
    from harness.finetune.inversion import InversionRecipe, TextualInversion
    from harness.finetune.lora import LoraRecipe
    from harness.finetune.pivotal import Pivotal, PivotalRecipe

    words = {"token": "<anna> <ben>", "initial_word": "red", "vectors": 2}
    cases = [("lora", LoraRecipe(), Lora(layers="all", rank=3, text_encoder=True)), ("lora", LoraRecipe(), Lora(layers="cross-attention")),
             ("full", FullRecipe(), Full(text_encoder=True)), ("textual_inversion", InversionRecipe(), TextualInversion(**words)),
             ("pivotal", PivotalRecipe(), Pivotal(rank=2, **words))]
    for family, build in tiny.FAMILIES.items():
        pipe = models.load_pipeline(str(build(tmp_path / family)), device="cpu")
        for name, recipe, how in cases if family != "sd2" else ():
            word = next(word for word in ("a", "in", "an", "on", "the") if len(pipe.tokenizer(word, add_special_tokens=False).input_ids) == 1)
            how = replace(how, initial_word=word) if hasattr(how, "initial_word") else how
            with recipe.attach(how, pipe, "no") as attached:
                real = sum(parameter.numel() for parameter in attached.parameters.values())
            assert fits.predict(name, how, pipe.origin.folder, 5, "cpu").trained == real, (family, name)


def test_gradient_checkpointing_parts_and_bf16_take_less_and_more_pixels_more() -> None:
    base = training.Case(lora=ATTENTION, batch=8)
    found = {name: training.measure(FOLDER, replace(base, **given)) for name, given in {
        "base": {}, "checkpointing": {"checkpointing": True}, "parts": {"batch": 2, "again": True}, "bf16": {"mixed": True, "half": True},
        "pixels": {"pixels": 128}}.items()}
    size = {name: each.step_bytes for name, each in found.items()}
    assert max(size["checkpointing"], size["parts"], size["bf16"]) < 0.8 * size["base"] < 0.8 * size["pixels"] / 3
    assert found["bf16"].weight_bytes < 0.52 * found["base"].weight_bytes
    assert found["checkpointing"].step == found["base"].step + found["base"].forward


def test_counting_leaves_torch_as_it_was_and_other_tensors_alone() -> None:
    from harness.forecast.live import as_computed

    before, picture = torch.nn.functional.conv2d, torch.randn(1, 1, 3, 3)
    with as_computed(mixed=True):
        assert torch.nn.functional.linear(torch.eye(3), torch.eye(3)).dtype == torch.float32
        assert torch.nn.functional.conv2d(picture, picture).item() == pytest.approx(picture.square().sum().item())
        attended = torch.nn.functional.scaled_dot_product_attention(*[torch.ones(1, 1, 2, 4)] * 3)
        assert torch.allclose(attended, torch.ones(1, 1, 2, 4))
    assert torch.nn.functional.conv2d is before


# --- whole trainings ------------------------------------------------------------------------------------------------------

SCRIPT = """
import json, sys, time
sys.path[:0] = [{here!r}]
import psutil, tiny
from pathlib import Path
from harness import models, progress, provenance
from harness.consent import gate, ledger
from harness.finetune import Full, Lora, fits, full, lora
images = tiny.pictures(Path({out!r}) / "works", n=4, size=64)
yes = ledger.of([ledger.Record("artist-07", "*", "cawg.ai_generative_training", "allowed", "a letter", "2024-01-01")])
pipe = models.load_pipeline("miniature", device="cpu")
how = {how}
said = fits.predict({recipe!r}, how, pipe, len(images))
before, began = psutil.Process().memory_info().rss, time.perf_counter()
{recipe}(how, pipe, images, Path({out!r}) / "trained", gate.ask(images, yes), progress=progress.silent)
took = time.perf_counter() - began
print(json.dumps([said.memory_bytes, said.seconds, said.seconds_low, said.seconds_high, provenance.peak_memory()["host_bytes"], took, before]))
"""


@pytest.mark.parametrize(("recipe", "how"), [("lora", "Lora(steps=3, warmup=1, batch_size=24)"),
                                             ("full", "Full(steps=2, warmup=1, batch_size=16, accumulation=2, ema=0.9, gradient_checkpointing=True)")])
def test_a_forecast_is_within_its_factor_of_what_then_happens(recipe: str, how: str, tmp_path: Path) -> None:
    code = SCRIPT.format(here=str(Path(__file__).parent), out=str(tmp_path), recipe=recipe, how=how)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == 0, done.stderr
    said, seconds, low, high, peak, took, before = json.loads(done.stdout.splitlines()[-1])
    print(f"{recipe}: {said / MIB:.0f} MiB forecast, {peak / MIB:.0f} measured ({before / MIB:.0f} before); {seconds:.1f} s forecast, {took:.1f} measured")
    assert peak / fits.MEMORY_FACTOR < said < peak * fits.MEMORY_FACTOR
    assert 0.5 * (peak - before) < said - before < 2 * (peak - before)  # also without what was there anyway
    assert low < took < high


# --- what is said ---------------------------------------------------------------------------------------------------------


def test_the_parts_are_the_whole_and_moments_follow_the_optimiser() -> None:
    plain = fits.predict("full", Full(), "miniature", 5, "cuda")
    small = fits.predict("full", Full(optimiser="adamw8bit", ema=0.9), "miniature", 5, "cuda")
    assert sum(plain.parts.values()) == pytest.approx(plain.memory_bytes, abs=10)
    assert plain.parts["optimiser's moments"] == 8 * plain.trained and small.parts["optimiser's moments"] < 2.2 * plain.trained
    assert (plain.parts["running average"], small.parts["running average"]) == (0, 4 * plain.trained)
    assert fits.predict("full", Full(), "miniature", 5, "cpu").parts["base weights, to be given back"] == 4 * plain.trained
    assert any("2.4 TFLOP" in line or "TFLOP" in line for line in plain.lines()) and "guess" in plain.method


def test_two_processes_take_half_the_pictures_each_and_on_the_host_twice_the_rest() -> None:
    one, two = (fits.predict("lora", Lora(batch_size=8), "miniature", 5, "cpu", processes) for processes in (1, 2))
    assert two.parts["activations and gradients"] < 0.7 * one.parts["activations and gradients"]
    assert one.memory_bytes < two.memory_bytes < 2 * one.memory_bytes and two.flops == one.flops


def test_class_images_cost_time_and_their_drawing_memory() -> None:
    plain, prior = (fits.predict("lora", Lora(steps=20, batch_size=1, class_prompt=prompt), "miniature", 5, "cpu") for prompt in ("", "a portrait"))
    assert prior.flops > plain.flops + 100 * 20 * 2 * training.needs(FOLDER, training.Case(lora=ATTENTION)).forward
    assert prior.parts["activations and gradients"] > plain.parts["activations and gradients"]


def test_advice_begins_with_what_changes_nothing_and_fits() -> None:
    whole = fits.predict("full", Full(), "miniature", 5, "cpu").memory_bytes
    ways = fits.advise("full", Full(), "miniature", 5, whole - 20 * MIB, "cpu")
    assert len(ways) == 3 and all(found.memory_bytes <= whole - 20 * MIB for _, found in ways)
    assert [words for words, _ in ways][:2] == ["accumulation=8", "optimiser=adamw8bit"]  # halves, or recomputing, spare less
    tight = fits.predict("lora", Lora(batch_size=1, gradient_checkpointing=True), "miniature", 5, "cpu").memory_bytes + MIB
    assert any(words.startswith("recipe=lora") for words, _ in fits.advise("full", Full(), "miniature", 5, tight, "cpu"))
    assert fits.advise("full", Full(), "miniature", 5, MIB, "cpu") == []
    assert fits.said([]) == "no change of settings makes it fit, it needs a larger device"


def test_what_cannot_fit_is_refused_with_what_would(monkeypatch: pytest.MonkeyPatch) -> None:
    how = Lora(batch_size=512)
    needs = fits.predict("lora", how, "miniature", 5, "cpu")
    monkeypatch.setenv(device.MEMORY, str(needs.memory_least / GIB * 0.8))
    with pytest.raises(Refused, match=r"needs about .* GiB of memory, and .*allows .*; it would fit with `accumulation=512` \("):
        fits.preflight("lora", how, "miniature", 5, "cpu")
    assert fits.preflight("lora", Lora(), "miniature", 5, "cpu").memory_bytes < needs.memory_least * 0.8


def test_out_of_memory_says_the_step_the_need_and_the_way_out() -> None:
    pipe = models.load_pipeline("miniature", device="cpu")
    errors = [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"), MemoryError()]
    assert all(fits.is_out_of_memory(error) for error in errors) and not fits.is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    said = fits.out_of_memory(errors[0], "lora", Lora(batch_size=64), pipe, 5, step=7)
    assert isinstance(said, HarnessError) and str(said).startswith("out of memory at step 8: these settings need about ")
    assert "would fit with `accumulation=2`" in str(said) and "last checkpoint is kept" in str(said)


def test_an_unknown_model_cannot_be_forecast() -> None:
    with pytest.raises(HarnessError, match="not on this machine"):
        fits.predict("lora", Lora(), "nobody/nothing", 5)


def test_a_count_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    case = training.Case(lora=ATTENTION)
    first = training.needs(FOLDER, case)
    monkeypatch.setattr(training, "measure", lambda *_: pytest.fail("counted again"))
    assert training.needs(FOLDER, case) == first
    broken = next(flops.kept_in().glob("*.json"))
    broken.write_text("{")
    monkeypatch.setattr(training, "measure", lambda *_: first)
    assert training.needs(FOLDER, case) == first and json.loads(broken.read_text())["trained"] == first.trained
