"""Looking into a small collection of pictures: whose they are, what a filter would keep, what is near to what, and whether a work is in it.

At the size of a notebook: every picture is compared with every other.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from harness import perceptual, stats
from harness.embed import Embeddings, Encoder
from harness.images import ImageSet, decode
from harness.trials.house import CHANGES

if TYPE_CHECKING:
    import pandas as pd

BY = {"source": "from", "licence": "licence", "artist": "made by", "rights_holder": "belongs to"}


def shares(images: ImageSet) -> pd.DataFrame:
    """How many pictures, and which share, come from which place, under which licence, by whom and whose."""
    import pandas as pd

    table = images.table.assign(source=[urlsplit(source).hostname or source for source in images.table["source"]])
    counted = [(words, value, n, n / len(table)) for column, words in BY.items() for value, n in sorted(table[column].value_counts().items())]
    return pd.DataFrame(counted, columns=["by", "value", "pictures", "share"])


def matches(seen: Embeddings, clip: Encoder, captions: Sequence[str]) -> np.ndarray:
    """Cosine of each picture with its caption: what a CLIP filter of a web corpus looks at."""
    return (seen.vectors * clip.encode_texts(list(captions))).sum(axis=1)


def curve(scores: np.ndarray, owners: Sequence[str], points: int = 25) -> pd.DataFrame:
    """Share that a filter keeps at each threshold (columns threshold, share, low, high), with 95 % intervals clustered by owner."""
    import pandas as pd

    at = np.linspace(scores.min(), scores.max(), points)
    return pd.DataFrame([(t, *stats.clustered_rate(scores >= t, owners)) for t in at], columns=["threshold", "share", "low", "high"])


def kept(scores: np.ndarray, owners: pd.Series) -> pd.DataFrame:
    """Of each owner's pictures the share that a filter keeps which keeps half of all."""
    import pandas as pd

    through = pd.Series(scores >= np.median(scores))
    return through.groupby(owners.to_numpy()).agg(pictures="size", kept="mean").rename_axis("artist or person").reset_index()


def draw(table: pd.DataFrame) -> Image.Image:
    """The curve of a filter as a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 2.6), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.fill_between(table["threshold"], 100 * table["low"], 100 * table["high"], color="#0072b2", alpha=0.2, linewidth=0, label="95 % interval")
    axes.plot(table["threshold"], 100 * table["share"], color="#0072b2", label="kept")
    axes.set(xlabel="threshold on the cosine of picture and caption", ylabel="percent of pictures", ylim=(0, 105))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def nearest(images: ImageSet, seen: Embeddings, query: np.ndarray, k: int = 6) -> ImageSet:
    """The k pictures nearest to a vector (d,), of a text or a picture, the nearest first."""
    order = np.argsort(-(seen.vectors @ query), kind="stable")[:k]
    return ImageSet(images.folder, images.table.iloc[order].reset_index(drop=True))


def near_pairs(images: ImageSet) -> list[tuple[int, int]]:
    """Rows of pictures that are nearly the same, at the published operating point of `harness.perceptual`."""
    marks = [perceptual.descriptor(picture) for picture in images.decoded()]
    return [(i, j) for i, j in combinations(range(len(marks)), 2) if perceptual.is_near(marks[i], marks[j])]


def pair_sheet(images: ImageSet, pairs: Sequence[tuple[int, int]]) -> dict[str, ImageSet]:
    """Both sides of each pair, for `plots.side_by_side`."""
    return {name: ImageSet(images.folder, images.table.iloc[[pair[side] for pair in pairs]].reset_index(drop=True))
            for side, name in enumerate(("one", "the other"))}


def holds(images: ImageSet, work: Path | Image.Image) -> ImageSet:
    """Is a work in here? The pictures that are nearly the same as it; none where it is not, or was not recognised."""
    mark = perceptual.descriptor(work if isinstance(work, Image.Image) else decode(work))
    found = [perceptual.is_near(perceptual.descriptor(picture), mark) for picture in images.decoded()]
    return images.where(found)


def asked(images: ImageSet, inside: ImageSet, outside: ImageSet) -> pd.DataFrame:
    """The error of `holds`: asked with changed copies of works that are in here, and with works that are not; exact 95 % intervals."""
    import pandas as pd

    marks = [perceptual.descriptor(picture) for picture in images.decoded()]
    copies = [[_is_in(change(picture), marks) for change in CHANGES.values()] for picture in inside.decoded()]
    strange = [_is_in(picture, marks) for picture in outside.decoded()]
    found, n = sum(map(sum, copies)), len(copies) * len(CHANGES)
    works = [all(row) for row in copies]
    rows = [("changed copies of works that are in here", found, n, found / n, *stats.rate_interval(sum(works), len(works))[1:]),
            ("works that are not", sum(strange), len(strange), *stats.rate_interval(sum(strange), len(strange)))]
    return pd.DataFrame(rows, columns=["asked about", "answered yes", "of", "share", "low", "high"])


def _is_in(picture: Image.Image, marks: Sequence[bytes]) -> bool:
    mark = perceptual.descriptor(picture)
    return any(perceptual.is_near(mark, other) for other in marks)
