"""A finished run's folder, made by hand: what the tests of comparing, validating and exporting stand on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness import stats
from harness.images import atomic_write, sha256, write_csv, write_set
from harness.runs import identity, manifest, rows

MOODS = [f"a portrait, mood {i}" for i in range(20)]
PARAMETERS = {"steps": 200, "prompts": 12, "seeds": 2, "model": "miniature"}
PACKAGES = {"python": "3.11", "diffusers": "0.42.1", "torch": "2.13.0"}
IDENTITY = {"notebook": "a" * 64, "code": {"harness/stats.py": "b" * 64}, "inputs": {}, "packages": PACKAGES, "device": "cpu"}


def asked(prompts: int = 12, seeds: int = 2, shared: bool = False) -> list[tuple[str, int]]:
    """Prompt and seed of each picture; `shared`: every prompt with the same seeds."""
    return [(MOODS[i], j if shared else 100 * i + j) for i in range(prompts) for j in range(seeds)]


def values(question: str, subject: str, keys: list[tuple[str, int]], give: Callable[[int], float]) -> pd.DataFrame:
    """Rows of one finding; `give` is the value of each pair by its number."""
    return pd.DataFrame([(question, subject, prompt, seed, give(i)) for i, (prompt, seed) in enumerate(keys)], columns=rows.COLUMNS)


def finding(question: str, subject: str, table: pd.DataFrame, **changes: Any) -> stats.Finding:
    """The finding whose estimate is the mean of these rows."""
    mean = float(table["value"].mean())
    facts = {"low": mean - 0.1, "high": mean + 0.1, "level": 0.95, "n": len(table), "clusters": table["prompt"].nunique(), "floor": None, "power": None,
             "p_value": None, "calibration": "none: planted", "domain": "made by hand", "verdict": "not calibrated", "abstained": 0, "why": "planted"}
    return stats.Finding(question, subject, mean, **(facts | changes))


def make(parent: Path, number: int, tables: list[pd.DataFrame], findings: list[stats.Finding], keys: list[tuple[str, int]] | None = None,
         parameters: dict[str, Any] | None = None, shade: int = 0, **changes: Any) -> Path:
    """A complete run with pictures in `base` (alike in all runs) and `tuned` (of another `shade` in each); returns its folder."""
    keys, resolved = keys or asked(2, 2), PARAMETERS | {"number": number} | (parameters or {})
    run_id = identity.run_id({**IDENTITY, "parameters": resolved})
    folder = parent / f"planted-{run_id}"
    asks = pd.DataFrame(keys, columns=["prompt", "seed"])
    sets = [write_set(folder / name, [np.full((8, 8, 3), 10 * i % 250 + add, np.uint8) for i in range(len(keys))], asks) for name, add in (("base", 0), ("tuned", shade))]
    write_set(folder / "works", [np.full((8, 8, 3), 255, np.uint8)], pd.DataFrame({"subject": ["artist-21"]}))
    write_csv(folder / "works.csv", pd.DataFrame({"sha256": [sha256(folder / "works" / "00000.png")], "subject": ["artist-21"], "role": ["trained on"]}))
    rows.samples(folder, *sets)
    write_csv(folder / rows.FINDINGS, stats.table(findings))
    rows.write(folder, tables, findings)
    atomic_write(folder / "report.html", "<!DOCTYPE html><html lang=\"en\"><title>planted</title></html>\n")
    atomic_write(folder / manifest.SAVED, json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}) + "\n")
    manifest.write(folder, facts(run_id, folder, resolved) | changes)
    return folder


def facts(run_id: str, folder: Path, resolved: dict[str, Any]) -> dict[str, Any]:
    """A manifest as a finished run has it."""
    return {
        "schema": manifest.SCHEMA, "status": manifest.COMPLETE, "id": run_id, "notebook": "planted", "why_new": "new: the first run of this notebook here",
        "parameters": {"preset": "smoke", "preset_why": "asked for", "given": {}, "resolved": resolved}, "seeds": {"seeds": 2},
        "identity": IDENTITY,
        "git": {"origin": None, "commit": "c" * 40, "dirty": False, "diff_sha256": None}, "packages": PACKAGES | {"jinja2": "3.1"},
        "hardware": {"system": "Linux", "machine": "x86_64", "cores": 2, "memory_bytes": 1, "gpus": [], "python": "3.11.7", "driver": None}, "determinism": {},
        "process": {"pid": 1, "created": 0.0, "host": "elsewhere", "by": "harness run"},
        "timings": {"started": "2026-01-02T03:04:05+00:00", "ended": "2026-01-02T03:05:05+00:00", "seconds": 60.0, "attempts": 1}, "peak_memory": {"host_bytes": 1},
        "inputs": [], "notes": {"purpose": "audit", "models": {"clip_sha256": "d" * 64}},
        "outputs": {name: sha256(folder / name) for name in manifest.output_files(folder, [folder])}, "report": "report.html",
        "predicted": {}, "actual": {}, "error": None,
    }
