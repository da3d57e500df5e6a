"""Trainings in processes of their own: the same result from one and from two, errors as sentences, nobody left behind."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import tiny
from safetensors.torch import load_file

from harness import progress
from harness.consent import ledger
from harness.errors import HarnessError, Refused
from harness.finetune import Full, Lora, jobs, launch, train_cli
from harness.images import ImageSet

USE = "cawg.ai_generative_training"
HOW = Lora(steps=4, warmup=1, checkpoint_every=2, batch_size=4, learning_rate=0.01, mixed_precision="no")
FAR = 1e-4
"""Two processes add the same numbers in another order: how far apart the weights may end, of which the largest are 1e-2 and more."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launch")
    tiny.sd(folder / "model")
    ledger.write(folder / "yes.csv", [ledger.Record("artist-07", "*", USE, "allowed", "a letter", "2024-01-01")])
    ledger.write(folder / "no.csv", [ledger.Record("artist-07", "*", USE, "notAllowed", "a letter", "2024-01-01")])
    return folder


@pytest.fixture(scope="module")
def images(root: Path) -> ImageSet:
    return tiny.pictures(root / "works")


def start(root: Path, images: ImageSet, out: Path, processes: int = 1, how: Lora = HOW, records: str = "yes.csv", **more: object) -> object:
    return launch.launch("lora", how, root / "model", images.folder, root / records, out, processes, **{"progress": progress.silent, "device": "cpu"} | more)


@pytest.fixture(scope="module")
def alone(root: Path, images: ImageSet) -> object:
    told: list[dict] = []
    adapter = start(root, images, root / "alone", progress=told.append)
    assert [event["step"] for event in told if event.get("stage") == "train" and "loss" in event] == [1, 2, 3, 4]
    return adapter


# --- one and two ----------------------------------------------------------------------------------------------------------


def test_a_process_of_its_own_trains_what_this_one_would(root: Path, images: ImageSet, alone: object, tmp_path: Path) -> None:
    from harness import models
    from harness.consent import gate
    from harness.finetune import lora

    pipe = models.load_pipeline(str(root / "model"), device="cpu")
    here = lora(HOW, pipe, images, tmp_path, gate.ask(images, root / "yes.csv"), progress=progress.silent)
    assert here.path.read_bytes() == alone.path.read_bytes()


def test_two_processes_give_the_result_of_one(root: Path, images: ImageSet, alone: object, tmp_path: Path) -> None:
    told: list[dict] = []
    both = start(root, images, tmp_path / "both", 2, progress=told.append)
    one, two = load_file(alone.path), load_file(both.path)
    assert one.keys() == two.keys() and max((one[name] - two[name]).abs().max() for name in one) < FAR
    assert max(tensor.abs().max() for name, tensor in one.items() if name.endswith("up.weight")) > 1e-3
    assert both.losses["loss"].tolist() == pytest.approx(alone.losses["loss"].tolist(), abs=1e-5)
    assert [event["step"] for event in told if event.get("stage") == "train" and "loss" in event] == [1, 2, 3, 4]  # one of them tells


# --- what goes wrong ------------------------------------------------------------------------------------------------------


def test_a_refusal_comes_back_as_it_was(root: Path, images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="6 of 6 pictures may not be used"):
        start(root, images, tmp_path, 2, records="no.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["launch.json"]


def test_a_process_that_dies_is_told_of_with_its_last_lines(root: Path, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "command", lambda *_: [sys.executable, "-c", "print('nearly there'); import os; os.kill(os.getpid(), 9)"])
    with pytest.raises(HarnessError, match=r"was killed by signal 9; the same call goes on .* nearly there"):
        start(root, images, tmp_path)
    monkeypatch.setattr(launch, "command", lambda *_: [sys.executable, "-c", "1/0"])
    with pytest.raises(HarnessError, match="ended with 1; .*ZeroDivisionError"):
        start(root, images, tmp_path)


def children(folder: Path) -> list[psutil.Process]:
    """Processes that hold a launch's file on their command line."""
    found = []
    for each in psutil.process_iter():
        try:
            found += [each] if any(str(folder / launch.FILE) == word for word in each.cmdline()) else []
        except psutil.Error:
            continue
    return [each for each in found if each.status() != psutil.STATUS_ZOMBIE]


CALLER = """
import sys
sys.path[:0] = [{here!r}]
import test_finetune_launch as t
how = t.Lora(steps=5000, checkpoint_every=5000, batch_size=4, mixed_precision="no")
t.launch.launch("lora", how, {model!r}, t.Path({images!r}), t.Path({records!r}), t.Path({out!r}), 2, progress=lambda event: print(event, flush=True), device="cpu")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="that a child dies with its parent is Linux's promise")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_when_the_caller_is_killed_or_stopped_nobody_trains_on(root: Path, images: ImageSet, tmp_path: Path, number: int) -> None:
    code = CALLER.format(here=str(Path(__file__).parent), model=str(root / "model"), images=str(images.folder), records=str(root / "yes.csv"), out=str(tmp_path))
    caller = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=Path(__file__).parents[1])
    said = ""
    while "'stage': 'train'" not in said:
        said += (line := caller.stdout.readline())
        assert line, said
    assert len(children(tmp_path)) >= 3  # the launcher and two at work
    caller.send_signal(number)
    assert caller.wait(60) != 0
    patience = time.monotonic() + 20
    while children(tmp_path) and time.monotonic() < patience:
        time.sleep(0.2)
    assert children(tmp_path) == []


# --- the command ----------------------------------------------------------------------------------------------------------


def test_settings_go_through_a_file_and_not_the_command_line(tmp_path: Path) -> None:
    for processes in (1, 2):
        words = launch.command(tmp_path / launch.FILE, processes)
        assert words[-1] == str(tmp_path / launch.FILE) and words[-3:-1] == ["-m", "harness.finetune.launch"]
    assert "accelerate.commands.launch" in words and "--num_processes=2" in words
    assert launch.free_port() != 0


def test_the_environment_shares_the_cores_and_drops_other_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(launch, "_cores", lambda: 8)
    found = launch.surroundings(2, cpu=True)
    assert found["OMP_NUM_THREADS"] == "4" and found["ACCELERATE_USE_CPU"] == "true"
    assert "RANK" not in found and "ACCELERATE_MIXED_PRECISION" not in found
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert launch.surroundings(2, cpu=False)["OMP_NUM_THREADS"] == "1"


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    train_cli.add_arguments(parser)
    return parser.parse_args(["works", "--ledger", "l.csv", "--out", "o", *words])


def test_a_command_line_becomes_a_job() -> None:
    job = train_cli.job_of(parsed("--rank", "4", "--learning-rate", "1e-4", "--token", "ohwx", "--noun", "person", "--artist", "me"))
    assert job.recipe == "lora" and job.how() == Lora(rank=4, learning_rate=1e-4) and (job.token, job.noun, job.artist) == ("ohwx", "person", "me")
    assert Path(job.images).is_absolute() and jobs.Job(**json.loads(json.dumps(vars(job)))) == job
    words = train_cli.job_of(parsed("--recipe", "textual_inversion", "--token", "<anna>", "--vectors", "2"))
    assert words.how().token == "<anna>" and words.how().vectors == 2
    with pytest.raises(HarnessError, match="--rank is no setting of full; it has "):
        train_cli.job_of(parsed("--recipe", "full", "--rank", "4"))
    with pytest.raises(HarnessError, match="must be int, not 'many'"):
        train_cli.job_of(parsed("--steps", "many")).how()


def test_help_names_every_setting_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--help")
    out = capsys.readouterr().out
    listed = out[out.index("what, on what, where"):]
    assert [listed.count(f"\n  --{name} ") for name in ("learning-rate", "rank", "vectors", "class-prompt", "token")] == [1] * 5
    assert "harness train photos/" in out and "consent records" in out


def test_a_forecast_trains_nothing(root: Path, images: ImageSet, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    parser = argparse.ArgumentParser()
    train_cli.add_arguments(parser)
    words = [str(images.folder), "--ledger", str(root / "yes.csv"), "--out", str(tmp_path / "out"), "--model", str(root / "model"), "--steps", "20", "--forecast"]
    assert train_cli.main(parser.parse_args(words)) == 0
    out = capsys.readouterr().out
    assert out.startswith("forecast: ") and "of memory" in out and not (tmp_path / "out").exists()


def test_settings_of_another_recipe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="recipe 'lora' does not go with settings of Full; there are lora, full, textual_inversion, pivotal"):
        launch.launch("lora", Full(), "miniature", tmp_path, tmp_path, tmp_path / "out")
    with pytest.raises(HarnessError, match="there is no recipe 'dreambooth'"):
        jobs.load("dreambooth")
    with pytest.raises(HarnessError, match="processes must be at least 1"):
        launch.run(jobs.Job("lora", {}, "miniature", ".", ".", str(tmp_path)), 0, progress.silent)
