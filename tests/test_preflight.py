"""Forecasts: from the same settings, from other settings, from operations alone; refusals that name what would fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_listing import notebook, preset
from test_scan import facts, put

from harness import provenance
from harness.errors import HarnessError, Refused
from harness.forecast import device, flops, preflight, work
from harness.runs import notebooks, scan

GIB = 1 << 30
SMALL = flops.Counts(64, 1e9, 2e9, 1e9, 1e9, 1e8, GIB // 10, 1 << 20, 1 << 20, (8 << 20, 64 << 20), 2 << 20, 3 << 20)
LARGE = flops.Counts(512, 8e11, 2e12, 1e12, 2e12, 1e10, 4 * GIB, 1 << 20, GIB // 8, (GIB, 8 * GIB), GIB // 2, GIB)
WORK = {"train_steps": "steps", "train_batch": "batch", "draws": "2 * prompts", "draw_batch": 1, "sampling_steps": 20, "guidance": "scale", "pixels": "pixels"}
CELL = "\n".join(["steps: int = 10  # steps", "batch: int = 1  # pictures a step", "prompts: int = 4  # prompts", "scale: float = 2.5  # guidance",
                  "pixels: int = 0  # side", "model: str = \"miniature\"  # model"])
START = {"steps": 10, "batch": 1, "prompts": 4, "scale": 2.5, "pixels": 0, "model": "miniature"}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a GPU and models that are counted at once."""
    for name in ("HARNESS_PRICE_PER_HOUR", "HARNESS_MEMORY_GIB", "HARNESS_WATTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(provenance, "usable_gpus", list)
    monkeypatch.setattr(flops, "counts", lambda model, pixels=0, trains="lora", start=True: _count(model, pixels))


def _count(model: str, pixels: int) -> flops.Counts:
    if model == "absent":
        raise HarnessError("absent: its configuration is not on this machine")
    base = LARGE if model == "large" else SMALL
    scale = (pixels / base.pixels) ** 2 if pixels else 1
    return replace(base, step=base.step * scale, step_bytes=tuple(round(each * scale) for each in base.step_bytes))


@pytest.fixture
def plan(tmp_path: Path) -> Any:
    path = notebook(tmp_path / "nb.ipynb", {"work": WORK}, CELL)
    preset(path, "tiny", "steps: 5\nbatch: 1")
    return make(path, tmp_path)


def make(path: Path, tmp_path: Path, **given: Any) -> Any:
    found = notebooks.read(path)
    return SimpleNamespace(notebook=found, resolved={**found.defaults, **given}, given=given, folder=tmp_path / "results" / "nb-new")


def ran(tmp_path: Path, name: str, seconds: float, memory: int = GIB, **settings: Any) -> None:
    found = facts(parameters={"resolved": {**START, **settings}}, hardware=provenance.hardware(), peak_memory={"host_bytes": memory})
    put(tmp_path / "results" / f"nb-{name}", {**found, "timings": {**found["timings"], "seconds": seconds}})


def told(plan: Any, tmp_path: Path, price: float | None = None) -> preflight.Prediction:
    return preflight.predict(plan, scan.runs(tmp_path / "results"), price)


# --- the declaration ----------------------------------------------------------------------------------------------------


def test_work_is_worked_out_from_the_parameters(plan: Any) -> None:
    found = work.declared(plan.notebook, plan.resolved)
    assert found == work.Work(train_steps=10, train_batch=1, draws=8, draw_batch=1, sampling_steps=20, guidance=2.5, model="miniature")
    by_hand = 10 * 1 * 2e9 + 8 * (20 * 2 * 1e9 + 2 * 1e8 + 1e9)
    assert found.operations(SMALL) == by_hand
    assert replace(found, guidance=1).operations(SMALL) == 10 * 2e9 + 8 * (20e9 + 1e8 + 1e9)


def test_memory_is_weights_moments_and_the_largest_moment() -> None:
    train = work.Work(train_steps=1, train_batch=16, draws=4, draw_batch=2)
    assert train.least_bytes(SMALL, half=False) == SMALL.weight_bytes + 128 * (1 << 20) + 2 * (1 << 20)
    assert train.least_bytes(SMALL, half=True) == round(SMALL.weight_bytes / 2 + 64 * (1 << 20)) + 2 * (1 << 20)
    draw = work.Work(draws=4, draw_batch=16)
    assert draw.least_bytes(SMALL, half=False) == SMALL.weight_bytes + 4 * (3 << 20)  # four are all there are
    assert replace(train, rank=80).least_bytes(SMALL, half=False) - train.least_bytes(SMALL, half=False) == 36 * (1 << 20)  # 9 more LoRAs, 4 tensors each


@pytest.mark.parametrize("written", ["__import__('os').getcwd()", "steps ** 9", "'a' * 9", "model * 3", "1 / 0", "stepps", "[1]", "steps if steps else 1", "(", "x.y",
                                     "steps and 1", "lambda: 1", "len(steps)", "max(model, 1)", "1e999", "-1", "(" * 300 + ")" * 300])
def test_only_arithmetic_on_parameters_is_read(tmp_path: Path, written: str) -> None:
    path = notebook(tmp_path / "nb.ipynb", {"work": {"train_steps": written}}, CELL)
    with pytest.raises(HarnessError, match=r"work"):
        work.declared(notebooks.read(path), START)


@pytest.mark.parametrize(("told", "says"), [({"train_step": 1}, "did you mean `train_steps`"), ({"trains": "all"}, "lora or full"), ({"model": "steps"}, "names a model"),
                                            ({"train_batch": 0}, "at least 1"), ([1], "must be a table")])
def test_a_wrong_declaration_is_one_sentence(tmp_path: Path, told: Any, says: str) -> None:
    path = notebook(tmp_path / "nb.ipynb", {"work": told}, CELL)
    with pytest.raises(HarnessError, match=says):
        work.declared(notebooks.read(path), START)


# --- time, memory and disk ----------------------------------------------------------------------------------------------


def test_the_same_settings_are_believed(plan: Any, tmp_path: Path) -> None:
    for name, seconds in (("a", 90.0), ("b", 100.0), ("c", 140.0)):
        ran(tmp_path, name, seconds, memory=round(seconds) << 20)
    found = told(plan, tmp_path, price=3.6)
    assert found.cost == pytest.approx(0.1)
    assert (found.seconds, found.memory_bytes, found.memory_least) == (100.0, 140 << 20, round(0.9 * (90 << 20)))
    assert found.seconds_low < 90 and found.seconds_high > 140 and "3 earlier runs of these settings" in found.method


def test_other_settings_are_scaled_by_their_operations(plan: Any, tmp_path: Path) -> None:
    def truth(steps: int) -> float:
        return 30 + (steps * 2e9 + 8 * 41.2e9) / 4e9

    for name, steps in (("a", 100), ("b", 1000), ("c", 2000)):
        ran(tmp_path, name, truth(steps), steps=steps)
    found = told(make(plan.notebook.path, tmp_path, steps=500), tmp_path)
    assert found.seconds == pytest.approx(truth(500), rel=0.01) and "a line through 3" in found.method
    assert found.seconds_high / found.seconds == pytest.approx(1.25, rel=0.01)
    beyond = told(make(plan.notebook.path, tmp_path, steps=20000), tmp_path)
    assert beyond.seconds == pytest.approx(truth(20000), rel=0.01) and beyond.seconds_high > 1.5 * beyond.seconds and "beyond what has run" in beyond.method


def test_one_other_run_corrects_the_guess(plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_product_rate", lambda: 100e9)
    asked = make(plan.notebook.path, tmp_path, steps=1000)
    guess, small = told(asked, tmp_path).seconds, told(plan, tmp_path).seconds
    ran(tmp_path, "a", 3 * small)  # this device is three times slower than guessed
    found = told(asked, tmp_path)
    assert found.seconds == pytest.approx(3 * guess) and found.seconds_low < guess * 1.01 and found.seconds_high == pytest.approx(9 * guess)
    assert "1 earlier run on this device with 0.15 times" in found.method


def test_what_did_not_run_here_or_not_to_its_end_teaches_nothing(plan: Any, tmp_path: Path) -> None:
    past = facts(parameters={"resolved": START}, hardware=provenance.hardware())
    put(tmp_path / "results" / "nb-elsewhere", {**past, "hardware": {**past["hardware"], "gpus": [{"name": "Tesla T4"}]}})
    put(tmp_path / "results" / "nb-failed", {**past, "status": "failed"})
    put(tmp_path / "results" / "nb-resumed", {**past, "timings": {**past["timings"], "attempts": 2}})
    assert "nothing has finished on this device yet" in told(plan, tmp_path).method


def test_a_first_forecast_says_how_wide_it_is(plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_product_rate", lambda: 100e9)
    found = told(plan, tmp_path)
    assert found.flops == 10 * 2e9 + 8 * 41.2e9 and found.seconds == pytest.approx(25 + found.flops / 35e9)
    assert found.seconds_high > 3 * found.seconds > 9 * found.seconds_low and "times too short" in found.method and "100 GFLOP/s" in found.method
    assert "multiply-add as two" in found.method


def test_memory_of_other_settings_is_the_measured_one_and_the_counted_difference(plan: Any, tmp_path: Path) -> None:
    ran(tmp_path, "a", 100, memory=GIB)
    more = told(make(plan.notebook.path, tmp_path, batch=800), tmp_path)
    assert more.memory_bytes == pytest.approx(GIB + 1.2 * (6400 - 8) * (1 << 20), rel=0.01) and more.memory_least == pytest.approx((6400 + 0.9 * 900) * (1 << 20), rel=0.03)


def test_a_model_that_is_not_here_is_said_and_not_guessed(plan: Any, tmp_path: Path) -> None:
    found = told(make(plan.notebook.path, tmp_path, model="absent"), tmp_path)
    assert (found.seconds, found.flops, found.memory_least) == (None, None, None)
    assert "not counted: absent: its configuration is not on this machine" in found.method


def test_a_notebook_that_declares_nothing_costs_nothing_to_forecast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(flops, "counts")
    found = told(make(notebook(tmp_path / "nb.ipynb", None, CELL), tmp_path), tmp_path)
    assert found.seconds is None and "declares no work" in found.method


# --- what cannot fit ----------------------------------------------------------------------------------------------------


def room(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    monkeypatch.setenv("HARNESS_MEMORY_GIB", str(gib))


def test_what_fits_starts_and_is_written_down(plan: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = preflight.before(plan, 1.0)
    out = capsys.readouterr().out
    assert out.startswith("forecast: ") and "at 1 an hour" in out and "time: " in out
    assert json.loads(json.dumps(found)) == found and found["price_per_hour"] == 1.0 and found["meters"]["at"] > 0


def test_what_cannot_fit_is_refused_and_the_refusal_is_right(plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room(monkeypatch, 6)
    big = make(plan.notebook.path, tmp_path, batch=1024)
    with pytest.raises(Refused, match=r"nb needs at least 8.9 GiB of memory with these settings, and \$HARNESS_MEMORY_GIB allows 6.0 GiB; it would fit with `-p batch=512`") as no:
        preflight.before(big)
    assert "`-p batch=1`" not in str(no.value)  # one value for a setting, the largest that fits
    preflight.before(make(plan.notebook.path, tmp_path, batch=512))  # and it does


def test_two_settings_are_lowered_together_when_one_is_not_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room(monkeypatch, 4)
    path = notebook(tmp_path / "nb.ipynb", {"work": {**WORK, "draw_batch": "prompts"}}, CELL)
    with pytest.raises(Refused, match="`-p batch=128 -p prompts=512` .2.9 GiB"):
        preflight.before(make(path, tmp_path, batch=1024, prompts=4096))


def test_another_model_is_refused_and_its_own_presets_are_tried_with_what_was_given(plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room(monkeypatch, 4)
    with pytest.raises(Refused) as no:
        preflight.before(make(plan.notebook.path, tmp_path, model="large"))
    assert "`-p model=miniature`" in str(no.value) and "--preset" not in str(no.value)
    room(monkeypatch, 7.5)
    large = SimpleNamespace(**{**vars(make(plan.notebook.path, tmp_path, model="large", batch=64)), "given": {"model": "large"}})
    with pytest.raises(Refused, match="`--preset tiny`"):
        preflight.before(large)


def test_what_the_notebook_itself_refuses_is_not_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room(monkeypatch, 6)
    path = notebook(tmp_path / "nb.ipynb", {"work": WORK, "refuse": [["batch < 1024", "a large batch is the point of it"]]}, CELL)
    with pytest.raises(Refused, match="no setting of this notebook makes it fit"):
        preflight.before(make(path, tmp_path, batch=1024))


def test_what_the_libraries_hold_is_needed_too(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    room(monkeypatch, 0.3)
    with pytest.raises(Refused, match="needs at least 932 MiB of memory .* allows 307 MiB; no setting of this notebook makes it fit"):
        preflight.before(plan)


def test_what_may_not_fit_is_not_blamed_on_other_programs(plan: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    room(monkeypatch, 1.0)
    preflight.before(plan)
    out = capsys.readouterr().out
    assert "note: 1.1 GiB are forecast and 1.0 GiB of memory is all there is" in out and "other programs" not in out


def test_what_earlier_attempts_took_is_kept_for_the_sum(plan: Any) -> None:
    assert preflight.before(plan)["earlier"] == []
    put(plan.folder, facts(status="failed", actual={}))
    assert preflight.before(plan)["earlier"] == [{"seconds": 1.0, "joules": None, "cost": None}]


def test_memory_in_use_is_a_note_and_no_refusal(plan: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(device, "_host_room", lambda: device.Room(8 * GIB, GIB // 2, "memory"))
    preflight.before(plan)
    assert "note: 1.1 GiB are forecast and 512 MiB of memory are free now" in capsys.readouterr().out


def test_a_full_disk_is_refused(plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    preflight.before(plan)
    assert "note: the run may write up to" in capsys.readouterr().out  # an upper bound does not refuse
    ran(tmp_path, "a", 100)
    (tmp_path / "results" / "nb-a" / "picture.png").write_bytes(b"0" * 2000)
    with pytest.raises(Refused, match="HARNESS_RESULTS"):
        preflight.before(plan)


@pytest.mark.parametrize("word", ["a lot", "0", "-1", "nan", "inf"])
def test_a_memory_setting_that_is_none_is_refused(plan: Any, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("HARNESS_MEMORY_GIB", word)
    with pytest.raises(HarnessError, match="HARNESS_MEMORY_GIB"):
        preflight.before(plan)


@pytest.mark.parametrize("name", ["HARNESS_WATTS", "HARNESS_PRICE_PER_HOUR"])
def test_settings_for_what_comes_after_are_checked_before(plan: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "unknown")
    with pytest.raises(HarnessError, match="unknown"):
        preflight.before(plan)


# --- the device -----------------------------------------------------------------------------------------------------------


def test_the_limit_of_a_container_counts(tmp_path: Path) -> None:
    groups, mount = tmp_path / "cgroup", tmp_path / "mount"
    groups.write_text("9:memory:/docker/abc\n0::/user.slice\n")
    found = device._limit_files(groups, mount)
    assert mount / "user.slice" / "memory.max" in found and mount / "memory" / "docker" / "abc" / "memory.limit_in_bytes" in found


@pytest.mark.parametrize(("name", "peak"), [("Tesla T4", 65e12), ("NVIDIA A100-SXM4-40GB", 312e12), ("NVIDIA GeForce RTX 4090", 165e12), ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA L40S", None)])
def test_a_gpu_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch, name: str, peak: float | None) -> None:
    monkeypatch.setattr(provenance, "usable_gpus", lambda: [{"name": name, "memory": "1 MiB", "driver": "1"}])
    found = device.rate()
    assert found.high / found.low > 30 and found.high == pytest.approx(0.36 * (peak or device.UNKNOWN_PEAK))
    assert ("not known here" in found.method) == (peak is None)


@pytest.mark.parametrize(("text", "size"), [("15360 MiB", 15360 << 20), ("[N/A]", 0), ("", 0)])
def test_a_gpus_memory_is_read_from_its_drivers_words(monkeypatch: pytest.MonkeyPatch, text: str, size: int) -> None:
    monkeypatch.setattr(provenance, "usable_gpus", lambda: [{"name": "x", "memory": text, "driver": "1"}])
    assert device.room().total == size if size else device.room().what == "memory"
