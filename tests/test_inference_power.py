"""The planner says what simulated studies find, and the command teaches."""

from __future__ import annotations

import argparse
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.inference import CannotTell, power
from harness.inference.studies import Plan, simulate

READ = Plan(rate=0.25, prompts=30, sensitivity=0.95, specificity=0.88)


@pytest.mark.parametrize("plan", [
    Plan(rate=0.25, prompts=24), READ, Plan(rate=0.15, design="two", prompts=100, images=4), Plan(rate=0.25, design="two", prompts=45, sensitivity=0.95, specificity=0.88),
    Plan(rate=0.2, design="one", prompts=30, sensitivity=0.95, specificity=0.88), Plan(rate=0.09, against=0.2, design="one", prompts=40)], ids=lambda plan: plan.design)
def test_the_formula_is_what_studies_find(plan: Plan) -> None:
    said, seen = power.formula(plan), simulate(plan, 600, seed=1)
    assert 0.2 < seen < 0.995
    assert said == pytest.approx(seen, abs=0.03 + 2 * (seen * (1 - seen) / 600) ** 0.5)


def test_rare_events_are_simulated_and_common_ones_are_not() -> None:
    assert power.power(Plan()).method == "formula"
    rare = power.power(Plan(rate=0.05, against=0.01, design="two", prompts=20, images=4))
    assert rare.method.startswith("simulation") and rare.power < power.formula(Plan(rate=0.05, against=0.01, design="two", prompts=20, images=4))


def test_everything_that_should_cost_power_does() -> None:
    best = power.formula(READ)
    for worse in (replace(READ, icc=0.5), replace(READ, sensitivity=0.8), replace(READ, specificity=0.8), replace(READ, prompts=20), replace(READ, images=4), replace(READ, shared=0.0)):
        assert power.formula(worse) < best - 0.01, worse
    one = replace(READ, design="one", positives=400, negatives=400)
    assert power.formula(replace(one, negatives=60)) < power.formula(one) - 0.05
    assert power.formula(replace(READ, rate=READ.against, against=READ.rate)) == pytest.approx(best)


def test_prompts_needed_are_the_fewest_that_reach_it() -> None:
    plan = Plan(rate=0.2, images=4, sensitivity=0.95, specificity=0.88)
    needed = power.prompts_needed(plan, 0.8)
    assert power.formula(replace(plan, prompts=needed)) >= 0.8 > power.formula(replace(plan, prompts=needed - 1))
    with pytest.raises(CannotTell, match="20,000 prompts"):
        power.prompts_needed(Plan(rate=0.101, against=0.10, design="one", sensitivity=0.8, specificity=0.8, positives=50, negatives=50))


@pytest.mark.parametrize("given, said", [({"rate": 0.09}, "two different rates"), ({"icc": 1.0}, "icc from 0"), ({"prompts": 1}, "two or more prompts"), ({"sensitivity": 0.5, "specificity": 0.5}, "no better than chance")])
def test_contradictions_are_refused(given: dict, said: str) -> None:
    with pytest.raises(HarnessError, match=said):
        Plan(**given)


def test_the_command_answers_the_question(capsys: pytest.CaptureFixture) -> None:
    parser = argparse.ArgumentParser()
    power.add_arguments(parser)
    words = ["--rate", "0.3", "--against", "0.09", "--sensitivity", "0.95", "--specificity", "0.88", "--prompts", "30"]
    assert power.main(parser.parse_args(words)) == 0
    said = capsys.readouterr().out
    assert "30.0% is told from 9.0% with power" in said and "sensitivity 95%" in said and "images in all" in said
    rows = [line.split() for line in said.splitlines() if line.strip() and line.split()[0].isdigit()][1:]
    assert len(rows) == 6 and [int(row[1].replace(",", "")) for row in rows] == sorted((int(row[1].replace(",", "")) for row in rows), reverse=True)
    assert "harness power --rate" in parser.format_help()
    with pytest.raises(HarnessError, match="can be wanted"):
        power.main(parser.parse_args(["--wanted", "1.5"]))


def test_the_benchmark_runs(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    parts = [word for part in ("means", "crossed seeds", "AUC") for word in ("--part", part)]
    monkeypatch.setattr(sys, "argv", ["inference.py", "--quick", *parts, "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(root / "benchmarks/inference.py"), run_name="__main__")
    assert ended.value.code == 0 and "say nothing about goals" in capsys.readouterr().out
    assert "## Crossed seeds" in (tmp_path / "inference.md").read_text() and len((tmp_path / "inference.csv").read_text().splitlines()) == 17 + 24 + 4 + 1
