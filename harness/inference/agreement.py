"""Do raters agree beyond chance? Cohen's and Fleiss' kappa and Krippendorff's alpha, with intervals over the items.

All three are one formula, 1 - observed / expected disagreement; they differ in what chance is and in what may be missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from harness.errors import HarnessError
from harness.inference import CannotTell
from harness.inference.intervals import codes
from harness.stats import Interval

SCALES = ("nominal", "ordinal", "interval")
FEWEST_ITEMS = 10


def cohen(a: Sequence, b: Sequence, clusters: Sequence | None = None, level: float = 0.95, seed: int = 0, replicates: int = 1999) -> Interval:
    """Kappa of two raters who labelled the same n items (Cohen, Educ. Psychol. Meas. 20, 1960), percentile bootstrap over items or clusters.

    Valid for ten or more independent items; raises CannotTell for fewer, or where chance alone agrees always (one class).
    """
    if len(a) != len(b) or not len(a):
        raise HarnessError(f"two raters label the same items, here are {len(a)} and {len(b)} labels.")
    index = codes([str(label) for label in (*a, *b)])
    first, second, classes = index[:len(a)], index[len(a):], int(index.max()) + 1
    cells = np.eye(classes * classes)[first * classes + second]

    def kappa(weights: np.ndarray) -> np.ndarray:
        joint = (weights @ cells).reshape(-1, classes, classes) / weights.sum(axis=1)[:, None, None]
        chance = (joint.sum(axis=1) * joint.sum(axis=2)).sum(axis=1)
        return _beyond(np.trace(joint, axis1=1, axis2=2), chance)

    return _over_items(kappa, len(a), clusters, level, seed, replicates)


def fleiss(labels: Sequence[Sequence], clusters: Sequence | None = None, level: float = 0.95, seed: int = 0, replicates: int = 1999) -> Interval:
    """Kappa of a fixed number of raters, not always the same ones (Fleiss, Psychol. Bull. 76, 1971): labels (items, raters), none missing.

    Bootstrap and conditions as in `cohen`. With missing labels take `krippendorff`.
    """
    grid = _grid(labels)
    if (grid < 0).any() or grid.shape[1] < 2:
        raise HarnessError("Fleiss' kappa needs two or more labels of every item; where some are missing take Krippendorff's alpha.")
    counts, raters = np.stack([(grid == c).sum(axis=1) for c in range(grid.max() + 1)], axis=1), grid.shape[1]
    agreed = (counts * (counts - 1)).sum(axis=1) / (raters * (raters - 1))

    def kappa(weights: np.ndarray) -> np.ndarray:
        total = weights.sum(axis=1)
        chance = ((weights @ counts / total[:, None] / raters) ** 2).sum(axis=1)
        return _beyond(weights @ agreed / total, chance)

    return _over_items(kappa, len(grid), clusters, level, seed, replicates)


def krippendorff(labels: Sequence[Sequence], scale: str = "nominal", clusters: Sequence | None = None, level: float = 0.95, seed: int = 0,
                 replicates: int = 1999) -> Interval:
    """Alpha of any number of raters, some labels missing (None or NaN): labels (items, raters) (Krippendorff, Content Analysis, 2004, chapter 11).

    `scale` says how far labels are apart: nominal, ordinal (by their order), interval (by their squared difference; numbers). Items
    with fewer than two labels say nothing and are left out. Bootstrap and conditions as in `cohen`.
    """
    if scale not in SCALES:
        raise HarnessError(f"a scale is {', '.join(SCALES)}, not {scale}.")
    grid, values = _grid(labels), _values(labels)
    enough = (grid >= 0).sum(axis=1) >= 2
    if not enough.any():
        raise CannotTell("no item has two labels; agreement needs items that several people labelled.")
    grid = grid[enough]
    counts = np.stack([(grid == c).sum(axis=1) for c in range(len(values))], axis=1).astype(np.float64)
    raters, classes = counts.sum(axis=1), len(values)
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(classes)
    pairs = (pairs / (raters - 1)[:, None, None]).reshape(len(counts), -1)

    def alpha(weights: np.ndarray) -> np.ndarray:
        joint, total = (weights @ pairs).reshape(-1, classes, classes), weights @ counts
        n, apart = total.sum(axis=1), _apart(total, values, scale)
        expected = ((total[:, :, None] * total[:, None, :]) * apart).sum(axis=(1, 2)) / (n - 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(expected > 0, 1 - (joint * apart).sum(axis=(1, 2)) / expected, np.nan)

    kept = None if clusters is None else np.asarray(codes(clusters))[enough]
    return _over_items(alpha, len(counts), kept, level, seed, replicates)


def _apart(total: np.ndarray, values: list, scale: str) -> np.ndarray:
    """Squared distances (replicates or 1, classes, classes) between labels."""
    if scale == "nominal":
        return 1.0 - np.eye(len(values))[None]
    if scale == "interval":
        numbers = np.asarray(values, dtype=np.float64)
        return ((numbers[:, None] - numbers) ** 2)[None]
    middle = np.cumsum(total, axis=1) - total / 2
    return (middle[:, :, None] - middle[:, None, :]) ** 2


def _values(labels: Sequence[Sequence]) -> list:
    """All labels that occur, in order."""
    found = {label for row in labels for label in row if not _missing(label)}
    try:
        return sorted(found)
    except TypeError as error:
        raise HarnessError("labels are all numbers or all words.") from error


def _grid(labels: Sequence[Sequence]) -> np.ndarray:
    """Labels (items, raters) as integers in their order, -1 where missing."""
    place = {value: i for i, value in enumerate(_values(labels))}
    if not place or len({len(row) for row in labels}) != 1:
        raise HarnessError("labels are a table, one row an item and one column a rater, and not all missing.")
    return np.array([[-1 if _missing(label) else place[label] for label in row] for row in labels])


def _missing(label: object) -> bool:
    return label is None or label != label


def _beyond(agreed: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Agreement beyond chance; NaN where chance agrees always."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance < 1 - 1e-12, (agreed - chance) / (1 - chance), np.nan)


def _over_items(statistic: Callable[[np.ndarray], np.ndarray], items: int, clusters: Sequence | None, level: float, seed: int, replicates: int) -> Interval:
    """Statistic of weights (replicates, items), with its percentile interval over items or clusters drawn anew."""
    index = np.arange(items) if clusters is None else codes(clusters)
    k = int(index.max()) + 1
    if len(index) != items or k < FEWEST_ITEMS:
        raise CannotTell(f"agreement needs {FEWEST_ITEMS} or more independent items with two labels, here are {k}.")
    estimate = float(statistic(np.ones((1, items)))[0])
    if not np.isfinite(estimate):
        raise CannotTell("all labels are one class; agreement beyond chance has no meaning there.")
    weights = np.random.default_rng(seed).multinomial(k, np.full(k, 1 / k), size=replicates)[:, index].astype(np.float64)
    low, high = np.nanquantile(statistic(weights), [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(min(low, estimate)), float(max(high, estimate)))
