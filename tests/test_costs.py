"""What a run took: every figure with its method, counters read where there are any, nothing assumed in silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_scan import facts, put

from harness import provenance
from harness.errors import HarnessError
from harness.forecast import costs, energy, units


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without counters and without a GPU; gives the folder where counters would be."""
    for name in ("HARNESS_PRICE_PER_HOUR", "HARNESS_WATTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(provenance, "usable_gpus", list)
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "powercap")
    return tmp_path / "powercap"


def counter(folder: Path, name: str, count: int, span: int = 10**13) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "energy_uj").write_text(f"{count}\n")
    (folder / name / "max_energy_range_uj").write_text(f"{span}\n")


def test_after_a_run_every_figure_stands_with_its_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(predicted={"seconds": 60, "flops": 5.88e12, "meters": energy.read()}, peak_memory={"host_bytes": 3 << 30, "gpu_bytes": 1 << 30})
    found["timings"]["seconds"] = 120
    folder = put(tmp_path / "run", found)
    (folder / "picture.png").write_bytes(b"0" * 5000)
    actual = costs.after(folder, found, 3.0)
    assert (actual["seconds"], actual["cost"], actual["flops"]["value"]) == (120, 0.1, 5.88e12)
    assert actual["disk_bytes"] == 5000 + (folder / "manifest.json").stat().st_size
    assert actual["energy"]["joules"] == 120 * 65 and "65 W assumed" in actual["energy"]["method"]
    assert "multiply-add" in actual["flops"]["method"] and "not measured" in actual["flops"]["method"]
    assert {name for name in ("seconds", "peak_memory", "disk_bytes", "cost") if f"{name}: " in actual["method"]} == {"seconds", "peak_memory", "disk_bytes", "cost"}
    assert json.loads(json.dumps(actual)) == actual
    out = capsys.readouterr().out
    assert "took 2 min 00 s (forecast 1 min 00 s)" in out and "3.0 GiB on the host, 1.0 GiB on the GPU" in out and "5.88 TFLOP" in out
    assert "energy: 2.17 Wh (processor: no counter can be read, 65 W assumed; set HARNESS_WATTS" in out and "cost: 0.10 at 3 an hour" in out


def test_what_is_not_known_is_none_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(status="failed", predicted={"seconds": 60, "flops": 1e12})
    found["timings"] = {"started": found["timings"]["started"]}
    actual = costs.after(put(tmp_path / "run", found), found)
    assert (actual["seconds"], actual["cost"], actual["energy"]["joules"], actual["flops"]["value"]) == (None, None, None, None)
    assert "did not end" in actual["flops"]["method"] and "energy: not known" in capsys.readouterr().out


def attempt(folder: Path, number: int, status: str, seconds: float | None, told: bool = True) -> dict:
    """One attempt at a run, as the launcher makes it: what went before is read, then the manifest is begun anew, then it ends."""
    found = facts(status=status, predicted={"earlier": costs.earlier(folder)} if told else {}, actual={})
    found["timings"] |= {"seconds": seconds, "attempts": number}
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(found))
    if seconds is not None and told:
        found["actual"] = costs.after(folder, found, 3.6)
        (folder / "manifest.json").write_text(json.dumps(found))
    return found["actual"]


def test_a_run_that_went_on_counts_all_its_attempts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = attempt(tmp_path / "run", 1, "failed", 100)
    assert "attempts" not in first["method"] and "declares no work" in attempt(tmp_path / "other", 1, "complete", 1)["flops"]["method"]
    capsys.readouterr()
    attempt(tmp_path / "run", 2, "failed", 200)
    third = attempt(tmp_path / "run", 3, "complete", 50)
    assert (third["seconds"], third["energy"]["joules"], third["at_least"]) == (350, 350 * 65, []) and third["cost"] == pytest.approx(0.35)
    assert [each["seconds"] for each in third["attempts"]] == [100, 200, 50] and "summed over 3 attempts" in third["method"]
    out = capsys.readouterr().out
    assert "took 5 min 50 s over 3 attempts" in out and "Wh over 3 attempts" in out and "cost: 0.35 over 3 attempts" in out and "at least" not in out


@pytest.mark.parametrize("lost", ["killed", "begun in a notebook"])
def test_what_a_lost_attempt_took_makes_the_sum_a_lower_bound(tmp_path: Path, capsys: pytest.CaptureFixture[str], lost: str) -> None:
    attempt(tmp_path / "run", 1, "failed", 100)
    attempt(tmp_path / "run", 2, "running", None, told=lost == "killed")
    capsys.readouterr()
    last = attempt(tmp_path / "run", 3, "complete", 50)
    assert len(last["attempts"]) == 3 and "joules" in last["at_least"] and "lower bounds" in last["method"]
    assert last["seconds"] == (150 if lost == "killed" else 50)
    out = capsys.readouterr().out
    assert f"took at least {'2 min 30 s' if lost == 'killed' else '50 s'} over 3 attempts" in out and "energy: at least" in out and "cost: at least" in out
    assert "at least" in energy.line(last["energy"])


@pytest.mark.parametrize("word", ["much", "-1", "nan", "inf", "1,5"])
def test_a_price_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("HARNESS_PRICE_PER_HOUR", word)
    with pytest.raises(HarnessError, match="price per hour"):
        costs.price()


def test_the_price_is_the_given_one_or_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert costs.price() is None and costs.price(0) == 0
    monkeypatch.setenv("HARNESS_PRICE_PER_HOUR", " 0.35 ")
    assert costs.price() == 0.35 and costs.price(2) == 2


# --- energy -------------------------------------------------------------------------------------------------------------


def test_processor_counters_are_read_where_there_are_any(bare: Path) -> None:
    counter(bare, "intel-rapl:0", 1_000_000)
    counter(bare, "intel-rapl:1", 9_000_000, span=10**13)
    counter(bare, "intel-rapl:0:0", 5)  # cores, which their package counts already
    start = energy.read()
    counter(bare, "intel-rapl:0", 31_000_000)
    counter(bare, "intel-rapl:1", 1_000_000)  # it went round
    found = energy.spent(start, seconds=3)
    assert found["joules"] == pytest.approx(30 + 1e7 - 8, rel=1e-6)
    assert "RAPL counters of 2 package(s), all processes" in found["method"] and "assumed" not in found["method"]


@pytest.mark.parametrize("case", ["gone round unseen", "gone", "another"])
def test_counters_that_cannot_be_trusted_are_not_used(bare: Path, case: str) -> None:
    counter(bare, "intel-rapl:0", 1_000_000, span=10**6 if case == "gone round unseen" else 10**13)
    start = energy.read()
    if case == "gone":
        (bare / "intel-rapl:0" / "energy_uj").unlink()
    if case == "another":
        counter(bare, "intel-rapl:1", 1)
    start["at"] -= 10
    found = energy.spent(start, seconds=10)
    assert found["joules"] == 650 and "65 W assumed" in found["method"]


def test_the_assumed_wattage_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_WATTS", "15")
    found = energy.spent(None, seconds=100)
    assert found["joules"] == 1500 and "15 W assumed as HARNESS_WATTS says" in found["method"]
    monkeypatch.setenv("HARNESS_WATTS", "low")
    with pytest.raises(HarnessError, match="HARNESS_WATTS"):
        energy.spent(None, seconds=100)


def test_a_gpu_is_read_assumed_or_not_known_and_each_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "usable_gpus", lambda: [{"name": "x"}])
    answers = {"nvmlDeviceGetTotalEnergyConsumption": 5000, "nvmlDeviceGetEnforcedPowerLimit": 70_000}
    monkeypatch.setattr(energy, "_nvml", lambda question, kind: answers.get(question))
    start = energy.read()
    answers["nvmlDeviceGetTotalEnergyConsumption"] = 9000
    found = energy.spent(start, seconds=10)
    assert found["joules"] == 650 + 4 and "NVML's energy counter" in found["method"]
    del answers["nvmlDeviceGetTotalEnergyConsumption"]
    found = energy.spent(start, seconds=10)
    assert found["joules"] == 650 + 700 and "an upper bound" in found["method"]
    answers.clear()
    found = energy.spent(start, seconds=10)
    assert found["joules"] is None and "neither an energy counter nor a power limit" in energy.line(found)


def test_without_a_driver_nvml_does_not_answer() -> None:
    import ctypes

    assert energy._nvml("nvmlNoSuchQuestion", ctypes.c_uint) is None


@pytest.mark.gpu
def test_a_gpus_energy_counter_grows_with_work(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.undo()
    before, square = energy.gpu_joules(), torch.ones(8192, 8192, device="cuda")
    for _ in range(50):
        square @ square
    torch.cuda.synchronize()
    after = energy.gpu_joules()
    assert before is not None and after > before


@pytest.mark.parametrize(("given", "words"), [(0.44, "0.4 s"), (52.4, "52 s"), (59.6, "1 min 00 s"), (172, "2 min 52 s"), (11100, "3 h 05 min")])
def test_seconds_in_words(given: float, words: str) -> None:
    assert units.seconds(given) == words


@pytest.mark.parametrize(("given", "words"), [(812, "812 B"), (5247300, "5.0 MiB"), (1258528768, "1.2 GiB"), (1 << 29, "512 MiB"), (1010 << 20, "1.0 GiB")])
def test_sizes_in_words(given: float, words: str) -> None:
    assert units.size(given) == words


def test_operations_and_money_in_words() -> None:
    assert [units.operations(value) for value in (0, 3.4e9, 2.407e12, 1.9e15)] == ["0 FLOP", "3.4 GFLOP", "2.41 TFLOP", "1.9 PFLOP"]
    assert [units.money(value) for value in (0, 0.0134, 0.5, 12.3)] == ["0.00", "0.013", "0.50", "12.30"]
