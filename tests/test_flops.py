"""Operations and memory counted from configurations: against published figures, against a layer worked out by hand, against real tensors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny

from harness import provenance
from harness.errors import HarnessError
from harness.forecast import flops

ATTENDING, PLAIN = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), ("DownBlock2D", "UpBlock2D")
# Operations of Stable Diffusion 1.5 at 512 pixels, in units of 10^12.
PUBLISHED = {"forward": 0.803, "encode": 1.117, "decode": 2.515, "text": 0.013}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.sd(tmp_path_factory.mktemp("tiny") / "sd")


@pytest.fixture(scope="module")
def counted(sd: Path) -> flops.Counts:
    return flops.measure(sd)


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of Stable Diffusion 1.5, written by hand: no weights anywhere."""
    unet = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
            "down_block_types": [ATTENDING[0]] * 3 + [PLAIN[0]], "up_block_types": [PLAIN[1]] + [ATTENDING[1]] * 3}
    vae = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4, "sample_size": 512,
           "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    text = {"architectures": ["CLIPTextModel"], "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
            "max_position_embeddings": 77, "vocab_size": 49408, "projection_dim": 768}
    folder = tmp_path_factory.mktemp("sd15")
    for part, config in (("unet", unet), ("vae", vae), ("text_encoder", text)):
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(config))
    return folder


def test_stable_diffusion_15_agrees_with_the_published_figures(sd15: Path) -> None:
    full, lora = flops.measure(sd15, trains="full"), flops.measure(sd15)
    assert full.pixels == 512
    for name, figure in PUBLISHED.items():
        assert round(getattr(full, name) / 1e12, 3) == figure, name
    assert round(full.step / 1e12, 3) == 2.407
    assert lora.step / 1e12 == pytest.approx(1.726, rel=0.01)
    assert full.weight_bytes == pytest.approx(4 * (859.5e6 + 83.7e6 + 123.1e6), rel=0.001)
    assert full.trained_bytes == pytest.approx(4 * 859.5e6, rel=0.001) and lora.trained_bytes == 4 * 1_594_368  # the size of the usual rank-8 LoRA
    assert full.step_bytes[0] > full.trained_bytes > lora.step_bytes[0]  # all gradients, or next to none


def test_a_layer_by_hand() -> None:
    import torch
    from harness.forecast.flops import alive, operations

    layer = torch.nn.Conv2d(3, 5, 3, padding=1, device="meta")
    picture = torch.empty(1, 3, 8, 8, device="meta")
    forward = operations(lambda: layer(picture))
    assert forward == 2 * (5 * 8 * 8) * (3 * 3 * 3)  # each of 320 outputs multiplies and adds 27 times
    assert operations(lambda: layer(picture).sum().backward(), grad=True) == 2 * forward  # the picture wants no gradient, the weights do
    outputs = 4 * 5 * 8 * 8
    assert alive(lambda: layer(picture), layer) == outputs
    assert alive(lambda: layer(picture).sum().backward(), layer, grad=True) == outputs + 4  # and their sum; gradients come when they are gone
    assert alive(lambda: (layer(picture), layer(picture)), layer) == 2 * outputs


def test_a_part_of_a_tiny_pipeline_by_hand(counted: flops.Counts) -> None:
    found = counted
    width, length = 16, tiny.CONTEXT
    projections, attention, mlp = 4 * 2 * length * width * width, 2 * 2 * length * length * width, 2 * 2 * length * width * 2 * width
    assert found.text == 2 * (projections + attention + mlp)  # two layers
    assert found.pixels == tiny.PIXELS and found.forward < found.step < 3 * found.forward


def test_sdxl_and_its_second_text_encoder_are_counted(counted: flops.Counts, tmp_path: Path) -> None:
    large = flops.measure(tiny.sdxl(tmp_path / "sdxl"))
    assert large.text > 2 * counted.text and large.forward > counted.forward


def test_another_size_costs_more(sd: Path, counted: flops.Counts) -> None:
    small, large = counted, flops.measure(sd, 2 * tiny.PIXELS)
    assert 3.9 < large.decode / small.decode < 5 and large.step_bytes[1] > 3 * small.step_bytes[1] and large.text == small.text


def test_the_memory_of_a_training_step_is_what_torch_really_allocates(capfd: pytest.CaptureFixture[str]) -> None:
    import torch
    from torch.profiler import ProfilerActivity, profile

    from harness import models

    found = flops.measure(models.MINIATURE / "pipeline")
    unet = models.load_pipeline("miniature", device="cpu").unet
    flops._prepare(unet, "lora")
    noisy, words = torch.zeros(8, 8, 16, 16), torch.zeros(8, 40, 192)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        unet(noisy, torch.zeros(8), words).sample.sum().backward()
    capfd.readouterr()  # the profiler talks
    now = peak = 0
    for event in sorted((each for each in seen.profiler.kineto_results.events() if each.name() == "[memory]"), key=lambda each: each.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    assert found.step_peak(8) == pytest.approx(peak, rel=0.1)


def test_activations_grow_with_the_batch_and_gradients_do_not() -> None:
    one = flops.Counts(64, 1, 1, 1, 1, 1, 0, 0, 0, (500, 800), 0, 0)
    assert [one.step_peak(batch) for batch in (1, 4, 8, 16)] == [500, 500, 800, 1600]


def test_a_count_is_kept_by_the_content_of_the_configuration(sd: Path, counted: flops.Counts, tmp_path: Path, cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "sd"
    shutil.copytree(sd, folder)
    assert flops.counts(str(folder), start=False) is None
    first = flops.counts(str(folder))
    assert "once" in capfd.readouterr().out and first == counted
    assert flops.counts(str(folder), start=False) == first and capfd.readouterr().out == ""
    assert flops.counts(str(folder), trains="full", start=False) is None
    kept = next(cache.rglob("*.json"))
    kept.write_text("{")
    assert flops.counts(str(folder), start=False) is None  # a broken one is no answer
    unet = folder / "unet" / "config.json"
    unet.write_text(unet.read_text().replace('"layers_per_block": 1', '"layers_per_block": 2'))
    kept.write_text(json.dumps(vars(first)))
    assert flops.counts(str(folder), start=False) is None


def test_a_model_that_cannot_be_counted_says_so(sd: Path) -> None:
    for name in ("someone/something", "~nobody-of-that-name/model", "x" * 5000, "a\0b", "", "a b/c?d", str(sd / "model_index.json")):
        with pytest.raises(HarnessError, match="not on this machine"):
            flops.counts(name)
    with pytest.raises(HarnessError, match="could not be counted: .*invalid choice: 'nothing'"):
        flops.counts(str(sd), trains="nothing")


def test_the_miniature_is_counted_without_importing_torch_here() -> None:
    import subprocess
    import sys

    code = "import sys; from harness.forecast import flops; flops.configuration('miniature'); assert not {'torch', 'numpy', 'diffusers'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=provenance.PACKAGE.parent).returncode == 0
