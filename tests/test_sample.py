"""Images reproducible one by one, resumed to the same bytes, never mislabelled."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from harness import conditioning, models, progress
from harness.errors import HarnessError
from harness.images import open_set
from harness.sample import Sampling, cross, sample

HOW = Sampling(steps=3, batch_size=4)
PROMPTS, SEEDS = cross(["a person", "null"], 3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {name: build(root / name) for name, build in tiny.FAMILIES.items()}


@pytest.fixture(scope="module")
def pipe(folders: dict[str, Path]) -> object:
    return models.load_pipeline(str(folders["sd1"]), device="cpu")


def draw(pipe: object, out: Path, prompts: list[str] = PROMPTS, seeds: list[int] = SEEDS, how: Sampling = HOW) -> object:
    return sample(pipe, prompts, seeds, how, out, progress=progress.silent)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_draws_what_plain_diffusers_draws(family: str, folders: dict[str, Path], tmp_path: Path) -> None:
    import diffusers
    import torch

    ours = draw(models.load_pipeline(str(folders[family]), device="cpu"), tmp_path).pixels()
    plain = diffusers.DiffusionPipeline.from_pretrained(folders[family])
    plain.set_progress_bar_config(disable=True)
    plain.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(plain.scheduler.config)
    for i in (0, 4):
        generator = torch.Generator().manual_seed(SEEDS[i])
        theirs = plain(PROMPTS[i], num_inference_steps=3, guidance_scale=4.0, generator=generator, output_type="np").images[0]
        assert np.abs(theirs * 255 - ours[i]).max() <= 1  # rounding; batched and alone differ in the last bits
    assert not np.array_equal(ours[0], ours[1])


def test_one_image_of_a_batch_drawn_alone_equals_itself(pipe: object, tmp_path: Path) -> None:
    together = draw(pipe, tmp_path / "a").pixels().astype(int)
    alone = draw(pipe, tmp_path / "b", PROMPTS[3:4], SEEDS[3:4]).pixels().astype(int)
    assert np.abs(together[3] - alone[0]).max() <= 1


def test_the_row_and_the_png_say_the_same(pipe: object, tmp_path: Path) -> None:
    table = draw(pipe, tmp_path).table
    assert list(table) == [
        "file", "sha256", "prompt", "seed", "steps", "guidance_scale", "scheduler", "negative_prompt", "height", "width", "model",
        "model_sha256", "adapter", "adapter_sha256", "dtype", "device", "batch_size"]
    row = table.iloc[4]
    text = Image.open(tmp_path / row["file"]).text
    assert text == {key: str(row[key]) for key in table if key not in ("file", "sha256")}
    assert row["prompt"] == "null" and open_set(tmp_path).table.equals(table)


def test_what_is_missing_is_drawn_to_the_same_bytes(pipe: object, tmp_path: Path) -> None:
    first = draw(pipe, tmp_path).table
    for name in ("00001.png", "00005.png", "samples.csv"):
        (tmp_path / name).unlink()
    kept = (tmp_path / "00000.png").stat().st_mtime_ns
    assert draw(pipe, tmp_path).table.equals(first)
    assert (tmp_path / "00000.png").stat().st_mtime_ns == kept


def test_an_image_changed_behind_our_back_is_drawn_again(pipe: object, tmp_path: Path) -> None:
    first = draw(pipe, tmp_path).table
    other = Image.open(tmp_path / "00001.png")
    from harness.images import save_png

    save_png(tmp_path / "00001.png", Image.new("RGB", other.size), dict(other.text))
    assert draw(pipe, tmp_path).table.equals(first)


def test_a_folder_of_other_settings_is_refused_by_name(pipe: object, tmp_path: Path) -> None:
    draw(pipe, tmp_path)
    with pytest.raises(HarnessError, match="steps '3', not '4'"):
        draw(pipe, tmp_path, how=Sampling(steps=4, batch_size=4))
    with pytest.raises(HarnessError, match="beyond those asked for"):
        draw(pipe, tmp_path, PROMPTS[:2], SEEDS[:2])


KILLED = """
import os, signal, sys
sys.path[:0] = [{here!r}]
import test_sample as t
pipe = t.models.load_pipeline({model!r}, device="cpu")
count = 0
real = os.{call}
def kill(*args):
    global count
    count += 1
    if count == {n}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args)
os.{call} = kill
t.draw(pipe, t.Path({out!r}))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize(("call", "n"), [("fsync", 2), ("replace", 7)])
def test_killed_while_writing_it_resumes_to_the_same_bytes(folders: dict, pipe: object, tmp_path: Path, call: str, n: int) -> None:
    here = Path(__file__).parent
    code = KILLED.format(here=str(here), model=str(folders["sd1"]), out=str(tmp_path / "killed"), call=call, n=n)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=here.parent, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    whole = draw(pipe, tmp_path / "whole").table
    assert len(list((tmp_path / "killed").glob("[0-9]*.png"))) == n - 1
    assert draw(pipe, tmp_path / "killed").table.equals(whole)
    assert not list((tmp_path / "killed").glob(".*"))


def test_the_scheduler_asked_for_is_used_and_the_own_one_comes_back(pipe: object, tmp_path: Path) -> None:
    own = pipe.scheduler
    sets = [draw(pipe, tmp_path / name, how=Sampling(steps=3, scheduler=name)).pixels() for name in ("dpm++", "ddim", "euler", "model")]
    assert pipe.scheduler is own
    assert all(not np.array_equal(sets[0], other) for other in sets[1:])


def test_v_prediction_reaches_the_scheduler(folders: dict[str, Path]) -> None:
    from harness.sample.settings import SCHEDULERS, scheduler_of

    pipe = models.load_pipeline(str(folders["sd2"]), device="cpu")
    assert {scheduler_of(pipe, name).config.prediction_type for name in SCHEDULERS} == {"v_prediction"}


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_a_schedule_that_ends_in_pure_noise_draws_numbers(tmp_path: Path, prediction: str) -> None:
    pipe = models.load_pipeline(str(tiny.sd(tmp_path / "m", prediction=prediction)), device="cpu")
    pipe.scheduler = tiny.noise(prediction, zero_snr=prediction == "v_prediction")
    for name in ("dpm++", "dpm++karras", "ddim", "euler"):
        assert draw(pipe, tmp_path / name, ["a"], [0], Sampling(steps=4, scheduler=name)).pixels().std() > 0


def test_cross_gives_new_seeds_to_every_prompt() -> None:
    prompts, seeds = cross(["a", "b"], [5, 7])
    assert prompts == ["a", "a", "b", "b"] and seeds == [5, 7, 8, 10]
    assert cross(["a"], 2) == (["a", "a"], [0, 1])
    with pytest.raises(HarnessError, match="twice"):
        cross(["a"], [1, 1])


def test_the_words_that_will_not_be_read_are_named(pipe: object, tmp_path: Path) -> None:
    told: list[dict] = []
    sample(pipe, ["a person " * 10], [0], HOW, tmp_path, progress=told.append)
    assert any("will not read" in event.get("note", "") for event in told)
    assert conditioning.cut_words(pipe, "a person") == ""


@pytest.mark.parametrize(("prompts", "seeds", "how", "words"), [
    ([], [], {}, "at least one"), (["a"], [1, 2], {}, "as many"), ("ab", [1, 2], {}, "as many"), (["a"], [-1], {}, "seed -1"),
    (["a"], [2**63], {}, "seed"), (["a"], [0.5], {}, "whole number"), (["a"], [0], {"height": 20}, "20 is not divisible by 8; the nearest is 16")])
def test_requests_that_cannot_be_drawn(pipe: object, tmp_path: Path, prompts: list, seeds: list, how: dict, words: str) -> None:
    with pytest.raises(HarnessError, match=words):
        draw(pipe, tmp_path / "out", prompts, seeds, Sampling(**how))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", [{"steps": 0}, {"guidance_scale": 0.5}, {"scheduler": "magic"}, {"guidance_scale": 1.0, "negative_prompt": "x"}])
def test_settings_that_contradict_themselves(how: dict) -> None:
    with pytest.raises(HarnessError):
        Sampling(**how)


def test_values_that_are_no_numbers_are_not_drawn_as_black(folders: dict[str, Path], tmp_path: Path) -> None:
    broken = models.load_pipeline(str(folders["sd1"]), device="cpu")
    broken.vae.decoder.conv_out.weight.data.fill_(float("nan"))
    with pytest.raises(HarnessError, match="not numbers"):
        draw(broken, tmp_path)
    assert not list(tmp_path.glob("*.png"))


def test_an_adapter_that_does_not_fit_is_refused(pipe: object, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"transformer.blocks.0.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    (tmp_path / "evil.bin").write_bytes(b"")
    for name, words in (("other.safetensors", "fit"), ("evil.bin", "pickle"), ("gone.safetensors", "no such adapter")):
        with pytest.raises(HarnessError, match=words):
            sample(pipe, ["a"], [0], HOW, tmp_path / "out", adapter=tmp_path / name, progress=progress.silent)
    assert not pipe.get_active_adapters()
