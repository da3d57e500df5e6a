"""Ten fine-tunes and ten controls: what the audit said, and what was true.

Ten of the control models of the style question are put in the dock, one after the other: each was tuned on another unseen artist
with another training seed. Every one is audited twice: for the artist that it was tuned on (truth: yes) and for another of the
ten (truth: no). Its controls are the other control models, without the accused and without any that was tuned on the artist in
question. The style question is the one of notebook 00; its raw answer is `closer` when the exact rank p is at most 5 % and the
interval lies above zero. No calibration record exists yet, so in a report every one of these would read `not calibrated`.

    python benchmarks/mimicry.py [--processes 2] [--work results/controls] [--out results/published]
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from harness import embed, models, stats
from harness.audit import copies, style
from harness.images import ImageSet, atomic_write, open_set, write_csv
from harness.progress import printer, silent
from harness.trials import case as cases
from harness.trials import controls

ACCUSED = 10
SHIFT = 3
"""the second audit of model i is for the artist of model i + SHIFT"""


def main() -> None:
    """Make what is missing, audit all, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2, help="fine-tunes at once, one CPU thread each (default: 2)")
    parser.add_argument("--work", type=Path, default=controls.WORK, help="folder for pictures and adapters")
    parser.add_argument("--out", type=Path, default=Path("results/published"), help="folder for the table")
    args = parser.parse_args()
    controls.build(printer(), work=args.work, processes=args.processes)
    tasks = [(case, args.work / case.artist) for case in controls.members()[:ACCUSED]]
    table = pd.DataFrame(audit(tasks, args.work))
    args.out.mkdir(parents=True, exist_ok=True)
    write_csv(args.out / "mimicry.csv", table)
    atomic_write(args.out / "mimicry.md", markdown(table))
    print(markdown(table))


def audit(tasks: list[tuple[cases.Case, Path]], work: Path) -> list[dict[str, Any]]:
    """Two audits of every tuned model, one row each."""
    clip, pipe = models.load_clip("miniature"), models.load_pipeline("miniature")
    see = partial(embed.embed, clip=clip, cache=work / "embeddings", progress=silent)
    base = see(cases.draw(tasks[0][0], pipe, work / "base", progress=silent))
    for case, folder in tasks:
        if not (folder / "tuned" / "samples.csv").exists():
            controls.outputs(case, folder)
    rows = []
    for i, (case, folder) in enumerate(tasks):
        tuned = open_set(folder / "tuned")
        for accused, its in ((case, folder), tasks[(i + SHIFT) % len(tasks)]):
            null = controls.load(case, models.weights_hash("miniature"), clip, without=[accused.artist])
            rows.append(one(case, accused, tuned, open_set(its / "works"), open_set(its / "held_out"), base, null, see))
    return rows


def one(case: cases.Case, accused: cases.Case, tuned: ImageSet, works: ImageSet, held: ImageSet, base: embed.Embeddings,
        null: dict[str, embed.Embeddings], see: Any) -> dict[str, Any]:
    """The style and the copy question for one tuned model and one artist."""
    seen = see(held)
    rows = style.score(see(tuned), base, seen, trained_on=set(works.table["sha256"]))
    hand = style.finding(rows, style.null(null, base, seen), accused.artist)
    near = copies.finding(copies.score(tuned, works, held, see), accused.artist)
    closer = hand.p_value is not None and hand.p_value <= 0.05 and hand.low > 0
    return {"tuned_on": case.artist, "seed": case.seed, "asked_about": accused.artist, "truth": "yes" if case == accused else "no",
            "contrast": hand.estimate, "low": hand.low, "high": hand.high, "floor": hand.floor, "n": hand.n, "prompts": hand.clusters,
            "controls": len(null), "p": hand.p_value, "closer": "yes" if closer else "no",
            "flagged_as_copy": near.estimate, "copy_low": near.low, "copy_high": near.high}


def markdown(table: pd.DataFrame) -> str:
    """The table, with what the raw answers got right on top, each share with its exact interval."""
    lines = ["What the audit said about ten fine-tunes and ten controls, and what was true.", ""]
    for truth, word in (("yes", "said `closer` where it was true"), ("no", "said `closer` where it was not")):
        part = table[table.truth == truth]
        found = stats.rate_interval(int((part.closer == "yes").sum()), len(part))
        lines.append(f"- {word}: {(part.closer == 'yes').sum()} of {len(part)} (95 % interval {found.low:.2f} – {found.high:.2f})")
    head = "| tuned on | asked about | truth | contrast (95 % interval) | controls' mean | exact p | raw answer | flagged as copies |"
    rows = [f"| {r.tuned_on} | {r.asked_about} | {r.truth} | {r.contrast:.3f} ({r.low:.3f} – {r.high:.3f}) | {r.floor:.3f} | {r.p:.3f} | "
            f"{'closer' if r.closer == 'yes' else 'no'} | {r.flagged_as_copy:.1%} ({r.copy_low:.1%} – {r.copy_high:.1%}) |" for r in table.itertuples()]
    notes = ["", "Raw answers: no calibration record exists, so a report prints each of these as `not calibrated`. The p value is a rank among "
             f"{table.controls.min()} to {table.controls.max()} control models; each row has {table.n.iloc[0]} pictures of {table.prompts.iloc[0]} prompts."]
    return "\n".join([*lines, "", head, "|---|---|---|---|---|---|---|---|", *rows, *notes]) + "\n"


if __name__ == "__main__":
    main()
