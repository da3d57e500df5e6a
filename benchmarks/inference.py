"""Do the statistics keep what they promise? Simulated studies with a known truth, through the functions that the audits call.

Coverage of nominal 95 % intervals: means, rates, crossed seeds, imperfect detectors, AUC. Imbalance in fair and in unfair populations. The
planner against simulation. Speed of the bootstrap against scipy's. A goal that is missed is printed as missed.

    python benchmarks/inference.py [--replicates 2000] [--quick] [--out results/published]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import special
from scipy import stats as scipy_stats

from harness import stats
from harness.images import atomic_write, write_csv
from harness.inference import CannotTell, detectors, imbalance, intervals, ranks
from harness.inference.power import formula, power
from harness.inference.studies import Plan, simulate
from harness.progress import printer

Generator = np.random.Generator
ENOUGH = 10
"""clusters with an event, and without, from which a nominal interval has to be neither too short nor too long"""
READERS = {"0.95/0.88, 100+100": detectors.Detector(0.95, 0.88, 100, 100), "0.80/0.95, 60+200": detectors.Detector(0.8, 0.95, 60, 200),
           "0.90/0.90, 400+400": detectors.Detector(0.9, 0.9, 400, 400)}
"""sensitivity / specificity, labelled positives + negatives"""
PLANS = (
    Plan(prompts=14), Plan(prompts=20, icc=0.5), Plan(rate=0.5, against=0.4, prompts=60, icc=0.1, shared=0.8),
    Plan(rate=0.25, prompts=30, sensitivity=0.95, specificity=0.88), Plan(rate=0.2, prompts=80, icc=0.4, sensitivity=0.8, specificity=0.9),
    Plan(design="two", prompts=25, images=10), Plan(rate=0.15, design="two", prompts=100, images=4),
    Plan(rate=0.25, design="two", prompts=45, sensitivity=0.95, specificity=0.88), Plan(rate=0.2, design="one", prompts=25),
    Plan(rate=0.2, design="one", prompts=30, sensitivity=0.95, specificity=0.88), Plan(rate=0.2, design="one", prompts=40, sensitivity=0.8, specificity=0.95, positives=60),
    Plan(rate=0.09, against=0.3, design="one", prompts=15, sensitivity=0.9, specificity=0.9),
)


@dataclass(frozen=True)
class Row:
    """One line of the tables."""

    part: str
    case: str
    figure: float
    goal: str
    met: bool
    detail: str = ""


def drawn_rates(rng: Generator, rate: float, icc: float, k: int) -> np.ndarray:
    """Rates of k prompts, beta distributed."""
    return np.full(k, rate) if icc == 0 else rng.beta(rate * (1 - icc) / icc, (1 - rate) * (1 - icc) / icc, k)


def events(rng: Generator, rate: float, icc: float, k: int, m: int, reader: detectors.Detector | None = None) -> np.ndarray:
    """Events (k x m), as they are read."""
    p = drawn_rates(rng, rate, icc, k)
    p = p if reader is None else p * reader.sensitivity + (1 - p) * (1 - reader.specificity)
    return (rng.random((k, m)) < p[:, None]).ravel()


def judged(part: str, case: str, covered: list[bool], forms: list[str], expected: float) -> Row:
    """A coverage against its goal: 93–97 % where enough clusters are expected, else at least 95 % by the conservative form or no answer."""
    share, conservative = float(np.mean(covered)), float(np.mean([form in (intervals.CONSERVATIVE, "cannot tell") for form in forms]))
    enough = expected >= ENOUGH
    met = 0.93 <= share <= 0.97 if enough else share >= 0.95
    detail = "" if conservative == 0 else f"conservative or no answer in {conservative:.0%}"
    return Row(part, case, share, "93–97 %" if enough else "≥ 95 %, conservative", met, detail)


# --- coverage ---------------------------------------------------------------------------------------------------------


def means(rng: Generator, replicates: int) -> Iterator[Row]:
    """Continuous scores, clustered."""
    def study(k: int, icc: float, skewed: bool, method: Callable[..., stats.Interval]) -> bool:
        values = (rng.normal(size=(k, 1)) * icc**0.5 + rng.normal(size=(k, 10)) * (1 - icc) ** 0.5).ravel()
        drawing = {} if method is intervals.cluster_t else {"seed": int(rng.integers(2**31)), "replicates": 999}
        found = method(np.exp(values) if skewed else values, np.repeat(np.arange(k), 10), **drawing)
        return found.low <= (np.exp(0.5) if skewed else 0.0) <= found.high

    methods = {"cluster t": intervals.cluster_t, "percentile bootstrap": intervals.bootstrap}
    cases = [(k, icc, False, name, method) for name, method in methods.items() for k in (12, 30) for icc in (0, 0.1, 0.3, 0.5)]
    cases += [(60, 0.3, True, "bootstrap-t, lognormal", intervals.pivotal_bootstrap)]
    for k, icc, skewed, name, method in cases:
        covered = [study(k, icc, skewed, method) for _ in range(replicates)]
        yield judged("means", f"{name}, {k} prompts x 10, ICC {icc:g}", covered, ["t"], k)


def rates(rng: Generator, replicates: int) -> Iterator[Row]:
    """Events, clustered, common and rare."""
    for k, m in ((14, 8), (30, 10), (100, 10)):
        for rate in (0.02, 0.05, 0.1, 0.3, 0.5):
            for icc in (0, 0.1, 0.3, 0.5):
                yield _covering("rates", f"rate {rate:g}, {k} x {m}, ICC {icc:g}", rng, replicates, rate, icc, k, m)


def _covering(part: str, case: str, rng: Generator, replicates: int, rate: float, icc: float, k: int, m: int, reader: detectors.Detector | None = None) -> Row:
    covered, forms, holding, prompts = [], [], [], np.repeat(np.arange(k), m)
    for _ in range(replicates):
        flags = events(rng, rate, icc, k, m, reader)
        low, high, form = _answer(flags, prompts, reader, rng)
        covered.append(low <= rate <= high)
        forms.append(form)
        holding.append((len(set(prompts[flags])), len(set(prompts[~flags]))))
    return judged(part, case, covered, forms, float(np.mean(holding, axis=0).min()))


def _answer(flags: np.ndarray, prompts: np.ndarray, reader: detectors.Detector | None, rng: Generator) -> tuple[float, float, str]:
    """An interval and its form; no answer covers everything."""
    try:
        found = intervals.rate(flags, prompts) if reader is None else detectors.rate(flags, prompts, again(reader, rng))
    except CannotTell:
        return 0.0, 1.0, "cannot tell"
    return found.low, found.high, found.form


def again(reader: detectors.Detector, rng: Generator) -> detectors.Detector:
    """The detector as another calibration of the same size would have found it."""
    p, n = int(reader.positives), int(reader.negatives)
    return detectors.Detector(rng.binomial(p, reader.sensitivity) / p, rng.binomial(n, reader.specificity) / n, p, n)


def crossed(rng: Generator, replicates: int) -> Iterator[Row]:
    """Seeds that are used again under every prompt: scores, and events with a rate of 0.3."""
    for k, s in ((12, 12), (30, 20)):
        rows, columns = np.repeat(np.arange(k), s), np.tile(np.arange(s), k)
        for a, b in ((0, 0), (0.3, 0), (0, 0.3), (0.1, 0.1), (0.3, 0.3), (0.5, 0.1)):
            covered: dict[str, list[bool]] = {"scores": [], "events": []}
            for _ in range(replicates):
                y = rng.normal(size=(k, 1)) * a**0.5 + rng.normal(size=(1, s)) * b**0.5 + rng.normal(size=(k, s)) * (1 - a - b) ** 0.5
                found, rate = intervals.cluster_t(y.ravel(), rows, columns), intervals.rate(y.ravel() < special.ndtri(0.3), rows, columns)
                covered["scores"].append(found.low <= 0 <= found.high)
                covered["events"].append(rate.low <= 0.3 <= rate.high)
            for name, each in covered.items():
                yield judged("crossed seeds", f"{name}, {k} prompts x {s} seeds, shares of variance {a:g} and {b:g}", each, ["t"], min(k, s))


def misread(rng: Generator, replicates: int) -> Iterator[Row]:
    """Rates, paired differences and shares of classes, read with errors that a calibration of finite size knows."""
    for name, reader in READERS.items():
        for rate in (0.05, 0.1, 0.3):
            for icc in (0, 0.2, 0.5):
                yield _covering("imperfect detector", f"rate {rate:g}, 30 x 10, ICC {icc:g}, {name}", rng, replicates, rate, icc, 30, 10, reader)
    for name, reader in READERS.items():
        yield _paired(name, reader, rng, replicates)
    yield from _classes(rng, replicates)


def _paired(name: str, reader: detectors.Detector, rng: Generator, replicates: int) -> Row:
    covered, forms, prompts = [], [], np.repeat(np.arange(30), 10)
    for _ in range(replicates):
        pair = [events(rng, rate, 0.2, 30, 10, reader) for rate in (0.3, 0.09)]
        found = detectors.paired_difference(*pair, prompts, again(reader, rng))
        covered.append(found.low <= 0.21 <= found.high)
        forms.append(found.form)
    return judged("imperfect detector", f"difference 0.3 - 0.09, 30 x 10, ICC 0.2, {name}", covered, forms, 30)


def _classes(rng: Generator, replicates: int) -> Iterator[Row]:
    names, truth = ("light", "medium", "dark"), np.array([0.6, 0.3, 0.1])
    matrix = np.array([[0.9, 0.08, 0.02], [0.1, 0.8, 0.1], [0.02, 0.13, 0.85]])
    prompts, covered = np.repeat(np.arange(40), 10), []
    for _ in range(replicates):
        shares = rng.dirichlet(truth * 4, 40) @ matrix
        labels = (rng.random((40, 10, 1)) > shares.cumsum(axis=1)[:, None, :]).sum(axis=2).clip(0, 2).ravel()
        calibration = {name: dict(zip(names, rng.multinomial(120, row).tolist(), strict=True)) for name, row in zip(names, matrix, strict=True)}
        found = detectors.inverse_confusion(np.array(names)[labels], prompts, calibration, replicates=399)
        covered.append([found[name].low <= each <= found[name].high for name, each in zip(names, truth, strict=True)])
    for name, each, hits in zip(names, truth, np.array(covered).T, strict=True):
        yield judged("imperfect detector", f"share of `{name}` {each:g} of three classes, 40 x 10, ICC 0.2", list(hits), ["bootstrap"], 40)


def aucs(rng: Generator, replicates: int) -> Iterator[Row]:
    """Scores of pairs, clustered by artist."""
    for icc in (0, 0.3):
        for shift in (1.0, 2.0):
            truth, artists, covered = float(special.ndtr(shift / 2**0.5)), np.repeat(np.arange(30), 8), []
            for _ in range(replicates):
                a, b = (rng.normal(size=(30, 1)) * icc**0.5 + rng.normal(size=(30, 8)) * (1 - icc) ** 0.5 for _ in range(2))
                found = ranks.auc(a.ravel() + shift, b.ravel(), artists, artists + 30)
                covered.append(found.low <= truth <= found.high)
            yield judged("AUC", f"true {truth:.3f}, 30 + 30 artists x 8, ICC {icc:g}", covered, ["logit"], 30)


# --- imbalance --------------------------------------------------------------------------------------------------------


def _truth(kind: str, off: float) -> float:
    p = 0.5 + off
    return {"squared": 2 * off**2, "root": off, "variation": off, "entropy": 1 + (special.xlogy(p, p) + special.xlogy(1 - p, 1 - p)) / np.log(2)}[kind]


def balance(rng: Generator, replicates: int) -> Iterator[Row]:
    """Two classes, 30 prompts of 8 or 10 images: every prompt off by so much (half of them either way), or all of them one way."""
    for scope, kinds in (("prompts", ("squared", "root", "entropy", "variation")), ("overall", ("squared", "variation", "entropy"))):
        for kind in kinds:
            for m in (8, 10):
                for off in (0.0, 0.1, 0.2, 0.3):
                    yield from _imbalanced(rng, replicates, scope, kind, m, off)


def _imbalanced(rng: Generator, replicates: int, scope: str, kind: str, m: int, off: float, k: int = 30) -> Iterator[Row]:
    side = np.resize((1, -1), k) if scope == "prompts" else 1
    found = []
    for _ in range(replicates):
        x = rng.binomial(m, 0.5 + off * side, k)
        found.append(imbalance.measure(np.stack([x, m - x], axis=1), None, kind, scope, replicates=999))
    error = float(np.mean([each.interval.estimate for each in found])) - _truth(kind, off)
    case, plain = f"{kind}, {scope}, {m} images, off by {off:g}", np.mean([each.plain for each in found])
    detail = f"uncorrected reads {plain:.3f}, truth {_truth(kind, off):.3f}"
    bias = 0.005 if off == 0 else 0.02
    if abs(error) > bias and (kind, scope) == ("variation", "prompts"):
        residual = found[0].residual
        detail += f"; up to {residual:.3f} of bias may be left and is in the interval; a function of {m} images with less has a spread that nobody can use: take `root`"
    yield Row("imbalance", case, error, f"within ± {bias:g}", abs(error) <= bias, detail)
    if off == 0:
        false = float(np.mean([each.p_value <= 0.05 for each in found]))
        yield Row("imbalance", f"{case}: false `found`", false, "≤ 6 %", false <= 0.06)


# --- planner and speed ------------------------------------------------------------------------------------------------


def planner(rng: Generator, replicates: int) -> Iterator[Row]:
    """What the planner says against simulated studies."""
    for plan in PLANS:
        said, seen = power(plan, seed=1), simulate(plan, replicates, seed=int(rng.integers(2**31)))
        gap = said.power - seen
        reader = "no errors" if plan.perfect else f"detector {plan.sensitivity:g}/{plan.specificity:g}, {plan.positives}+{plan.negatives}"
        case = f"{plan.design}: {plan.rate:g} from {plan.against:g}, {plan.prompts} x {plan.images}, ICC {plan.icc:g}, {reader}"
        yield Row("planner", case, gap, "within ± 3 points", abs(gap) <= 0.03, f"planner {said.power:.1%} ({said.method}; formula {formula(plan):.1%}), simulated {seen:.1%}")


def speed(rng: Generator, replicates: int) -> Iterator[Row]:
    """The clustered bootstrap (mean and interval from 9,999 draws) against scipy's on cluster sums, vectorised, and in its plain form on rows."""
    draws = 9999 if replicates >= 1000 else 999
    for k in (30, 100, 1000):
        values, labels = rng.normal(size=k * 10), np.repeat(np.arange(k), 10)
        mine = _seconds(lambda: intervals.bootstrap(values, labels, replicates=draws))
        sums, counts = values.reshape(k, 10).sum(axis=1), np.full(k, 10.0)
        best, batch = min((_seconds(lambda b=b: _scipy(sums, counts, draws, b)), b or draws) for b in (None, 10, 50, 200, 1000))
        yield Row("speed", f"{k} clusters of 10: times as fast as scipy, vectorised on cluster sums", best / mine, "≥ 1", best >= mine,
                  f"{1000 * mine:.1f} ms against {1000 * best:.1f} ms at scipy's best batch, {batch}")
        few = max(20, draws // 100)
        plain = _seconds(lambda: _plain(values.reshape(k, 10), few), 3) * draws / few
        yield Row("speed", f"{k} clusters of 10: times as fast as scipy's plain form", plain / mine, "≥ 20", plain >= 20 * mine, f"plain form: {plain:.2f} s")
    peaks = [_peak(n) for n in (1_000, 100_000)]
    yield Row("speed", "memory that 100,000 draws take, over that of 1,000", peaks[1] / peaks[0], "≤ 2", peaks[1] <= 2 * peaks[0], f"{peaks[1] / 2**20:.1f} MiB, of which 0.8 are the means")


def _seconds(call: Callable[[], Any], times: int = 7) -> float:
    """The fastest of some calls."""
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        found.append(time.perf_counter() - begun)
    return min(found)


def _scipy(sums: np.ndarray, counts: np.ndarray, draws: int, batch: int | None) -> Any:
    return scipy_stats.bootstrap((sums, counts), lambda s, c, axis=-1: s.sum(axis=axis) / c.sum(axis=axis), paired=True, vectorized=True, method="percentile",
                                 n_resamples=draws, batch=batch, rng=np.random.default_rng(0))


def _plain(rows: np.ndarray, draws: int) -> Any:
    """One call of Python a draw: the rows of the clusters that were drawn, and their mean."""
    return scipy_stats.bootstrap((np.arange(len(rows)),), lambda drawn: np.concatenate([rows[i] for i in drawn]).mean(), vectorized=False, method="percentile",
                                 n_resamples=draws, rng=np.random.default_rng(0))


def _peak(draws: int) -> int:
    import tracemalloc

    sums, counts = np.arange(300.0), np.full(300, 10.0)
    tracemalloc.start()
    intervals.resampled_means(sums, counts, 0, draws)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


# --- tables -----------------------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Generator, int], Iterator[Row]]] = {
    "means": means, "rates": rates, "crossed seeds": crossed, "imperfect detector": misread, "AUC": aucs, "imbalance": balance, "planner": planner, "speed": speed}


def main() -> int:
    """Run all parts and write inference.csv and inference.md."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--replicates", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="40 replicates: only whether everything runs")
    parser.add_argument("--part", choices=PARTS, action="append", help="only these parts")
    parser.add_argument("--out", type=Path, default=Path("results/published"))
    args = parser.parse_args()
    replicates, show, rows, begun = 40 if args.quick else args.replicates, printer(), [], time.time()
    for name in args.part or PARTS:
        # Every part has its own numbers, so that one can be run alone.
        rows += list(PARTS[name](np.random.default_rng(list(PARTS).index(name)), replicates))
        show({"stage": name, "seconds": round(time.time() - begun)})
    table = pd.DataFrame([asdict(row) for row in rows])
    write_csv(args.out / "inference.csv", table)
    atomic_write(args.out / "inference.md", page(rows, replicates))
    if args.quick:
        print(f"{len(rows)} lines in {time.time() - begun:.0f} s; {replicates} replicates say nothing about goals")
        return 0
    missed = [row for row in rows if not row.met]
    print(f"{len(rows) - len(missed)} of {len(rows)} goals met in {time.time() - begun:.0f} s")
    print("\n".join(f"missed: {row.part}: {row.case}: {shown(row)} (goal {row.goal})" for row in missed))
    return 0


def shown(row: Row) -> str:
    """The figure as people read it."""
    if row.part == "speed":
        return f"{row.figure:.1f}"
    if row.goal.startswith("within"):
        return f"{100 * row.figure:+.1f} points" if row.part == "planner" else f"{row.figure:+.4f}"
    return f"{row.figure:.1%}"


def page(rows: list[Row], replicates: int) -> str:
    """The tables in Markdown."""
    missed = sum(not row.met for row in rows)
    lines = ["# Statistics against simulated truth", "", f"{replicates:,} replicates a line; {len(rows) - missed} of {len(rows)} goals met. Coverage is of nominal 95 % intervals; its own "
             f"standard error is {(0.95 * 0.05 / replicates) ** 0.5:.1%}. Events of a prompt are beta-binomial with the ICC given.", ""]
    for part in dict.fromkeys(row.part for row in rows):
        lines += [f"## {part[0].upper()}{part[1:]}", "", f"{PARTS[part].__doc__}", "", "| | | goal | | |", "|---|---|---|---|---|"]
        lines += [f"| {row.case} | {shown(row)} | {row.goal} | {'met' if row.met else '**missed**'} | {row.detail} |" for row in rows if row.part == part] + [""]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
