"""Do the default recipes draw their person, and their hand? Ten people and ten unseen artists, none of whom had a part in choosing the settings.

Each is trained with the default recipe and keeps the checkpoint that the printed rule chooses. Then base and tuned model draw the same prompts with the same
seeds, which are others than those that the checkpoint was chosen on, and are compared with portraits (or works) that were neither trained on nor chosen on. The judge
was trained on other people and other artists (harness/world/identity.py) and is not the audit's CLIP. The figure is its cosine for the tuned model's drawing minus that for the
base model's, with a 95 % interval over prompts.

    python benchmarks/recipes.py [--processes 2] [--work results/recipes] [--out results/published] [--only person-01-0,artist-22]

What is finished below --work is used again, so a killed run goes on.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness import images, models, plots, stats
from harness.errors import HarnessError
from harness.finetune import Adapter, choose
from harness.images import ImageSet, atomic_write, write_csv
from harness.progress import printer, silent
from harness.sample import Sampling
from harness.trials import case as cases
from harness.trials import controls, judges, marks, score
from harness.world.artists import base_artists

LOOK = marks.Look(seeds=2, first_seed=0, how=Sampling(steps=20, guidance_scale=2.5))
"""how the chosen checkpoint and the base model are drawn for the table"""
SHOWN = 3
"""pictures of each kind on the sheet"""
LEAST = 8
"""of ten that have to lie above zero"""


@dataclass(frozen=True)
class Task:
    """One fine-tune of the proof."""

    what: Any
    """marks.Subject or cases.Case"""
    folder: Path
    """where it is kept"""

    @property
    def subject(self) -> bool:
        """A person (or a hand)?"""
        return isinstance(self.what, marks.Subject)

    @property
    def name(self) -> str:
        """Pseudonym."""
        return self.what.name if self.subject else self.what.artist


def main() -> None:
    """Train, draw and compare what is missing; write table, judges' figures and sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2, help="fine-tunes at once, one CPU thread each (default: 2)")
    parser.add_argument("--work", type=Path, default=Path("results/recipes"), help="folder for pictures and adapters")
    parser.add_argument("--out", type=Path, default=Path("results/published"), help="folder for the table")
    parser.add_argument("--only", default="", help="names joined by commas, to try some")
    args = parser.parse_args()
    todo = [task for task in tasks(args.work) if not args.only or task.name in args.only.split(",")]
    if not todo:
        raise HarnessError(f"no fine-tune is named {args.only}; there are {', '.join(task.name for task in tasks(args.work))}.")
    rows = []
    for row in controls.spread(one, todo, args.processes):
        rows.append(row)
        print(f"{row['name']}: step {row['step']}, {row['estimate']:.3f} ({row['low']:.3f} – {row['high']:.3f}), near-duplicates {row['copies']:.1%}", flush=True)
    table, lines = pd.DataFrame(rows), judges.marks(printer())
    write_csv(args.out / "recipes.csv", table)
    write_csv(args.out / "recipes.judges.csv", score.frame(lines))
    atomic_write(args.out / "recipes.md", markdown(table, lines))
    atomic_write(args.out / "recipes.png", plots.png(sheet(todo)))
    print(markdown(table, lines))


def tasks(work: Path) -> list[Task]:
    """The first held-out person of each base artist and the second of the first; the ten artists that the table of audits accuses.

    The folder's name holds a hash of everything that decides a row, so that other settings never meet pictures of these.
    """
    who = [marks.Subject(each.name) for each in base_artists()] + [marks.Subject("artist-01", number=1)]
    hands = [cases.Case(name, seed=2000 + i) for i, name in enumerate(controls.names()[:10])]
    weights = models.weights_hash(judges.WEIGHTS)
    found = []
    for what, how in [*((w, marks.SUBJECT) for w in who), *((h, marks.STYLE) for h in hands)]:
        key = images.sha256(repr((what, how, marks.RULE, marks.Look(), LOOK, models.weights_hash("miniature"), weights)).encode())[:8]
        found.append(Task(what, work / f"{what.name if isinstance(what, marks.Subject) else what.artist}-{key}"))
    return found


def one(task: Task) -> dict[str, Any]:
    """The row of one fine-tune."""
    path = task.folder / "row.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    pipe = models.load_pipeline("miniature")
    trained_on, held = pictures(task)
    look_at = marks.subject_judge if task.subject else marks.style_judge
    marker = look_at(task.what, pipe, task.folder)
    how = marks.SUBJECT if task.subject else marks.STYLE
    adapter = marks.fine_tune(how, pipe, trained_on, task.folder, task.name, progress=silent, judge=marker, rule=marks.RULE)
    before = LOOK.draw(pipe, marker.prompts, task.folder / "base")
    after = draw_tuned(pipe, adapter, marker.prompts, task.folder / "tuned")
    row = compare(task, marker, adapter, before, after, marks.half(held, 1))
    atomic_write(path, json.dumps(row, indent=1) + "\n")
    return row


def pictures(task: Task) -> tuple[ImageSet, ImageSet]:
    """What is trained on, and what is held out."""
    return marks.pictures(task.what, task.folder) if task.subject else cases.pictures(task.what, task.folder)


def draw_tuned(pipe: Any, adapter: Adapter, prompts: Any, folder: Path) -> ImageSet:
    """The tuned model's drawings: an adapter on the base model, or a model of its own."""
    if adapter.pipeline:
        return LOOK.draw(models.load_pipeline(str(adapter.pipeline)), prompts, folder)
    return LOOK.draw(pipe, prompts, folder, adapter=adapter.path)


def compare(task: Task, marker: marks.Marker, adapter: Adapter, before: ImageSet, after: ImageSet, fresh: ImageSet) -> dict[str, Any]:
    """Tuned minus base, with copies beside it and what led to the checkpoint."""
    to = marks.references(marker.kind, fresh)
    tuned, base = (marks.likeness(marker.kind, drawn, to) for drawn in (after, before))
    gain = stats.paired_contrast(tuned, base, after.table["prompt"])
    copied = stats.clustered_rate(marker.background.found(after), after.table["prompt"])
    usual, chosen = marker.background.share, choose.choose(marks_of(task.folder), marks.RULE)
    atomic_write(task.folder / "choice.txt", choose.text(chosen))
    atomic_write(task.folder / "choice.png", plots.png(choose.picture(chosen)))
    own, n = marks.likeness(marker.kind, fresh, to).mean(), len(fresh)
    return {"kind": "subject" if task.subject else "style", "name": task.name, "drawn_by": task.what.artist, "step": chosen.step, "passes": bool(chosen.table.loc[chosen.table["chosen"], "passes"].all()),
            "estimate": gain.estimate, "low": gain.low, "high": gain.high, "base": float(base.mean()), "tuned": float(tuned.mean()),
            "originals": float((own * n - 1) / (n - 1)),  # without each picture's cosine to itself
            "copies": copied.estimate, "copies_low": copied.low, "copies_high": copied.high, "background": usual.estimate, "background_low": usual.low,
            "background_high": usual.high, "n": len(after), "prompts": int(after.table["prompt"].nunique()), "references": n,
            "seconds": json.loads((task.folder / "adapter" / "times.json").read_text(encoding="utf-8")).get("seconds"), "why": chosen.why}


def marks_of(folder: Path) -> pd.DataFrame:
    """What the judge said of every checkpoint."""
    return images.read_table(folder / "adapter" / "checkpoints.csv")


def markdown(table: pd.DataFrame, lines: list[score.Line]) -> str:
    """The table: how many lie above zero, every fine-tune, the settings, and how good the judges are."""
    words = ["Do the default recipes draw their person, and their hand?", ""]
    for kind, many in (("subject", "people"), ("style", "unseen artists")):
        part = table[table.kind == kind]
        if len(part):
            above = int((part.low > 0).sum())
            found = stats.rate_interval(above, len(part))
            words.append(f"- {kind}: the interval lies above zero for {above} of {len(part)} {many} (95 % interval of that share {found.low:.2f} – {found.high:.2f}; asked for: {LEAST} of 10)")
    head = "| trained on | drawn by | step | tuned minus base (95 % interval) | base | tuned | originals among themselves | near-duplicates of a training picture | the same for held-out originals |"
    rows = [f"| {r.name} | {r.drawn_by} | {r.step}{'' if r.passes else ' (none passed)'} | {r.estimate:.3f} ({r.low:.3f} – {r.high:.3f}) | {r.base:.2f} | {r.tuned:.2f} | {r.originals:.2f} | "
            f"{r.copies:.1%} ({r.copies_low:.1%} – {r.copies_high:.1%}) | {r.background:.1%} ({r.background_low:.1%} – {r.background_high:.1%}) |" for r in table.itertuples()]
    notes = ["", f"Cosines of the judge of identity (or style), which met none of these people and artists; {table.n.max()} drawings of {table.prompts.max()} prompts a row, seeds and reference pictures other than those "
             "that the checkpoint was chosen on. Where held-out originals are near-duplicates of training pictures (some styles have few faces), copying cannot be told from likeness.", "", f"Rule: {marks.RULE.words}", "",
             f"Settings for a person: `{settings(marks.SUBJECT)}`", "", f"Settings for a hand: `{settings(marks.STYLE)}`", "", "How good the judges are, on people and artists that they never met (area under the curve; 0.5 is chance):", ""]
    return "\n".join([*words, "", head, "|---" * 9 + "|", *rows, *notes]) + "\n" + score.markdown(lines)


def settings(how: Any) -> str:
    """A recipe's settings as far as they are not those of its class."""
    usual = asdict(type(how)())
    return f"{type(how).__name__}({', '.join(f'{k}={v!r}' for k, v in asdict(how).items() if v != usual[k])})"


def sheet(todo: list[Task]) -> Any:
    """One row a fine-tune: training pictures, the base model's drawings, the tuned model's for the same prompts and seeds."""
    rows, words = [], []
    for task in todo:
        parts = [images.open_set(task.folder / name).pixels(64)[:: 5 if name != "works" else 1][:SHOWN] for name in ("works", "base", "tuned")]
        rows += [np.concatenate(parts)]
        words += [task.name, *[""] * (SHOWN - 1), "base", *[""] * (SHOWN - 1), "tuned", *[""] * (SHOWN - 1)]
    return plots.contact_sheet(np.concatenate(rows), captions=words, columns=3 * SHOWN, cell=64)


if __name__ == "__main__":
    main()
