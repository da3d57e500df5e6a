"""The guard mends a torchvision without operators, and leaves a healthy or absent one alone. Each in its own process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ABSENT = "import importlib.util as u; old = u.find_spec; u.find_spec = lambda name, *a: None if name == 'torchvision' else old(name, *a)\n"
HEALTHY = "import torch\n_library = torch.library.Library('torchvision', 'FRAGMENT')\n" + "".join(
    f"_library.define('{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')\n" for name in ("nms", "qnms"))


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def is_broken() -> bool:
    return "torchvision::nms" in python("import torchvision").stderr


def test_torchvision_can_be_imported_after_the_guard(is_broken: bool) -> None:
    done = python("from harness import guard; print(guard.install()); import torchvision, torchvision.transforms.v2; print(guard.install())")
    word = "mended" if is_broken else "healthy"
    assert done.stdout.split() == [word, word], done.stderr


def test_what_stands_on_torchvision_imports_too() -> None:
    done = python("from harness import guard; guard.install(); import open_clip; from transformers import CLIPImageProcessor; print('fine')")
    assert done.stdout.strip() == "fine", done.stderr


def test_the_guard_outlives_a_first_failed_import(is_broken: bool) -> None:
    if not is_broken:
        pytest.skip("torchvision is healthy here")
    done = python("try:\n    import torchvision\nexcept RuntimeError:\n    pass\nfrom harness import guard; print(guard.install())")
    assert done.stdout.strip() == "mended", done.stderr


def test_a_healthy_torchvision_is_left_alone(is_broken: bool) -> None:
    """Where operators are there already the guard defines none: a second definition would raise."""
    code = (HEALTHY if is_broken else "") + "from harness import guard; print(guard.install(), len(guard._kept))"
    done = python(code)
    assert done.stdout.split() == ["healthy", "0"], done.stderr


def test_without_torchvision_nothing_happens() -> None:
    done = python(ABSENT + "from harness import guard; print(guard.install(), len(guard._kept))")
    assert done.stdout.split() == ["absent", "0"], done.stderr


def test_a_torchvision_broken_otherwise_is_named(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise ImportError('libjpeg is gone')")
    done = python(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom harness import guard; guard.install()")
    assert "HarnessError: torchvision cannot be imported (ImportError: libjpeg is gone); reinstall it" in done.stderr
