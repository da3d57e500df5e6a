"""How good the judges of identity and style are, on people and artists that they never met: every figure with its interval.

A pair of pictures is of the same person (or by the same hand), or it is not. The figure is the chance that a pair of the first kind has the higher cosine
(the area under the curve), for each person or artist apart, and its mean; the interval draws persons or artists anew.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np

from harness import models
from harness.errors import HarnessError
from harness.trials.score import Line, mean, reconstruct
from harness.world import identity
from harness.world.artists import unseen_artists
from harness.world.render import base_set, works

WEIGHTS = models.MINIATURE / "identity.safetensors"
SEED = 77
"""of the people and works that the judges are marked on"""


@lru_cache(maxsize=2)
def judges(path: Path = WEIGHTS) -> Any:
    """The shipped judges. Raises HarnessError where they are missing."""
    if not path.is_file():
        raise HarnessError(f"the judges of identity and style are not installed ({path} is missing); reinstall the package, or `harness world build identity`.")
    return identity.load(path)


def above(same: np.ndarray, other: np.ndarray) -> float:
    """Chance that one of `same` is above one of `other`; ties count half."""
    order = np.sort(other)
    return float((np.searchsorted(order, same, "left") + np.searchsorted(order, same, "right")).mean() / (2 * len(other)))


def apart(one: np.ndarray, two: np.ndarray, labels: Sequence[Any]) -> list[float]:
    """For each label: how well its own pairs stand above its pairs with all others. Unit vectors (n, d) of the same pictures twice."""
    cosine, names = one @ two.T, np.asarray(labels)
    own = np.eye(len(names), dtype=bool)
    found = []
    for name in dict.fromkeys(labels):
        rows = names == name
        found.append(above(cosine[rows][:, rows][~own[rows][:, rows]], cosine[rows][:, ~rows].ravel()))
    return found


def marks(progress: Callable[[dict], None], per_artist: int = 100, each: int = 12) -> list[Line]:
    """Every line: identity by people within one style, as drawn and against autoencoded pictures; style by unseen artists."""
    pictures, table = base_set("held-out", per_artist, seed=SEED, progress=progress)
    pipe = models.load_pipeline("miniature")
    drawn, decoded = (identity.read(judges(), "identity", x) for x in (pictures, reconstruct(pipe, pictures)))
    by = {name: (table.artist == name).to_numpy() for name in dict.fromkeys(table.artist)}
    people = {name: list(table.person[rows]) for name, rows in by.items()}
    plain = {name: apart(drawn[rows], drawn[rows], people[name]) for name, rows in by.items()}
    mixed = {name: apart(decoded[rows], drawn[rows], people[name]) for name, rows in by.items()}
    lines = [_line("same person or another of the style", plain), _line("the same, one of the two autoencoded", mixed)]
    lines += [_line(f"same person or another, {name}, one autoencoded", {name: mixed[name]}) for name in mixed]
    return lines + [line for role, words in (("unseen", "drawn artists"), ("hand", "parametric hands")) for line in _style(role, words, pipe, each)]


def _line(what: str, found: dict[str, list[float]]) -> Line:
    values = [v for part in found.values() for v in part]
    return mean(f"identity: {what}", values, range(len(values)))


def _style(role: str, words: str, pipe: Any, each: int) -> list[Line]:
    """Two lines on artists that no judge has met, of one role."""
    names, parts = [], []
    for artist in unseen_artists(role):
        names += [artist.name] * each
        parts.append(works(artist, each, seed=SEED)[0])
    pictures = np.concatenate(parts)
    drawn, decoded = (identity.read(judges(), "style", x) for x in (pictures, reconstruct(pipe, pictures)))
    return [mean(f"style: same hand or another, {words}{more}", found, range(len(found)))
            for more, found in (("", apart(drawn, drawn, names)), (", one autoencoded", apart(decoded, drawn, names)))]
