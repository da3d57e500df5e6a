"""Blind side-by-side rating: which of two pictures of the same prompt and seed is better?

A rater sees two pictures without any name, in an order and on sides that chance decides, and answers left, right or cannot
tell. What is written down is what was shown (by hash) and what was said; whose picture was preferred is worked out only
afterwards, so that an open file tells a rater nothing. A program can answer the very same trials, and is then one more rater.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from harness.errors import HarnessError
from harness.images import ImageSet, read_table, write_csv
from harness.stats import Interval, clustered_rate, rate_interval

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

LEFT, RIGHT, CANNOT_TELL = ANSWERS = ("left", "right", "cannot tell")
FIRST, SECOND, TIE = "first", "second", "tie"
"""Who won, after the blind is taken off: a picture of the first set of `pairs`, of the second, or neither."""
COLUMNS = ["rater", "number", "prompt", "seed", "left", "right", "answer"]
PSEUDONYM = re.compile(r"[A-Za-z0-9][\w-]{0,39}")


@dataclass(frozen=True)
class Trial:
    """Two pictures of one prompt and seed, as one rater sees them."""

    number: int
    """Place in this rater's order, from 1."""
    prompt: str
    """What both pictures were asked to show: the cluster of every interval."""
    seed: str
    """The seed that both were drawn with."""
    left: Path
    """File of the left picture; never shown by name, and drawn without the text that a PNG may carry."""
    right: Path
    """File of the right picture."""
    hashes: tuple[str, str]
    """SHA-256 of both files, which is all that is written down of them."""


def pairs(left: ImageSet, right: ImageSet, seed: int, rater: str = "rater-1") -> list[Trial]:
    """The trials of one rater: every pair of the same prompt and seed once, in random order, sides swapped in half of them.

    Order and sides depend on `seed` and on the rater's pseudonym alone, so that a session can be taken up again and no two
    raters share an order. Raises HarnessError for pictures without a partner, or a pseudonym that is none.
    """
    from harness.audit import pair

    _check_pseudonym(rater)
    rng, partner, sides = random.Random(f"{seed}/{rater}"), pair(left.table, right.table), (left, right)
    order, swapped = list(range(len(left))), [i % 2 == 1 for i in range(len(left))]
    rng.shuffle(order)
    rng.shuffle(swapped)
    trials = []
    for number, (row, swap) in enumerate(zip(order, swapped, strict=True), 1):
        asked = left.table.iloc[row]
        shown = [(each.paths[i], each.table["sha256"].iloc[i]) for each, i in zip(sides, (row, int(partner[row])), strict=True)]
        (a, a_hash), (b, b_hash) = reversed(shown) if swap else shown
        trials.append(Trial(number, str(asked["prompt"]), str(asked["seed"]), a, b, (a_hash, b_hash)))
    return trials


def _check_pseudonym(rater: str) -> None:
    if not PSEUDONYM.fullmatch(rater):
        raise HarnessError(f"{rater!r} is no pseudonym of a rater: up to 40 letters, digits, _ and -; no name, no address.")


class Ballot:
    """One rater's trials and answers, kept in one CSV that is replaced whole at every answer; opened again, it goes on."""

    def __init__(self, trials: Sequence[Trial], file: Path, rater: str = "rater-1") -> None:
        """Take up what `file` holds already; raises HarnessError when its answers are to other trials or of somebody else."""
        _check_pseudonym(rater)
        self.trials, self.file, self.rater = list(trials), Path(file), rater
        self.answers: dict[int, str] = {}
        if self.file.exists():
            self._take_up(read(self.file))

    def _take_up(self, table: pd.DataFrame) -> None:
        mine = {(t.number, *t.hashes) for t in self.trials}
        for row in table.itertuples():
            if (row.number, row.left, row.right) not in mine or row.rater != self.rater:
                raise HarnessError(f"{self.file}: row {row.number} of {row.rater} is no trial of {self.rater} here; it belongs to other pictures, "
                                   "another seed or another rater. Choose another file.")
            self.answers[int(row.number)] = row.answer

    @property
    def next(self) -> Trial | None:
        """The first trial that has no answer; none when all have one."""
        return next((trial for trial in self.trials if trial.number not in self.answers), None)

    @property
    def table(self) -> pd.DataFrame:
        """One row an answer, columns COLUMNS; what was shown stands there by hash."""
        import pandas as pd

        return pd.DataFrame([self._row(trial, self.answers[trial.number]) for trial in self.trials if trial.number in self.answers], columns=COLUMNS)

    def answer(self, choice: str) -> None:
        """Answer the next trial and write the file. Raises HarnessError for another word, or when there is none left."""
        trial = self.next
        if choice not in ANSWERS or trial is None:
            raise HarnessError(f"{choice!r} is none of {', '.join(ANSWERS)}." if trial else f"all {len(self.trials)} pairs have an answer.")
        self.answers[trial.number] = choice
        write_csv(self.file, self.table)

    def undo(self) -> None:
        """Take back the last answer, if there is one."""
        if self.answers:
            del self.answers[max(self.answers)]
            write_csv(self.file, self.table)

    def form(self, to: Path) -> Path:
        """Write all trials with an empty column `answer`, for whoever rates from the printed sheet; `read` takes it back."""
        import pandas as pd

        return write_csv(to, pd.DataFrame([self._row(trial, self.answers.get(trial.number, "")) for trial in self.trials], columns=COLUMNS))

    def _row(self, trial: Trial, answer: str) -> tuple:
        return (self.rater, trial.number, trial.prompt, trial.seed, *trial.hashes, answer)


def sheet(trials: Sequence[Trial], columns: int = 4, cell: int = 96) -> Image.Image:
    """The trials on paper, `columns` pairs a row: numbered, left and right, and nothing else."""
    from harness import plots
    from harness.images import decode

    shown = [np.asarray(decode(path)) for trial in trials for path in (trial.left, trial.right)]
    return plots.contact_sheet(shown, [f"{trial.number} {side}" for trial in trials for side in (LEFT, RIGHT)], 2 * columns, cell)


def scored(ballot: Ballot, score: Callable[[Path], float], margin: float = 0.0) -> Ballot:
    """Let a program answer what is left of a ballot: the picture with the higher score, or cannot tell within `margin`."""
    while (trial := ballot.next) is not None:
        gap = float(score(trial.left)) - float(score(trial.right))
        ballot.answer(CANNOT_TELL if abs(gap) <= margin else LEFT if gap > 0 else RIGHT)
    return ballot


def read(*files: Path) -> pd.DataFrame:
    """Answers of one or several files, rows without an answer left out; raises HarnessError for a table that is something else."""
    import pandas as pd

    tables = [_read(Path(file)) for file in files]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)
    twice = table[table.duplicated(["rater", "prompt", "seed"])]
    if len(twice):
        raise HarnessError(f"{twice['rater'].iloc[0]} answered {twice['prompt'].iloc[0]!r} with seed {twice['seed'].iloc[0]} twice; keep one of the two.")
    return table


def _read(file: Path) -> pd.DataFrame:
    table = read_table(file)
    if list(table.columns) != COLUMNS:
        raise HarnessError(f"{file}: its columns are {', '.join(map(str, table.columns))}, not {', '.join(COLUMNS)}.")
    table = table.assign(**{name: table[name].astype(str).str.strip() for name in COLUMNS if name != "number"})
    table = table[table["answer"] != ""].reset_index(drop=True)
    wrong = table[~table["answer"].isin(ANSWERS)]
    if len(wrong):
        raise HarnessError(f"{file}: the answer {wrong['answer'].iloc[0]!r} to number {wrong['number'].iloc[0]} is none of {', '.join(ANSWERS)}.")
    return table


def unblind(answers: pd.DataFrame, first: ImageSet, second: ImageSet) -> pd.DataFrame:
    """The answers with a column `winner`: first, second or tie. Raises HarnessError for answers about other pictures.

    Where both sets drew the very same file there is nothing to prefer, and the winner is a tie whatever was said.
    """
    of = [set(each.table["sha256"]) for each in (first, second)]
    return answers.assign(winner=[_winner(row.left, row.right, row.answer, *of) for row in answers.itertuples()])


def _winner(left: str, right: str, answer: str, first: set[str], second: set[str]) -> str:
    if not {left, right} <= first | second or not (({left, right} & first) and ({left, right} & second)):
        raise HarnessError(f"an answer is about pictures ({left[:12]}, {right[:12]}) that are not in the two sets; these are ratings of others.")
    if answer == CANNOT_TELL or left == right:
        return TIE
    preferred = left if answer == LEFT else right
    return SECOND if preferred in second else FIRST


class WinRate(NamedTuple):
    """How often the second set was preferred among the answers that preferred anything."""

    estimate: float
    low: float
    high: float
    n: int
    """answers that preferred one of the two"""
    ties: int
    """answers `cannot tell`, which count for neither"""

    def __str__(self) -> str:
        return f"{self.estimate:.0%} ({self.low:.0%} to {self.high:.0%}) of {self.n} preferences; {self.ties} could not tell"


def win_rate(answers: pd.DataFrame, over: Sequence[str] = ("prompt", "rater"), level: float = 0.95) -> WinRate:
    """Share of preferences for the second set (of `unblind`ed answers), its interval clustered by `over`.

    By prompt, and by rater where there are several: then it speaks of prompts and raters in general, and two raters say
    little (the interval has as many degrees of freedom as the smaller number of clusters has, less one). With
    `over=("prompt",)` it speaks of these raters alone. The variance is that of Cameron, Gelbach and Miller, JBES 29 (2011),
    the bounds are exact ones on the effective sample size (Korn and Graubard 1998); where all preferred the same set they
    are those of as many trials as there are prompts or raters, whichever are fewer. Raises HarnessError without a preference.
    """
    decided = answers[answers["winner"] != TIE]
    if not len(decided):
        raise HarnessError(f"nobody preferred any picture in {len(answers)} answers; a win rate needs at least one preference.")
    won, ties = (decided["winner"] == SECOND).to_numpy(), len(answers) - len(decided)
    labels = [decided[name].to_numpy() for name in over if decided[name].nunique() > 1] or [decided[over[0]].to_numpy()]
    return WinRate(*_rate(won, labels, level), len(won), ties)


def _rate(events: np.ndarray, labels: list[np.ndarray], level: float) -> Interval:
    """Rate with bounds that hold for new clusters of every labelling."""
    share, fewest = float(events.mean()), min(len(set(each)) for each in labels)
    if share in (0.0, 1.0):
        return rate_interval(share * fewest, fewest, level)
    if fewest < 2:
        return Interval(share, 0.0, 1.0)
    size = _effective(events - share, labels, fewest, level)
    return rate_interval(share * size, size, level)._replace(estimate=share)


def _effective(rest: np.ndarray, labels: list[np.ndarray], fewest: int, level: float) -> float:
    """Independent answers that carry as much as these: the variance between clusters against that of single answers."""
    from scipy import stats

    n, single = len(rest), float((rest**2).mean())
    parts = [_between(rest, each) for each in labels]
    both = sum(parts) - (_between(rest, np.asarray([f"{a}\n{b}" for a, b in zip(*labels, strict=True)])) if len(labels) == 2 else 0.0)
    shrink = (stats.t.ppf((1 + level) / 2, n - 1) / stats.t.ppf((1 + level) / 2, fewest - 1)) ** 2
    # the difference of variances may come out too small, even negative: it is never taken below either part
    return float(min(n, single / max(both, *parts, 1e-12) * shrink))


def _between(rest: np.ndarray, labels: np.ndarray) -> float:
    """Variance of the mean from the sums of each cluster's deviations."""
    _, index = np.unique(labels.astype(str), return_inverse=True)
    sums = np.bincount(index, weights=rest)
    return len(sums) / (len(sums) - 1) * float((sums**2).sum()) / len(rest) ** 2


def side(answers: pd.DataFrame) -> Interval:
    """How often the left picture was preferred, clustered by prompt: far from one half, sides and not pictures were rated."""
    decided = answers[answers["answer"] != CANNOT_TELL]
    return clustered_rate(decided["answer"] == LEFT, decided["prompt"])


class Agreement(NamedTuple):
    """How far raters who saw the same pairs said the same."""

    alpha: float | None
    """Krippendorff's, for names (first, second, tie): 1 is full agreement, 0 what chance gives; none where all said one thing"""
    same: Interval
    """share of pairs of answers to one trial that are alike, clustered by prompt"""
    n: int
    """pairs of answers"""
    raters: int

    def __str__(self) -> str:
        alpha = "not defined (all said one thing)" if self.alpha is None else f"{self.alpha:.2f}"
        return f"{self.raters} raters said the same in {self.same.estimate:.0%} ({self.same.low:.0%} to {self.same.high:.0%}) of {self.n} comparisons; alpha {alpha}"


def agreement(answers: pd.DataFrame) -> Agreement:
    """Agreement of the raters on who won (K. Krippendorff, Content Analysis, chapter 11); raises HarnessError for fewer than two."""
    items = [(prompt, list(rows["winner"])) for (prompt, _), rows in answers.groupby(["prompt", "seed"], sort=True)]
    shared = [(prompt, said) for prompt, said in items if len(said) > 1]
    if not shared:
        raise HarnessError("no pair was rated by two raters; agreement needs that.")
    alike = [(prompt, a == b) for prompt, said in shared for i, a in enumerate(said) for b in said[i + 1:]]
    same = clustered_rate([flag for _, flag in alike], [prompt for prompt, _ in alike])
    return Agreement(_alpha([said for _, said in shared]), same, len(alike), answers["rater"].nunique())


def _alpha(items: Iterable[Sequence[str]]) -> float | None:
    """1 - observed / expected disagreement, over items with two or more answers."""
    observed, totals = 0.0, Counter()
    for said in items:
        counts = Counter(said)
        observed += sum(k * (len(said) - k) for k in counts.values()) / (len(said) - 1)
        totals += counts
    n = totals.total()
    expected = sum(k * (n - k) for k in totals.values()) / (n - 1)
    return None if expected == 0 else 1 - observed / expected
