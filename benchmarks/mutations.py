"""Changes to a sealed report, one after the other: does `harness verify` find each, and does it name the file that was changed?

One byte is changed, dropped or put in, in the page, the numbers, the tables, the pictures, the model, the signature and the list of
files; whole files are swapped, renamed, removed and added; a forger signs again. After each the report is put back.

    python benchmarks/mutations.py [--bytes 4000] [--seed 0] [--out results/published]
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from harness import report, stats
from harness.consent import keys
from harness.errors import HarnessError
from harness.images import atomic_write, save_png, write_csv
from harness.report import seal
from harness.report.verify import check
from harness.stats import Finding

FINDING = Finding("style", "artist-31", 0.062, 0.048, 0.077, 0.95, 96, 24, 0.004, None, 0.05, "none: no test", "drawn portraits", "not calibrated", 0, "Larger than 19 of 19.")
KINDS = {".html": "page", ".json": "numbers", ".csv": "tables", ".png": "pictures", ".safetensors": "model"}


def main() -> None:
    """Change, check, put back; write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bytes", type=int, default=4000, help="one-byte changes (default: 4000)")
    parser.add_argument("--seed", type=int, default=0, help="of the places and kinds (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("results/published"), help="folder for the table")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        key, forger = keys.create(Path(work) / "key.pem"), keys.create(Path(work) / "forger.pem")
        folder = make(Path(work) / "run", key)
        rows = [*untouched(folder, key), *one_byte(folder, key, args.bytes, random.Random(args.seed)), *whole_files(folder, key), *forged(folder, key, forger)]
    table = pd.DataFrame(rows).groupby(["where", "change"]).agg(tried=("found", "size"), found=("found", "sum"), named=("named", "sum")).reset_index()
    args.out.mkdir(parents=True, exist_ok=True)
    write_csv(args.out / "mutations.csv", table)
    atomic_write(args.out / "mutations.md", markdown(table))
    print(markdown(table))


def make(folder: Path, key: keys.Key) -> Path:
    """A signed report with twelve pictures."""
    rng, rows = np.random.default_rng(0), []
    for i in range(12):
        name = f"tuned/{i:05d}.png"
        rows.append({"file": name, "sha256": save_png(folder / name, rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)), "prompt": f"prompt {i // 2}", "seed": i % 2})
    write_csv(folder / "samples.csv", pd.DataFrame(rows))
    atomic_write(folder / "adapter" / "weights.safetensors", rng.bytes(2000))
    report.write([FINDING], {"title": "A case", "purpose": "audit"}, [], folder, key)
    return folder


def row(where: str, change: str, found: bool, named: bool) -> dict:
    """One try."""
    return {"where": where, "change": change, "found": found, "named": named}


def untouched(folder: Path, key: keys.Key) -> Iterator[dict]:
    """The report as it is: "found" here would be a false alarm."""
    for _ in range(100):
        yield row("nothing", "none", not check(folder, key.fingerprint).pinned, True)


def one_byte(folder: Path, key: keys.Key, tries: int, rng: random.Random) -> Iterator[dict]:
    """One byte changed, dropped or put in; every file in turn, so that small ones count as much as large ones."""
    names = [*seal.listed(folder), *[seal.NAME] * 6]
    for i in range(tries):
        name, change = names[i % len(names)], rng.choice(("changed", "dropped", "put in"))
        path = folder / name
        data = path.read_bytes()
        place, other = rng.randrange(len(data)), bytes([rng.randrange(256)])
        if change == "changed" and other == data[place:place + 1]:
            other = bytes([other[0] ^ 1])
        path.write_bytes(data[:place] + (b"" if change == "dropped" else other) + data[place + (change != "put in"):])
        if path.read_bytes() != data:
            yield tried(folder, key, "signature and list of files" if name == seal.NAME else KINDS[path.suffix], f"one byte {change}", name)
        path.write_bytes(data)


def tried(folder: Path, key: keys.Key, where: str, change: str, name: str) -> dict:
    """Is it found, and does the answer begin with the file's name?"""
    try:
        differs = check(folder, key.fingerprint).differs
    except HarnessError as refused:  # the number of the seal's version was changed: refused as newer
        differs = f"{seal.NAME}: {refused}"
    return row(where, change, bool(differs), differs.startswith(name))


def whole_files(folder: Path, key: keys.Key) -> Iterator[dict]:
    """Removed, added, renamed, swapped: each file."""
    for name in seal.listed(folder):
        path, aside = folder / name, folder / f"{name}.aside"
        path.rename(aside)
        yield tried(folder, key, "whole files", "renamed", name)
        aside.rename(folder.parent / "aside")
        yield tried(folder, key, "whole files", "removed", name)
        shutil.move(folder.parent / "aside", path)
        shutil.copy(path, aside)
        yield tried(folder, key, "whole files", "added", f"{name}.aside")
        aside.unlink()
    pictures = sorted((folder / "tuned").glob("*.png"))
    for one, two in zip(pictures, pictures[1:]):
        a, b = one.read_bytes(), two.read_bytes()
        one.write_bytes(b), two.write_bytes(a)
        yield tried(folder, key, "whole files", "two pictures swapped", f"tuned/{one.name}")
        one.write_bytes(a), two.write_bytes(b)


def forged(folder: Path, key: keys.Key, forger: keys.Key) -> Iterator[dict]:
    """Every file changed in turn and the report signed again with another key, or with none: the pin has to tell."""
    held = (folder / seal.NAME).read_bytes()
    for name in seal.listed(folder):
        path = folder / name
        data = path.read_bytes()
        path.write_bytes(data + b" ")
        for who, change in ((forger, "signed again with another key"), (None, "signature taken off")):
            seal.write(folder, who)
            yield tried(folder, key, "a forgery", change, seal.NAME)
        path.write_bytes(data)
    (folder / seal.NAME).write_bytes(held)


def markdown(table: pd.DataFrame) -> str:
    """The table, with the totals on top."""
    alarms, changes = table[table["where"] == "nothing"], table[table["where"] != "nothing"]
    single = changes[changes.change.str.startswith("one byte")]
    bound = stats.zero_events_bound(int(single.tried.sum()))
    return "\n".join([
        f"One-byte changes found by `harness verify`: {single.found.sum():,} of {single.tried.sum():,} (missed: at most {bound:.2%} at 95 %); the changed file named first: "
        f"{single.named.sum():,}. All changes: {changes.found.sum():,} of {changes.tried.sum():,}. False alarms on the untouched report: {alarms.found.sum()} of {alarms.tried.sum()}.", "",
        "| where | change | tried | found | named first |", "|---|---|---|---|---|",
        *(f"| {r.where} | {r.change} | {r.tried:,} | {r.found:,} | {r.named:,} |" for r in changes.itertuples()), "",
        "Forgeries are checked with the signer’s fingerprint given. Without it a forgery reads `unchanged, signer unknown`, which is all that can be known then."]) + "\n"


if __name__ == "__main__":
    main()
