"""What a training cost beside public figures, and when compiling pays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness import models
from harness.errors import HarnessError
from harness.finetune import Lora, costs
from harness.forecast import flops, training

MANIFEST = {"recipe": "lora", "settings": vars(Lora(steps=10, warmup=1, batch_size=3)), "base_model": "miniature", "images": [{}] * 4}


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HARNESS_PRICE_PER_HOUR", raising=False)


def test_operations_money_and_energy_each_with_a_method() -> None:
    found = costs.costs(MANIFEST, 1800.0, per_hour=0.5, copy_bytes=123, peak_memory={"host_bytes": 7})
    one = flops.measure(models.MINIATURE / "pipeline")
    assert found["flops"]["value"] == pytest.approx(30 * one.step + 4 * (one.encode + one.text))
    assert (found["seconds"], found["cost"], found["copy_bytes"], found["peak_memory"]) == (1800.0, 0.25, 123, {"host_bytes": 7})
    assert found["energy"]["joules"] > 0 and "assumed" in found["energy"]["method"] and "not measured" in found["flops"]["method"]


def test_what_is_not_known_is_none_with_the_reason() -> None:
    found = costs.costs(MANIFEST | {"base_model": "somebody's"}, 60.0)
    assert found["cost"] is None and found["flops"]["value"] is None and "not on this machine" in found["flops"]["method"]
    assert costs.costs(MANIFEST | {"base_model": "somebody's"}, 60.0, models.MINIATURE / "pipeline")["flops"]["value"] > 0


def test_the_table_sets_it_beside_the_public_figures() -> None:
    mine = {"this training": costs.costs(MANIFEST, 95.0, per_hour=0.4, copy_bytes=3 << 20)}
    table = costs.beside(mine)
    assert list(table.columns) == ["job", "time", "cost", "operations", "copy"] and len(table) == 4
    assert table.iloc[0].tolist()[:3] == ["this training", "1 min 35 s", "0.011"] and table.iloc[0]["copy"] == "3.0 MiB"
    assert table["time"].tolist()[1:] == ["20 min 00 s", "2 h 30 min", "10 min 00 s"] and table["cost"].tolist()[1:] == ["0.40", "2.00", ""]
    assert table["operations"].tolist()[1:] == ["", "", "120 PFLOP"]
    assert "was not published" in costs.COMPARED


def test_the_break_even_by_hand() -> None:
    assert costs.compile_break_even(1.0, 10.0, 0.5) == 20 and costs.compile_break_even(1.0, 10.1, 0.5) == 21
    assert costs.compile_break_even(1.0, 10.0, 1.0) is None and costs.compile_break_even(1.0, 0.0, 2.0) is None


def clocked(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> list[dict]:
    taken = iter(seconds)
    monkeypatch.setattr(costs, "_seconds", lambda call: call() or next(taken))
    return []


def test_compiling_is_measured_before_the_first_step_and_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    told, calls, module = clocked(monkeypatch, 9.0, 1.0, 30.5, 0.5), [], torch.nn.Linear(2, 2)
    with costs.compiled([module], lambda: calls.append(module._compiled_call_impl is not None), 100, told.append):
        assert module._compiled_call_impl is not None
    assert calls == [False, False, True, True] and module._compiled_call_impl is None
    assert told[0]["note"] == "compiling took 30 s; a step takes 0.5 s instead of 1 s: it pays after 60 steps, and there are 100"


@pytest.mark.parametrize(("seconds", "words"), [((1, 1, 30, 2), "it does not pay"), ((1, 1, 500.5, 0.5), "it pays after 1000 steps, and there are 100, so it does not pay here")])
def test_compiling_that_does_not_pay_says_so(seconds: tuple[float, ...], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told = clocked(monkeypatch, *seconds)
    with costs.compiled([], lambda: None, 100, told.append):
        pass
    assert told[0]["note"].endswith(words)


def test_a_machine_that_cannot_compile_says_what_to_do() -> None:
    def rehearse() -> None:
        if module._compiled_call_impl is not None:
            raise RuntimeError("no C++ compiler\nat line 3")

    module = torch.nn.Linear(2, 2)
    with pytest.raises(HarnessError, match=r"does not work on this machine \(RuntimeError: no C\+\+ compiler\); set compile=false"):
        with costs.compiled([module], rehearse, 10, lambda event: None):
            pytest.fail("began to train")
    assert module._compiled_call_impl is None


def test_class_images_count() -> None:
    prior = MANIFEST | {"settings": vars(Lora(steps=10, warmup=1, batch_size=3, class_prompt="a portrait", class_images=7))}
    plain, more = (costs.costs(each, 1.0)["flops"]["value"] for each in (MANIFEST, prior))
    needs = training.needs(models.MINIATURE / "pipeline", training.Case(lora=("to_k", "to_q", "to_v", "to_out.0")))
    assert more - plain == pytest.approx(7 * 20 * 2 * needs.forward + 30 * needs.step)
