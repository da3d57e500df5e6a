"""The fine-tuning benchmark's own parts: its arithmetic, its table, which peer it takes, and that a run is taken apart honestly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from harness import guard

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    sys.path.insert(0, str(FOLDER))
    try:
        import finetune
    finally:
        sys.path.remove(str(FOLDER))
    guard.install()  # as `preload` does
    return finetune


@pytest.fixture
def checkout(bench: ModuleType, tmp_path: Path) -> Path:
    """A repository that has scripts where diffusers has them."""
    folder = tmp_path / "peer"
    for name in bench.runs.SCRIPTS.values():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("print('a script')\n")
    commit = ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "first"]
    for words in (["init", "-q"], ["add", "."], commit, ["remote", "add", "origin", "https://host.example/owner/name.git"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True)
    return folder


def test_a_ratio_is_the_median_of_the_pairs_not_the_ratio_of_medians(bench: ModuleType) -> None:
    found = bench.ratio("a step", [2.0, 9.0, 4.0], [1.0, 3.0, 4.0], goal=2.5)
    assert (found["ratio"], found["lowest"], found["highest"], found["n"]) == (2.0, 1.0, 3.0, 3)
    assert found["reached"] == "no" and bench.ratio("a step", [2.0], [1.0], goal=2.0)["reached"] == "yes"
    assert bench.ratio("a step", [2.0], [1.0])["reached"] == ""


def test_what_must_not_exceed_a_goal_is_reached_at_the_goal_and_missed_above(bench: ModuleType) -> None:
    assert [bench.row("x", "", None, value, goal=0.0, n=1)["reached"] for value in (0.0, 1e-12)] == ["yes", "no"]


def test_weights_are_compared_tensor_by_tensor(bench: ModuleType, tmp_path: Path) -> None:
    start, one, other = ({"a": np.zeros(2, np.float32), "b": np.full((1, 2), fill, np.float32)} for fill in (0.0, 3.0, 4.0))
    paths = [tmp_path / f"{name}.safetensors" for name in ("start", "one", "other")]
    for path, tensors in zip(paths, (start, one, other), strict=True):
        save_file(tensors, path)
    assert bench.furthest(paths[1], paths[2]) == 1.0 and bench.furthest(paths[1], paths[1]) == 0.0
    assert bench.away(paths[1], paths[2], paths[0]) == pytest.approx(1 / 3)
    save_file({"a": start["a"]}, tmp_path / "less.safetensors")
    with pytest.raises(SystemExit, match="different names"):
        bench.furthest(paths[0], tmp_path / "less.safetensors")


def test_the_peer_is_named_by_repository_commit_and_hash_and_never_by_its_path(bench: ModuleType, checkout: Path) -> None:
    found = bench.identity(checkout)
    assert found["repository"] == "owner/name" and len(found["commit"]) == 40
    assert list(found["scripts"]) == list(bench.runs.SCRIPTS.values()) and str(checkout) not in str(found)


def test_a_peer_that_was_changed_or_lacks_a_script_is_refused(bench: ModuleType, checkout: Path, tmp_path: Path) -> None:
    script = checkout / bench.runs.SCRIPTS["lora"]
    script.write_text("print('made slower')\n")
    with pytest.raises(SystemExit, match="as they were committed"):
        bench.identity(checkout)
    script.unlink()
    subprocess.run(["git", "-C", str(checkout), "-c", "user.name=n", "-c", "user.email=e", "commit", "-qam", "gone"], check=True)
    with pytest.raises(SystemExit, match="train_dreambooth_lora.py"):
        bench.identity(checkout)
    (tmp_path / "no-checkout").mkdir()
    with pytest.raises(SystemExit, match="not a git checkout"):
        bench.identity(tmp_path / "no-checkout")


def test_the_flags_that_are_tried_leave_the_work_as_it_is(bench: ModuleType) -> None:
    harmless = {"pre_compute_text_embeddings", "set_grads_to_none", "dataloader_num_workers"}
    assert all(set(flags) <= harmless for each in bench.FLAGS.values() for flags in each)
    assert bench.runs.words({"a": True, "b": 3}) == ["--a", "--b=3"]


def test_a_step_is_the_mean_between_stamps_so_that_a_late_first_step_does_not_count(bench: ModuleType) -> None:
    run = bench.runs.Run(9.0, [5.0, 6.0, 8.0], 1, 0.0)
    assert run.step == 1.5


def test_one_subjects_class_images_are_kept_for_the_next_where_the_peer_has_drawn_them(bench: ModuleType, tmp_path: Path) -> None:
    lab = bench.Lab(tmp_path, tmp_path, bench.runs.MINIATURE)
    (tmp_path / "class-0").mkdir()
    last = tmp_path / "class-0" / "0-abc.jpg"
    last.write_bytes(b"")
    os.utime(last, (1000.0, 1000.0))
    run = bench.runs.Run(30.0, [0.0, 1.0], 1, 1012.0)
    found = bench.priors([{"prior peer": run, "prior ours": replace(run, seconds=15.0), "prior again": replace(run, seconds=6.0)}], lab, 8)
    assert [each["ratio"] for each in found] == [2.0, 5.0, 2.0]


def test_the_table_says_not_measured_where_nothing_was(bench: ModuleType) -> None:
    facts = {"repository": "owner/name", "commit": "c" * 40, "scripts": {"a.py": "d" * 64}, "pairs": 1, "seconds": 60}
    rows = [bench.ratio("CPU: a step", [2.0], [1.0], goal=1.8), bench.row("CPU: weights", "largest difference", None, 0.0, goal=1e-6, n=1), *bench.unmeasured()]
    text = bench.markdown(pd.DataFrame(rows), facts)
    assert "| CPU: a step | 2 s | 1 s | 2.00× (2.00 to 2.00) | ≥ 1.8× | yes |" in text
    assert "| CPU: weights |  | 0 | largest difference | ≤ 1e-06 | yes |" in text
    assert text.count("not measured") == len(bench.unmeasured()) == len(bench.GPU_ROWS) and "nan" not in text


def test_the_benchmark_models_share_of_encoding_is_that_of_stable_diffusion(bench: ModuleType, tmp_path: Path) -> None:
    made = bench.runs.apart(tmp_path / "model.log", bench.runs.build, bench.runs.MINIATURE, tmp_path / "model").result
    assert bench.RATIO[0] <= made["encode"] / made["step"] <= bench.RATIO[1]
    assert bench.RATIO == (0.41, 0.51)


def test_class_images_that_ours_would_draw_for_nothing_are_refused(bench: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="multiple of 8"):
        bench.processor(bench.Lab(tmp_path, tmp_path, bench.runs.MINIATURE), 1, 2, 3, {})


def test_without_a_peer_the_benchmark_says_how_to_name_one(tmp_path: Path) -> None:
    around = {name: value for name, value in os.environ.items() if name != "DIFFUSERS_CHECKOUT"}
    done = subprocess.run([sys.executable, FOLDER / "finetune.py"], capture_output=True, text=True, env=around)
    assert done.returncode == 2 and "DIFFUSERS_CHECKOUT" in done.stderr


# --- processes


def test_a_run_apart_gives_back_what_it_took_and_hides_gpus_unless_asked(bench: ModuleType, tmp_path: Path) -> None:
    def task(stamps: list[float], number: int) -> tuple[int, str | None]:
        print("said")
        stamps += [0.0, 2.0]
        return number + 1, os.environ.get("CUDA_VISIBLE_DEVICES")

    found = bench.runs.apart(tmp_path / "log", task, 1)
    assert found.result == (2, "") and found.step == 2.0 and found.memory > 1e6
    assert "said" in (tmp_path / "log").read_text()


def test_a_run_that_fails_ends_the_benchmark_with_its_last_words(bench: ModuleType, tmp_path: Path) -> None:
    def task(stamps: list[float]) -> None:
        raise ValueError("no such thing")

    with pytest.raises(SystemExit, match="no such thing"):
        bench.runs.apart(tmp_path / "log", task)


def test_a_kill_is_expected_only_where_it_was_asked_for(bench: ModuleType, tmp_path: Path) -> None:
    def task(stamps: list[float]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    assert bench.runs.apart(tmp_path / "log", task, dies=True) is None
    with pytest.raises(SystemExit, match="ended with -9"):
        bench.runs.apart(tmp_path / "log", task)
    with pytest.raises(SystemExit, match="went on"):
        bench.runs.apart(tmp_path / "log", lambda stamps: None, dies=True)


SCRIPT = """
import sys
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
team = Accelerator(cpu=True)
vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, scaling_factor=0.125)
for step in range(2):
    latents = vae.encode(torch.zeros(1, 3, 8, 8)).latent_dist.sample() * vae.config.scaling_factor
    noise, levels = torch.randn_like(latents), torch.randint(0, 1000, (1,), device=latents.device)
    assert torch.randint(3, 4, size=(1,)).item() == 3  # as a photo is cropped
    print(sys.argv[1:], latents.flatten().tolist(), noise.flatten().tolist(), levels.tolist())
    team.log({"loss": 0.0}, step=step)
"""


def test_a_script_is_stamped_at_every_step_and_fed_exactly_what_ours_drew(bench: ModuleType, tmp_path: Path) -> None:
    script, drawn = tmp_path / "script.py", tmp_path / "drawn.safetensors"
    script.write_text(SCRIPT)
    save_file({"latents": np.array([[0.1], [0.3]], np.float32), "noise": np.array([[5.0], [6.0]], np.float32), "levels": np.array([[7], [8]])}, drawn)
    run = bench.runs.apart(tmp_path / "log", bench.runs.peer, script, {"seed": 0}, drawn)
    said = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("[")]
    assert len(run.stamps) == 2
    assert said == [f"['--seed=0'] [{float(np.float32(x))}] [{n}] [{t}]" for x, n, t in ((0.1, 5.0, 7), (0.3, 6.0, 8))]
