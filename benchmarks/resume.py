"""Twenty trainings killed at random: does the same call end with the same bytes as one that nobody disturbed?

A tiny random pipeline (SD 1.x classes) is trained by each recipe in peace; then again in an empty folder, where SIGKILL comes at a
moment that is drawn: at a step, or inside a file's writing (its fsync or its rename), the checkpoint's own among them. The same call
is given again, in a fresh process, and its weights are held against the undisturbed ones, byte by byte.

    python benchmarks/resume.py [--times 20] [--seed 0]
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from harness import stats
from harness.finetune import Adapter
from harness.images import atomic_write, sha256, write_csv

ROOT = Path(__file__).resolve().parent.parent
RECIPES = {
    "lora": 'lora(Lora(steps=12, warmup=2, checkpoint_every=3, batch_size=4, text_encoder=True), ',
    "lora, class images": 'lora(Lora(steps=12, warmup=2, checkpoint_every=3, batch_size=2, class_prompt="a portrait", class_images=4, ema=0.9), ',
    "full": 'full(Full(steps=12, warmup=2, checkpoint_every=3, batch_size=4), ',
    "textual inversion": 'textual_inversion(TextualInversion(steps=12, warmup=2, checkpoint_every=3, batch_size=4, token="<mine>", initial_word="a"), ',
}
"""recipe -> the call, up to its first argument that is no setting"""
SCRIPT = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import tiny
from pathlib import Path
from harness import models, progress
from harness.consent import gate, ledger
from harness.finetune import *
from harness.finetune.record import USE
kill, writes = {kill!r}, [0]
def dying(real):
    def call(*given):
        writes[0] += 1
        if writes[0] == kill[1]:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given)
    return call
if kill[0] in ("fsync", "replace"):
    setattr(os, kill[0], dying(getattr(os, kill[0])))
def tell(event):
    if kill[0] == "step" and event.get("stage") == "train" and event.get("step") == kill[1]:
        os.kill(os.getpid(), signal.SIGKILL)
images = tiny.pictures(Path({work!r}) / "works")
images = images.assign(caption=[caption.replace("portrait", "portrait <mine>") for caption in images.table["caption"]] if "<mine>" in {call!r} else images.table["caption"])
book = ledger.of([ledger.Record("artist-07", "*", USE, "allowed", "a letter", "2024-01-01")])
pipe = models.load_pipeline(str(tiny.sd(Path({work!r}) / "model")), device="cpu")
{call}pipe, images, Path({out!r}), gate.ask(images, book), progress=tell)
"""


def main() -> None:
    """Kill, go on, compare; writes results/published/resume.md and resume.csv."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=20, help="how many kills (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("results/published"), help="folder for the table")
    args = parser.parse_args()
    rng, rows, wanted = random.Random(args.seed), [], {}
    with tempfile.TemporaryDirectory() as work:
        for number in range(args.times):
            recipe = list(RECIPES)[number % len(RECIPES)]
            if recipe not in wanted:
                process(recipe, Path(work), Path(work) / recipe, ("step", -1))
                wanted[recipe] = sha256(Adapter.open(Path(work) / recipe).path)
            kill = (kind := rng.choice(["step", "fsync", "replace"]), rng.randint(1, 12 if kind == "step" else 16))
            rows.append(trial(number, recipe, kill, Path(work), wanted[recipe]))
            print(f"{number + 1:>3} {recipe}, killed in {kill[0]} {kill[1]}: {'the same' if rows[-1]['same'] else 'DIFFERENT'}", flush=True)
    write(pd.DataFrame(rows), args.out)


def trial(number: int, recipe: str, kill: tuple[str, int], work: Path, wanted: str) -> dict:
    """One kill and what came of it."""
    out = work / f"trial-{number}"
    died = process(recipe, work, out, kill) == -signal.SIGKILL
    if died:
        process(recipe, work, out, ("step", -1))
    return {"recipe": recipe, "killed in": kill[0], "number": kill[1], "died": died, "same": sha256(Adapter.open(out).path) == wanted,
            "left over": len([path for path in out.rglob(".*")])}


def process(recipe: str, work: Path, out: Path, kill: tuple[str, int]) -> int:
    """One training in a process of its own; its exit status. Raises SystemExit when it fails by itself."""
    code = SCRIPT.format(tests=str(ROOT / "tests"), work=str(work), out=str(out), call=RECIPES[recipe], kill=kill)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    if done.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(done.stderr.decode()[-2000:])
    return done.returncode


def write(table: pd.DataFrame, out: Path) -> None:
    """The table and its reading."""
    died = table[table["died"]]
    bound = stats.rate_interval(int((~died["same"]).sum()), len(died)).high
    counted = died.groupby(["recipe", "killed in"]).agg(kills=("same", "size"), same=("same", "sum")).reset_index()
    lines = ["# Trainings killed at random moments", "", f"{len(died)} kills in {len(table)} trials (where the moment never came, the training ended in peace); "
             f"{int(died['same'].sum())} ended with the bytes of the undisturbed training (so at most {bound:.0%} would not, at 95 %).", "",
             "| recipe | killed in | kills | same bytes |", "|---|---|---|---|",
             *(f"| {row.recipe} | {row[2]} | {row.kills} | {row.same} |" for row in counted.itertuples()), "",
             "`step` is behind a step, `fsync` and `replace` are inside the writing of a file. Command: `python benchmarks/resume.py`.", ""]
    write_csv(out / "resume.csv", table)
    atomic_write(out / "resume.md", "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
