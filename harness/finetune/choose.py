"""Which checkpoint is kept: one printed rule over what a judge said of every saved step, and the reason; a person can take another.

The best likeness is usually also the checkpoint that copies most and forgets most (DreamBooth, Ruiz et al. 2023, sections 4.3 and 5: likeness alone is
maximised by copying). So copies and drift are bounded first, likeness decides among what is left, and where the judge cannot tell steps apart the earliest
of them is taken: less training is less copying, less drift, and less cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HarnessError
from harness.finetune import record
from harness.finetune.adapter import Adapter

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

FIDELITY, PROMPT, COPIES, DRIFT = MEASURES = ("fidelity", "prompt", "copies", "drift")
"""What a judge may say of a checkpoint: likeness to the subject or hand (up), what was asked for is there (up), share of copies (down), how far drawings
without the token moved (down). Others stand in the table and decide nothing."""
COLUMNS = ("step", "measure", "estimate", "low", "high")


@dataclass(frozen=True)
class Rule:
    """What a checkpoint has to keep to, and what decides among those that do."""

    most_copies: float = 0.1
    """Largest share of drawings that may be copies of a training picture."""
    most_drift: float = 1.0
    """Largest drift; with the suite's own judges 1 is as far as from one seed's drawing to another's."""
    earliest: bool = True
    """Among steps whose interval of fidelity overlaps that of the best, take the earliest; if not, the best itself."""

    def __post_init__(self) -> None:
        """Raise HarnessError for bounds that no share can have."""
        if not 0 <= self.most_copies <= 1 or self.most_drift < 0:
            raise HarnessError(f"most_copies must be between 0 and 1 (not {self.most_copies}), most_drift at least 0 (not {self.most_drift}).")

    @property
    def words(self) -> str:
        """The rule as one sentence."""
        ties = "; steps whose interval overlaps that of the best are ties, and the earliest of them is taken" if self.earliest else ""
        return f"Among the steps with at most {self.most_copies:.0%} copies and a drift of at most {self.most_drift:g}, the one of highest fidelity{ties}."

    def objections(self, row: pd.Series) -> list[str]:
        """Why a step of the wide table (`wide`) is not eligible; empty where it is."""
        found = []
        if row.get(COPIES, 0.0) > self.most_copies:
            found.append(f"copies {row[COPIES]:.1%} (at most {row[f'{COPIES}_high']:.1%}) above {self.most_copies:.0%}")
        if row.get(DRIFT, 0.0) > self.most_drift:
            found.append(f"drift {row[DRIFT]:.2f} above {self.most_drift:g}")
        return found


@dataclass(frozen=True, eq=False)
class Choice:
    """A checkpoint, and how it came to be chosen."""

    step: int
    """The step that is kept."""
    why: str
    """One or a few sentences; says so where no step kept to the rule."""
    table: pd.DataFrame
    """One row a saved step: every measure with its interval (`fidelity`, `fidelity_low`, `fidelity_high`, …), `passes`, `chosen`, `note`."""
    rule: Rule
    """What decided."""


def choose(checkpoints: pd.DataFrame, rule: Rule | None = None) -> Choice:
    """The checkpoint that a rule keeps, from rows of step, measure, estimate, low, high (a training's checkpoints.csv).

    Where no step keeps to the rule, the last one is kept and `why` says so. Raises HarnessError for a table without a fidelity at every step, or with
    numbers that are none.
    """
    rule, table = rule or Rule(), wide(checkpoints)
    objections = [rule.objections(row) for _, row in table.iterrows()]
    table["passes"] = [not found for found in objections]
    table["note"] = ["; ".join(found) for found in objections]
    eligible = table[table["passes"]]
    if eligible.empty:
        step = int(table["step"].max())
        best = f"no step passes: {_said(table)}; the last is kept"
    else:
        step, best = _best(eligible, rule)
        table.loc[table["passes"] & (table["note"] == ""), "note"] = "passes"
    table["chosen"] = table["step"] == step
    table.loc[table["chosen"], "note"] += ", chosen" if not eligible.empty else ", the last"
    return Choice(step, f"{best}. {_unbounded(table)}{rule.words}", table, rule)


def wide(checkpoints: pd.DataFrame) -> pd.DataFrame:
    """One row a step, in order: each measure's estimate under its name, the ends of its interval under name_low and name_high."""
    import numpy as np
    import pandas as pd

    missing = set(COLUMNS) - set(checkpoints.columns)
    if missing or checkpoints.empty:
        raise HarnessError(f"a table of checkpoints has the columns {', '.join(COLUMNS)} and a row or more; here {', '.join(sorted(missing)) or 'every row'} is missing.")
    rows = checkpoints[list(COLUMNS)].copy()
    numbers = rows[["step", "estimate", "low", "high"]].apply(pd.to_numeric, errors="coerce")
    if not np.isfinite(numbers.to_numpy(dtype=float)).all() or rows.duplicated(["step", "measure"]).any():
        raise HarnessError("a table of checkpoints holds a value that is not a number, or one measure twice for one step.")
    if (numbers["low"] > numbers["estimate"] + 1e-9).any() or (numbers["estimate"] > numbers["high"] + 1e-9).any():
        raise HarnessError("a table of checkpoints holds an estimate outside of its interval.")
    rows[numbers.columns] = numbers
    parts = [rows.pivot(index="step", columns="measure", values=kind).add_suffix(tail) for kind, tail in (("estimate", ""), ("low", "_low"), ("high", "_high"))]
    names = list(dict.fromkeys([*(m for m in MEASURES if m in set(rows["measure"])), *rows["measure"]]))
    table = pd.concat(parts, axis=1)[[f"{name}{tail}" for name in names for tail in ("", "_low", "_high")]].reset_index()
    if FIDELITY not in table or table.isna().any(axis=None):
        raise HarnessError(f"every step needs the same measures, {FIDELITY} among them; a judge left one out.")
    return table.assign(step=table["step"].astype(int)).rename_axis(columns=None)


def _best(eligible: pd.DataFrame, rule: Rule) -> tuple[int, str]:
    """Step and reason among steps that keep to the rule."""
    top = eligible.loc[eligible[FIDELITY].idxmax()]
    ties = eligible[eligible[f"{FIDELITY}_high"] >= top[f"{FIDELITY}_low"]] if rule.earliest else eligible[eligible["step"] == top["step"]]
    first = ties.iloc[0]
    words = f"step {int(first['step'])}: {_interval(first, FIDELITY)}" + (f", {_interval(first, COPIES)}" if COPIES in first else "")
    if first["step"] == top["step"]:
        return int(first["step"]), f"{words}; the highest fidelity" + (", and no earlier step comes near it" if rule.earliest else "")
    return int(first["step"]), f"{words}; the highest is step {int(top['step'])} with {_interval(top, FIDELITY)}, which the judge cannot tell from it, and this is the earliest"


def _interval(row: pd.Series, name: str) -> str:
    return f"{name} {row[name]:.2f} ({row[f'{name}_low']:.2f} – {row[f'{name}_high']:.2f})"


def _said(table: pd.DataFrame) -> str:
    return "; ".join(f"step {row.step} has {row.note}" for row in table.itertuples())


def _unbounded(table: pd.DataFrame) -> str:
    """Which bounds had nothing to bound."""
    absent = [name for name in (COPIES, DRIFT) if name not in table]
    return f"No judge measured {' or '.join(absent)}, so nothing bounds {'them' if len(absent) > 1 else 'it'}. " if absent else ""


def take(out: Path, step: int, why: str = "") -> Adapter:
    """Keep another saved checkpoint of a finished training: its files take the place of what was chosen, each in one rename.

    manifest.json then says which step, and `why`. Raises HarnessError for a step that was not saved.
    """
    import json

    out = Path(out)
    before = Adapter.open(out)
    weights = before.path.relative_to(out)
    saved = steps(out)
    if not (record.step_folder(out, step) / weights).is_file():
        raise HarnessError(f"{out}: step {step} was not saved; there are {', '.join(map(str, saved)) or 'none'}.")
    last = json.loads((out / "manifest.json").read_text(encoding="utf-8")).get("last_loss")
    record.put_in_place(out, step, str(weights), {"last_loss": last, "chosen": {"step": step, "why": why or "taken by a person"}})
    return Adapter.open(out)


def steps(out: Path) -> list[int]:
    """The saved steps of a training, in order."""
    return sorted(int(path.name) for path in (Path(out) / record.STEPS).glob("[0-9]*") if path.is_dir())


def text(choice: Choice) -> str:
    """The table as text, one line a step, the chosen one marked, and the reason below it."""
    names = _measures(choice.table)
    lines = [["step", *names, ""]]
    for _, row in choice.table.iterrows():
        shown = [f"{row[name]:.2f} ({row[f'{name}_low']:.2f} – {row[f'{name}_high']:.2f})" for name in names]
        lines.append([f"{'→ ' if row['chosen'] else ''}{row['step']}", *shown, row["note"]])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    table = "\n".join("  ".join(cell.rjust(width) if i == 0 else cell.ljust(width) for i, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip() for line in lines)
    return f"{table}\n\n{choice.why}\n"


def _measures(table: pd.DataFrame) -> list[str]:
    return [name.removesuffix("_low") for name in table.columns if name.endswith("_low")]


def picture(choice: Choice) -> Image.Image:
    """Every measure over the steps with its interval, one panel each, and the chosen step as a line through all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from harness import plots

    names, table = _measures(choice.table), choice.table
    figure = Figure(figsize=(6.4, 0.7 + 1.45 * len(names)), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    for i, (axes, name) in enumerate(zip(_panels(figure, len(names)), names, strict=True)):
        colour = plots.ORANGE if name in (COPIES, DRIFT) else plots.BLUE
        axes.vlines(table["step"], table[f"{name}_low"], table[f"{name}_high"], color=colour, linewidth=2.5)
        axes.plot(table["step"], table[name], "o-", color=colour, markersize=5, linewidth=1, clip_on=False)
        bound = {COPIES: choice.rule.most_copies, DRIFT: choice.rule.most_drift}.get(name)
        if bound is not None:
            axes.axhline(bound, color=plots.GREY, linewidth=0.9, linestyle=":")
        axes.axvline(choice.step, color=plots.GREEN, linewidth=1.2, linestyle="--", label=f"step {choice.step} is kept")
        axes.set(ylabel=name, ylim=(min(0.0, float(table[f"{name}_low"].min())), None))
        axes.spines[["top", "right"]].set_visible(False)
        if i == 0:
            axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1)
    axes.set(xlabel="training step", xticks=table["step"] if len(table) <= 10 else axes.get_xticks())
    return plots._drawn(figure)


def _panels(figure: object, n: int) -> Sequence:
    """`n` axes one below the other that share their steps."""
    return figure.subplots(n, sharex=True, squeeze=False)[:, 0]
