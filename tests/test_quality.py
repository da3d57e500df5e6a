"""Quality tuning stops where a planted judge says so, and the live figure is what a training left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from PIL import Image

from harness import models, progress
from harness.consent import gate, ledger
from harness.errors import HarnessError
from harness.finetune import choose, record, trainer
from harness.finetune.live import Live
from harness.finetune.quality import QualityFull, QualityLora, Stop, quality
from harness.images import ImageSet

PLANTED = {2: 0.3, 4: 0.6, 6: 0.9, 8: 0.8, 10: 0.7, 12: 0.95}
"""what the judge says by step: the best within reach of a patience of two is step 6"""


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> object:
    return models.load_pipeline(str(tiny.sd(tmp_path_factory.mktemp("model") / "sd1")), device="cpu")


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return tiny.pictures(tmp_path_factory.mktemp("curated"))


def agreed(images: ImageSet, folder: Path) -> gate.Decision:
    book = ledger.write(folder / "consent.csv", [ledger.Record("artist-07", "*", record.USE, "allowed", "a test", "2026-01-01")])
    return gate.ask(images, book)


def planted(pipe: object, step: int) -> dict[str, tuple[float, float, float]]:
    return {"fidelity": (PLANTED[step], PLANTED[step] - 0.01, PLANTED[step] + 0.01)}


def short(kind: type, **more: object) -> QualityFull | QualityLora:
    return kind(steps=12, batch_size=2, warmup=1, checkpoint_every=2, **more)


def test_a_stop_counts_checkpoints_without_a_better_value() -> None:
    two = Stop(patience=2)
    assert not two.over({}) and not two.over({1: 0.5, 2: 0.4}) and two.over({1: 0.5, 2: 0.4, 3: 0.5}) and not two.over({1: 0.5, 2: 0.4, 3: 0.6})
    with pytest.raises(HarnessError, match="patience"):
        Stop(patience=0)


@pytest.mark.parametrize("kind", [QualityLora, QualityFull])
def test_it_stops_early_and_keeps_the_best(kind: type, pipe: object, chosen: ImageSet, tmp_path: Path) -> None:
    said: list[dict] = []
    adapter = quality(short(kind), pipe, chosen, tmp_path / "out", agreed(chosen, tmp_path), planted, progress=said.append)
    assert list(adapter.losses["step"]) == list(range(1, 11))  # two checkpoints after the best one
    assert list(record.checkpoints(tmp_path / "out")["step"]) == [2, 4, 6, 8, 10]
    assert adapter.manifest["step"] == 6 and any("stopped after step 10" in event.get("note", "") for event in said)
    assert (adapter.pipeline is not None) == (kind is QualityFull) and not (tmp_path / "out" / trainer.CHECKPOINT).exists()
    if adapter.pipeline:
        models.load_pipeline(str(adapter.pipeline), device="cpu")
    again = quality(short(kind), pipe, chosen, tmp_path / "out", agreed(chosen, tmp_path), pytest.fail, progress=progress.silent)
    assert again.path.read_bytes() == adapter.path.read_bytes()


def test_whoever_is_interrupted_ends_with_the_same_bytes(pipe: object, chosen: ImageSet, tmp_path: Path) -> None:
    def quit_at(step: int) -> object:
        def tell(event: dict) -> None:
            if event.get("stage") == "train" and event.get("step") == step:
                raise KeyboardInterrupt
        return tell

    whole = quality(short(QualityLora), pipe, chosen, tmp_path / "whole", agreed(chosen, tmp_path), planted, progress=progress.silent)
    for step in (5, 9, 10):
        with pytest.raises(KeyboardInterrupt):
            quality(short(QualityLora), pipe, chosen, tmp_path / "killed", agreed(chosen, tmp_path), planted, progress=quit_at(step))
    killed = quality(short(QualityLora), pipe, chosen, tmp_path / "killed", agreed(chosen, tmp_path), planted, progress=progress.silent)
    assert killed.path.read_bytes() == whole.path.read_bytes()
    for name in ("losses.csv", record.CHECKPOINTS, "manifest.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_is_refused(pipe: object, chosen: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HarnessError, match="not fidelity"):
        quality(short(QualityLora), pipe, chosen, tmp_path / "a", agreed(chosen, tmp_path), lambda pipe, step: {"taste": (1.0, 1.0, 1.0)}, progress=progress.silent)
    monkeypatch.setattr("harness.finetune.quality.MOST", 5)
    with pytest.raises(HarnessError, match="chose picture by picture"):
        quality(short(QualityLora), pipe, chosen, tmp_path / "b", agreed(chosen, tmp_path), planted, progress=progress.silent)


def test_a_rule_may_take_another_than_the_best(pipe: object, chosen: ImageSet, tmp_path: Path) -> None:
    def copying(pipe: object, step: int) -> dict[str, tuple[float, float, float]]:
        return planted(pipe, step) | {"copies": (0.5, 0.4, 0.6) if step >= 6 else (0.0, 0.0, 0.1)}

    adapter = quality(short(QualityLora), pipe, chosen, tmp_path / "out", agreed(chosen, tmp_path), copying, rule=choose.Rule(most_copies=0.1), progress=progress.silent)
    assert adapter.manifest["step"] == 4


def test_the_live_figure_is_made_of_what_lies_on_disk(pipe: object, chosen: ImageSet, tmp_path: Path) -> None:
    lines: list[dict] = []
    live = Live(tmp_path / "previews", ["a portrait", "a portrait 2"], [1, 2], steps=2, terminal=lines.append)
    adapter = quality(short(QualityLora), pipe, chosen, tmp_path / "out", agreed(chosen, tmp_path), planted, progress=live, preview=live.preview)
    assert [path.name for path in sorted((tmp_path / "previews").iterdir())] == [f"{step:05d}.png" for step in (2, 4, 6, 8, 10)]
    assert len([line for line in lines if "loss" in line]) == 10
    first = live.keep(adapter.losses, tmp_path / "one.png").read_bytes()
    later = Live(tmp_path / "previews", ["a portrait", "a portrait 2"], [1, 2], terminal=lines.append)  # another process, with nothing seen
    assert later.keep(adapter.losses, tmp_path / "two.png").read_bytes() == first
    shown = Image.open(tmp_path / "one.png")
    assert shown.height > 600 and Image.open(tmp_path / "previews" / "00002.png").size == (2 * tiny.PIXELS, tiny.PIXELS)
    with pytest.raises(HarnessError, match="as many prompts as seeds"):
        Live(tmp_path, ["a"], [])
