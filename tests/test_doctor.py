"""The doctor tells a problem from a note, says what to do about each, and its exit code follows."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import doctor, guard, provenance
from harness.errors import HarnessError

GIB = 1 << 30


def test_this_machine_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    found = {check.name: check for check in doctor.checks()}
    assert set(found) == {"Python", "Place", "Memory", "Disk", "git", "Packages", "Extras", "Miniature", "torchvision", "torch"}
    assert found["Python"].state == doctor.OK and found["torch"].state == doctor.OK
    assert all(check.advice for check in found.values() if check.state != doctor.OK)


@pytest.mark.parametrize(("state", "code"), [(doctor.OK, 0), (doctor.NOTE, 0), (doctor.PROBLEM, 1)])
def test_only_a_problem_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: str, code: int) -> None:
    monkeypatch.setattr(doctor, "checks", lambda: [doctor.Check("Thing", state, "so", "do this")])
    assert doctor.main(argparse.Namespace()) == code
    assert f"{state}  Thing: so\n         → do this" in capsys.readouterr().out


@pytest.mark.parametrize(("version", "state"), [((3, 10), doctor.PROBLEM), ((3, 11), doctor.OK), ((3, 12), doctor.OK), ((3, 14), doctor.NOTE)])
def test_python(version: tuple[int, int], state: str) -> None:
    assert doctor.python(version).state == state


def test_little_memory_and_a_full_disk_are_problems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=GIB, total=4 * GIB))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=GIB // 2))
    assert doctor.memory().state == doctor.PROBLEM and "1.0 of 4.0 GiB" in doctor.memory().found
    assert doctor.disk(tmp_path).state == doctor.PROBLEM


def test_missing_weights_are_a_problem_and_present_ones_are_weighed(tmp_path: Path) -> None:
    assert doctor.weights(tmp_path).state == doctor.PROBLEM
    for name in ("pipeline/unet", "clip"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model.safetensors").write_bytes(bytes(3_000_000))
    assert doctor.weights(tmp_path).state == doctor.OK and "6 MB" in doctor.weights(tmp_path).found


def test_missing_packages_are_named_by_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["torch>=2.0", "numpy>=99", "not-there-at-all>=1", 'nor-this>=1; extra == "exposure"']
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: lines)
    assert [text.split()[0] for text in doctor.missing(None)] == ["numpy", "not-there-at-all"]
    assert doctor.missing("exposure") == ["nor-this is missing"]
    assert doctor.dependencies().state == doctor.PROBLEM
    assert doctor.extras().state == doctor.NOTE and "nor-this" in doctor.extras().found


def test_a_broken_torchvision_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise HarnessError("reinstall it")

    monkeypatch.setattr(guard, "install", broken)
    assert doctor.torchvision() == doctor.Check("torchvision", doctor.PROBLEM, "broken", "reinstall it")


def test_a_gpu_that_torch_does_not_see_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(provenance, "gpus", lambda: [{"name": "Some GPU"}])
    assert doctor.torch().state == doctor.PROBLEM and "Some GPU" in doctor.torch().found


def test_colab_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: SimpleNamespace())
    assert doctor.place().found == "Google Colab" and "HARNESS_RESULTS" in doctor.place().advice
