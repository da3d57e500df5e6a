"""Sealing and checking a report of 10,000 pictures, beside the bare reading and hashing of the same files.

    python benchmarks/seal.py [--images 10000] [--side 256] [--repeats 3] [--out results/published]
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.consent import keys
from harness.images import atomic_write, save_png, sha256, write_csv
from harness.report import redact, seal
from harness.report.verify import check

GOAL = 60.0
"""seconds for 10,000 pictures on two cores"""


def main() -> None:
    """Make the pictures, seal and check them, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000, help="pictures (default: 10000)")
    parser.add_argument("--side", type=int, default=256, help="pixels a side, of noise, so that PNG cannot make them smaller (default: 256)")
    parser.add_argument("--repeats", type=int, default=3, help="times each; the median is printed (default: 3)")
    parser.add_argument("--out", type=Path, default=Path("results/published"), help="folder for the table")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        table, total = measure(Path(work), args.images, args.side, args.repeats)
    text = markdown(table, args.images, total)
    args.out.mkdir(parents=True, exist_ok=True)
    write_csv(args.out / "seal.csv", table)
    atomic_write(args.out / "seal.md", text)
    print(text)


def measure(work: Path, images: int, side: int, repeats: int) -> tuple[pd.DataFrame, int]:
    """Median seconds of each task, and the bytes of the folder."""
    folder, key = work / "run", keys.create(work / "key.pem")
    make(folder, images, side)
    redact.write_twins(folder)
    files = [folder / name for name in seal.listed(folder)]
    tasks: dict[str, Callable[[], Any]] = {
        "read and hash every file, nothing else": lambda: [hashlib.sha256(path.read_bytes()).digest() for path in files],
        "seal": lambda: seal.write(folder, key),
        "harness verify, pinned": lambda: accepted(folder, key.fingerprint),
        "harness verify, the last picture changed": lambda: found(folder, files[-1]),
    }
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            begun = time.perf_counter()
            task()
            times[name].append(time.perf_counter() - begun)
    rows = [{"task": name, "images": images, "median_s": statistics.median(t), "slowest_s": max(t)} for name, t in times.items()]
    bare = rows[0]["median_s"]
    return pd.DataFrame(rows).assign(ratio_to_bare=lambda t: t.median_s / bare), sum(path.stat().st_size for path in files)


def make(folder: Path, images: int, side: int) -> None:
    """Pictures and their table, with 100 prompts."""
    rng, rows = np.random.default_rng(0), []
    for i in range(images):
        name = f"pictures/{i:05d}.png"
        rows.append({"file": name, "sha256": save_png(folder / name, rng.integers(0, 256, (side, side, 3), dtype=np.uint8)), "prompt": f"prompt {i % 100}", "seed": i})
    write_csv(folder / "samples.csv", pd.DataFrame(rows))


def accepted(folder: Path, pin: str) -> None:
    """Check a report that is as it was; stops the benchmark when it is not accepted."""
    answer = check(folder, pin)
    if not answer.pinned:
        raise SystemExit(answer.sentence)


def found(folder: Path, path: Path) -> None:
    """Check a report with one bit changed in its last file, and put it back."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    differs = check(folder).differs
    path.write_bytes(data)
    if path.name not in differs:
        raise SystemExit(f"not found: {differs!r}; {sha256(path)}")


def markdown(table: pd.DataFrame, images: int, total: int) -> str:
    """The table and whether it meets the goal."""
    verify = table[table.task == "harness verify, pinned"].slowest_s.iloc[0]
    lines = [f"A report of {images:,} pictures, {total / 1e9:.2f} GB in all, on one core, files in the system's cache.", "",
             "| task | median | slowest | over bare hashing |", "|---|---|---|---|",
             *(f"| {r.task} | {r.median_s:.2f} s | {r.slowest_s:.2f} s | {r.ratio_to_bare:.2f} × |" for r in table.itertuples()), "",
             f"Goal: 10,000 pictures in at most {GOAL:.0f} s. {'Met' if verify <= GOAL and images >= 10_000 else 'Not shown'}: the slowest check took {verify:.2f} s."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
