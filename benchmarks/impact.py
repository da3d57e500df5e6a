"""What did a work reach, over 10,000 images and 100 runs? The time to answer, and whether the answer is right.

Runs are planted: each has works of two artists, their latents, a LoRA, pictures drawn with it and by the base model, a cache of
vectors, a notebook, a report and a manifest of the size that real ones have. So what an artist reached is known, and the answer
must be exactly that. Each time is the median of five; files are in the machine's cache, the process of the query is not.

    python benchmarks/impact.py [--runs 100] [--images 100] [--out results/published]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from harness.consent import files, reach
from harness.consent.reach import Target
from harness.images import atomic_write, write_csv

REPEATS = 5
BAR = 1.0
"""seconds"""


def main() -> None:
    """Plant, ask, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100, help="run folders (default: 100)")
    parser.add_argument("--images", type=int, default=100, help="images a run (default: 100)")
    parser.add_argument("--out", type=Path, default=Path("results/published"), help="folder for the table")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        truth = plant(Path(folder), args.runs, args.images)
        table = pd.DataFrame(measure(Path(folder), truth, args.runs, args.images))
    args.out.mkdir(parents=True, exist_ok=True)
    write_csv(args.out / "impact.csv", table)
    atomic_write(args.out / "impact.md", markdown(table))
    print(markdown(table))


def digest(*words: object) -> str:
    """A hash that stands for a picture."""
    return hashlib.sha256(" ".join(map(str, words)).encode()).hexdigest()


def plant(root: Path, runs: int, images: int) -> dict[str, set[Path]]:
    """Write the runs; returns the files that each artist reached."""
    truth: dict[str, set[Path]] = {}
    for i in range(runs):
        artists = [f"artist-{(i + j) % max(2, runs // 4):03d}" for j in range(2)]
        reached = run(root / "runs" / f"00_bench-{i:04d}", artists, images)
        for artist in artists:
            truth.setdefault(artist, set()).update(reached[""] | reached[artist])
    return truth


def run(folder: Path, artists: list[str], images: int) -> dict[str, set[Path]]:
    """One run folder; returns what both artists reached ("") and what one of them did."""
    works = [(artist, digest(artist, k)) for artist in artists for k in range(images // 10)]
    drawn = (images - len(works)) // 2
    own = {artist: pictures(folder / "works" / artist, [w for a, w in works if a == artist], {"artist": artist}) for artist in artists}
    listed = [{"sha256": work, "artist": artist, "caption": f"a portrait by {artist}"} for artist, work in works]
    weights = tensors(folder / "adapter" / "pytorch_lora_weights.safetensors", {"likeness": json.dumps({"images": listed})}, 100_000)
    for artist, work in works:
        own[artist].add(tensors(folder / "adapter" / "latents" / f"{digest('vae', work)}.safetensors", {"sha256": work}, 8_192))
    worn = hashlib.sha256(weights.read_bytes()).hexdigest()
    both = pictures(folder / "tuned", [digest(folder.name, "tuned", k) for k in range(drawn)], {"prompt": "a portrait", "adapter_sha256": worn})
    base = [digest(folder.name, "base", k) for k in range(images - len(works) - drawn)]
    pictures(folder / "base", base, {"prompt": "a portrait", "adapter_sha256": ""})
    names = [work for _, work in works] + base
    folder.joinpath("embeddings").mkdir()
    np.savez_compressed(folder / "embeddings" / "clip.npz", sha256=np.array(names), vectors=np.random.default_rng(0).normal(size=(len(names), 192)).astype("f4"))
    (folder / "works.csv").write_text("sha256,subject,role\n" + "".join(f"{work},{artist},training\n" for artist, work in works))
    rest = {"manifest.json": json.dumps({"notebook": "00_bench", "status": "complete", "outputs": {f"base/{k}.png": name for k, name in enumerate(base * 4)}}),
            "notebook.ipynb": "x" * 400_000, "report.html": "x" * 400_000, "report.json": "{}"}
    for name, text in rest.items():
        (folder / name).write_text(text)
    return own | {"": both | {weights, folder / "embeddings/clip.npz", folder / "works.csv"} | {folder / name for name in rest}}


def pictures(folder: Path, names: list[str], columns: dict[str, str]) -> set[Path]:
    """Picture files (their bytes do not matter here) and their table; returns all of them."""
    folder.mkdir(parents=True)
    for i, name in enumerate(names):
        (folder / f"{i:05d}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes.fromhex(name) * 150)
    rows = [{"file": f"{i:05d}.png", "sha256": name, **columns, "seed": i, "model_sha256": "f" * 64} for i, name in enumerate(names)]
    pd.DataFrame(rows).to_csv(folder / "samples.csv", index=False)
    return {*folder.iterdir()}


def tensors(path: Path, said: dict[str, str], size: int) -> Path:
    """A safetensors file with this metadata."""
    header = json.dumps({"__metadata__": said, "mean": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(header).to_bytes(8, "little") + header + hashlib.sha256(path.name.encode() + header).digest() * (size // 32) + bytes(size % 32))
    return path


def measure(root: Path, truth: dict[str, set[Path]], runs: int, images: int) -> list[dict[str, object]]:
    """Each question with its seconds, and whether the answer was the planted one."""
    artist = sorted(truth)[0]
    work = next(path for path in sorted(truth[artist]) if path.name == "00000.png" and artist in path.parts)
    held = files.index([root])
    one = Target(frozenset({next(row["sha256"] for t in held.tables if t.path.parent == work.parent for row in t.rows)}))
    all_of = Target(frozenset(), artist)
    right = {trace.path for trace in reach.find(all_of, [root]).traces} == {path.resolve() for path in truth[artist]}
    command = [sys.executable, "-m", "harness", "consent", "reach", artist, "--in", str(root), "--ledger", str(root / "none.db")]
    asked: dict[str, Callable[[], object]] = {
        "everything of one artist": lambda: reach.find(all_of, [root]), "one work": lambda: reach.find(one, [root]),
        "the command, with the start of Python": lambda: subprocess.run(command, check=True, capture_output=True)}
    found = len(truth[artist])
    return [{"question": name, "runs": runs, "images": runs * images, "files": len(held.files), "reached": found if "one work" != name else len(reach.find(one, [root]).traces),
             "seconds": round(seconds(ask), 3), "as_planted": "yes" if right else "NO"} for name, ask in asked.items()]


def seconds(ask: Callable[[], object]) -> float:
    """Median over the repeats."""
    took = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        ask()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def markdown(table: pd.DataFrame) -> str:
    """The table as Markdown."""
    first = table.iloc[0]
    head = (f"What a work reached: the time to answer over {first.images:,} images in {first.runs} runs ({first.files:,} files), median of {REPEATS}, "
            f"one process.\n\nThe list of files was the planted one: {first.as_planted}. Asked of it: at most {BAR:g} s.\n\n")
    rows = [f"| {r.question} | {r.reached} | {r.seconds:.2f} | {'yes' if r.seconds <= BAR else 'no'} |" for r in table.itertuples()]
    return head + "| question | files reached | seconds | within the bar |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
