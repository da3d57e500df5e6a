"""Is the harness's search as fast as bare FAISS, exact like it, and small in memory, over 1,000,000 vectors?

Random unit vectors are written once, both as the index files of the harness and as one array. Then, in one process and by turns, the
same queries are put to `harness.audit.search.nearest`, to faiss.IndexFlatIP with everything in memory, and to faiss.knn over the
mapped array. Peak memory is that of a process which does nothing but one of the three, over what its imports take (Linux).

    OMP_NUM_THREADS=2 python benchmarks/corpus.py [--n 1000000] [--out results/published]
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

THREADS = 2
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))  # FAISS's matrix products read it when they are first loaded

import faiss  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from harness.audit import search  # noqa: E402
from harness.embed import Embeddings  # noqa: E402
from harness.images import atomic_write, write_csv  # noqa: E402

DIM, QUERIES, K, PAIRS = 128, 64, 10, 9
CLIP = SimpleNamespace(sha256="0" * 64, dim=DIM)
HARNESS, FLAT, KNN = "harness", "faiss.IndexFlatIP", "faiss.knn, mapped array"
Search = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def main() -> None:
    """Write the vectors, time by turns, measure the memory of each, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1_000_000, help="vectors (default: 1,000,000)")
    parser.add_argument("--out", type=Path, default=Path("results/published"), help="folder for the table")
    parser.add_argument("--alone", nargs=2, metavar=("SEARCH", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        print(peak(args.alone[0], Path(args.alone[1])))
        return
    with tempfile.TemporaryDirectory() as folder:
        plant(Path(folder), args.n)
        table = measure(Path(folder), args.n)
    args.out.mkdir(parents=True, exist_ok=True)
    write_csv(args.out / "corpus.csv", table)
    atomic_write(args.out / "corpus.md", markdown(table))
    print(markdown(table))


def plant(folder: Path, n: int) -> None:
    """Write the vectors, a block at a time: array.npy and the index files."""
    rng = np.random.default_rng(0)
    whole = np.lib.format.open_memmap(folder / "array.npy", "w+", np.float32, (n, DIM))
    for start in range(0, n, search.KEEP):
        block = rng.standard_normal((min(search.KEEP, n - start), DIM), dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        whole[start:start + len(block)] = block
        search.write(folder, Embeddings(block, [f"{start + i:064x}" for i in range(len(block))], CLIP.sha256))
    whole.flush()


def searches(folder: Path, which: str) -> Search:
    """One of the three, ready to be asked; the harness answers with the numbers in the names, as its files have an order of their own."""
    if which == HARNESS:
        index = search.open_index(folder, CLIP)
        number = np.frombuffer(index.sha256.tobytes(), ">u8")[3::4].astype(np.int64)
        return lambda asked: _renamed(search.nearest(asked, index, K, THREADS), number)
    whole = np.load(folder / "array.npy", mmap_mode="r")
    faiss.omp_set_num_threads(THREADS)
    if which == KNN:
        return lambda asked: faiss.knn(asked, whole, K, metric=faiss.METRIC_INNER_PRODUCT)
    flat = faiss.IndexFlatIP(DIM)
    for start in range(0, len(whole), search.BLOCK):
        flat.add(np.ascontiguousarray(whole[start:start + search.BLOCK]))
    return lambda asked: flat.search(asked, K)


def _renamed(found: search.Neighbours, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return found.cosines, number[found.rows]


def queries() -> np.ndarray:
    """The same unit vectors for everybody."""
    asked = np.random.default_rng(1).standard_normal((QUERIES, DIM), dtype=np.float32)
    return asked / np.linalg.norm(asked, axis=1, keepdims=True)


def measure(folder: Path, n: int) -> pd.DataFrame:
    """Seconds, their ratio to IndexFlatIP turn by turn, peak memory and equality of the answers, a row for each search."""
    asked, ready = queries(), {name: searches(folder, name) for name in (HARNESS, FLAT, KNN)}
    answers = {name: ask(asked) for name, ask in ready.items()}
    took: dict[str, list[float]] = {name: [] for name in ready}
    for turn in range(PAIRS):
        for name in (list(ready) if turn % 2 else list(ready)[::-1]):
            began = time.perf_counter()
            ready[name](asked)
            took[name].append(time.perf_counter() - began)
    rows = []
    for name, seconds in took.items():
        ratio = statistics.median(own / flat for own, flat in zip(seconds, took[FLAT], strict=True))
        same = all(np.array_equal(own, flat) for own, flat in zip(answers[name], answers[FLAT], strict=True))
        rows.append({"search": name, "n": n, "dim": DIM, "queries": QUERIES, "k": K, "threads": THREADS, "turns": PAIRS, "seconds": round(statistics.median(seconds), 4),
                     "ratio_to_flat": round(ratio, 3), "peak_mb": round(alone(name, folder), 1), "same_answers": "yes" if same else "NO"})
    return pd.DataFrame(rows)


def alone(name: str, folder: Path) -> float:
    """Peak memory of a process that does only this search, in MB."""
    command = [sys.executable, __file__, "--alone", name, str(folder)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak(name: str, folder: Path) -> float:
    """MB of memory, mapped pages included, that a search took at most over what there was before it."""
    before = _status("VmRSS")
    searches(folder, name)(queries())
    return _status("VmHWM") - before


def _status(field: str) -> float:
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1)) * 1024 / 1e6


def markdown(table: pd.DataFrame) -> str:
    """The table as Markdown."""
    first = table.iloc[0]
    head = (f"Exact search of the {first.k} nearest of {first.n:,} unit vectors of length {first.dim} for {first.queries} queries on {first.threads} threads; median of "
            f"{first.turns} turns, by turns in one process. The vectors alone are {first.n * first.dim * 4 / 1e6:,.0f} MB.\n\n")
    rows = [f"| {r.search} | {r.seconds:.3f} | {r.ratio_to_flat:.2f} | {r.peak_mb:,.0f} | {r.same_answers} |" for r in table.itertuples()]
    return (head + "| search | seconds | time over that of IndexFlatIP | peak memory, MB | same answers |\n|---|---|---|---|---|\n" + "\n".join(rows)
            + "\n\nPeak memory counts mapped pages, and for the harness the pictures' hashes; it is that of a process of its own, over what its imports take.\n")


if __name__ == "__main__":
    main()
