"""What stands in a folder more than once, and "is my work in here?", answered with how often this very search misses what is there.

The same file is found by its hash. A changed copy is looked for among the pictures that CLIP holds for nearest, each compared by
`harness.perceptual`. Both steps can miss; so the search is tried on changed copies of the folder's own pictures, where the answer is known.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from harness import perceptual, stats
from harness.audit import search
from harness.audit.corpus import Answer, rows_of, sheet
from harness.audit.search import Index
from harness.embed import Encoder
from harness.errors import HarnessError
from harness.images import ImageSet, decode, read_table
from harness.progress import Progress, silent

if TYPE_CHECKING:
    import pandas as pd

LOOKED_AT = 20
"""Nearest pictures by CLIP that are compared with a work."""
NEIGHBOURS = 8
"""Nearest pictures by CLIP that each picture is compared with when everything that stands twice is asked for."""
TRIED = 12
"""Pictures whose changed copies are asked for, to see how often the search misses."""
QUERIES, HELD, PAIRS = 1024, 4096, 12
PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "published" / "near_duplicates.csv"


def _crop(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    return picture.crop((round(0.15 * width), round(0.05 * height), round(0.95 * width), round(0.85 * height)))


def _jpeg(picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=40)
    return decode(buffer.getvalue())


CHANGES: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "four fifths of it": _crop, "half the size": lambda p: p.resize((max(1, p.width // 2), max(1, p.height // 2)), Image.Resampling.LANCZOS),
    "JPEG 40": _jpeg, "mirrored": ImageOps.mirror, "in weaker colours": lambda p: ImageEnhance.Color(p).enhance(0.4)}
"""Changed copies that the search is tried on."""


@dataclass(frozen=True)
class Hit:
    """A picture of the folder that is the work, or nearly."""

    sha256: str
    """of the picture found"""
    how: str
    """the same file, or nearly the same picture"""
    cosine: float
    """by CLIP, to the work"""


class _Folder:
    """Pictures of a folder by hash, with their descriptors, so many of which are held."""

    def __init__(self, images: ImageSet) -> None:
        self.paths = dict(zip(images.table["sha256"], images.paths, strict=True))
        self.descriptor = lru_cache(maxsize=HELD)(lambda name: perceptual.descriptor(decode(self.paths[name])))

    def is_near(self, name: str, descriptor: bytes) -> bool:
        return perceptual.is_near(self.descriptor(name), descriptor)


# --- what stands twice ----------------------------------------------------------------------------------------------------------


def near_duplicates(images: ImageSet, index: Index, clip: Encoder, k: int = NEIGHBOURS, at_least: float = -1.0, tried: int = TRIED,
                    progress: Progress = silent) -> Answer:
    """Pairs that are the same file, or nearly the same picture: each picture's k nearest by CLIP, confirmed by `perceptual.is_near`.

    Columns: file, other, sha256, other_sha256, how, cosine. Neighbours with a cosine below `at_least` are not compared; that
    saves time in a large folder, and its cost shows in the share missed, which is measured with `tried` pictures (0: not measured).
    """
    import pandas as pd

    held, rows = _Folder(images), _same_files(images)
    for name, other, cosine in _candidates(index, min(k, len(index) - 1), at_least, progress):
        if held.is_near(name, held.descriptor(other)):
            files = [images.table["file"].iloc[row] for row in rows_of(images, (name, other))]
            rows.append((*files, name, other, "nearly the same picture", cosine))
    table = pd.DataFrame(rows, columns=["file", "other", "sha256", "other_sha256", "how", "cosine"])
    measured = planted(images, index, clip, min(k, len(index)), tried, at_least=at_least, progress=progress) if tried else None
    pairs = [(images.folder / r.file, images.folder / r.other, r.how) for r in table.sort_values("cosine", kind="stable", ascending=False).itertuples()]
    return Answer("near_duplicates", _twice_words(images, table, measured), table, {"pairs, side by side": pair_sheet(pairs)} if pairs else {})


def _same_files(images: ImageSet) -> list[tuple[Any, ...]]:
    """Each further file with the bytes of an earlier one, beside that one."""
    first: dict[str, str] = {}
    named = zip(images.table["file"], images.table["sha256"], strict=True)
    return [(other, file, name, name, "the same file", 1.0) for file, name in named if (other := first.setdefault(name, file)) != file]


def _candidates(index: Index, k: int, at_least: float, progress: Progress) -> Iterator[tuple[str, str, float]]:
    """Pairs of hashes to compare, each once, with their cosine."""
    keys, likeness = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    for start in range(0, len(index) if k else 0, QUERIES):
        rows = np.arange(start, min(start + QUERIES, len(index)))
        found = search.nearest(index.vectors(rows), index, k + 1)
        fits = (found.cosines >= at_least) & (found.rows != rows[:, None])
        low, high = np.minimum(found.rows, rows[:, None])[fits], np.maximum(found.rows, rows[:, None])[fits]
        keys.append(low * len(index) + high)
        likeness.append(found.cosines[fits])
    pairs, first = np.unique(np.concatenate(keys), return_index=True)
    cosines = np.concatenate(likeness)[first]
    for done, (pair, cosine) in enumerate(zip(pairs, cosines, strict=True), 1):
        yield *index.names(divmod(int(pair), len(index))), float(cosine)
        progress({"stage": "compare pairs", "step": done, "of": len(pairs)})


def _twice_words(images: ImageSet, table: pd.DataFrame, measured: pd.DataFrame | None) -> str:
    same, near = (table["how"] == "the same file").sum(), (table["how"] != "the same file").sum()
    spare = len(images) - _groups(images, table)
    return (f"{same:,} of {len(images):,} files are the same as another, byte by byte, and {near:,} pairs are nearly the same picture; with one of each kept, "
            f"{spare:,} pictures would go. {_missed_words(measured)} {published()}")


def _groups(images: ImageSet, table: pd.DataFrame) -> int:
    """Pictures that are left when of everything that hangs together one is kept."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    row_of = {file: row for row, file in enumerate(images.table["file"])}
    a, b = ([row_of[file] for file in table[column]] for column in ("file", "other"))
    return connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(len(images),) * 2), directed=False)[0]


# --- is my work in here? --------------------------------------------------------------------------------------------------------


def mine(images: ImageSet, index: Index, works: ImageSet, clip: Encoder, k: int = LOOKED_AT, tried: int = TRIED, progress: Progress = silent) -> Answer:
    """Is each of these works in the folder? `yes` or `not found`, and what such an answer is worth.

    Columns: work, answer, how, file (the picture found, or the nearest by CLIP), cosine, sha256, other_sha256. The k nearest by CLIP
    are compared. `tried` pictures are asked for in changed copies (`planted`); with 0 the share missed is not measured, and it is said.
    """
    import pandas as pd

    held, k, rows = _Folder(images), min(k, len(index)), []
    for n, (work, name, picture) in enumerate(zip(works.table["file"], works.table["sha256"], works.decoded(), strict=True), 1):
        hit, near = _find(picture, name, index, clip, held, k)
        file = images.table["file"].iloc[rows_of(images, [hit.sha256 if hit else near.sha256])[0]]
        rows.append((work, "yes" if hit else "not found", hit.how if hit else "", file, (hit or near).cosine, name, (hit or near).sha256))
        progress({"stage": "look for works", "step": n, "of": len(works)})
    table = pd.DataFrame(rows, columns=["work", "answer", "how", "file", "cosine", "sha256", "other_sha256"])
    measured = planted(images, index, clip, k, tried, progress=progress) if tried else None
    ranked = table.sort_values(["answer", "cosine"], ascending=False, kind="stable")
    pairs = [(works.folder / r.work, images.folder / r.file, r.how or f"not found ({r.cosine:.3f})") for r in ranked.itertuples()]
    return Answer("mine", _mine_words(images, table, k, measured), table, {"each work beside the closest picture of the folder": pair_sheet(pairs)})


def _find(picture: Image.Image, name: str, index: Index, clip: Encoder, held: _Folder, k: int, at_least: float = -1.0) -> tuple[Hit | None, Hit]:
    """The hit for a picture with a hash, if there is one; and the nearest picture by CLIP."""
    found = search.nearest(clip.encode_images([picture]), index, k)
    others = [Hit(other, "nearly the same picture", float(c)) for other, c in zip(index.names(found.rows[0]), found.cosines[0], strict=True)]
    if name in held.paths:
        return Hit(name, "the same file", 1.0), others[0]
    mark = perceptual.descriptor(picture)
    return next((other for other in others if other.cosine >= at_least and held.is_near(other.sha256, mark)), None), others[0]


def planted(images: ImageSet, index: Index, clip: Encoder, k: int = LOOKED_AT, tried: int = TRIED, seed: int = 0, at_least: float = -1.0,
            progress: Progress = silent) -> pd.DataFrame:
    """How often the search finds a changed copy of a picture that is in the folder: `tried` pictures drawn at random, every change.

    Columns: change, asked, found, share, low, high (95 %, clustered by picture; exact when all or none is found); the last row is all of them.
    A copy counts as found when the hit is the picture that it was made of, or nearly the same as that.
    """
    import pandas as pd

    held, drawn = _Folder(images), np.sort(np.random.default_rng(seed).permutation(len(index))[:tried])
    found = np.zeros((len(drawn), len(CHANGES)), bool)
    for i, name in enumerate(index.names(drawn)):
        picture, mark = decode(held.paths[name]), held.descriptor(name)
        for j, change in enumerate(CHANGES.values()):
            hit, _ = _find(change(picture), "", index, clip, held, k, at_least)
            found[i, j] = hit is not None and (hit.sha256 == name or held.is_near(hit.sha256, mark))
        progress({"stage": "try changed copies", "step": i + 1, "of": len(drawn)})
    rows = [(change, len(drawn), int(found[:, j].sum()), *stats.rate_interval(int(found[:, j].sum()), len(drawn))) for j, change in enumerate(CHANGES)]
    whole = stats.clustered_rate(found.ravel(), np.repeat(np.arange(len(drawn)), len(CHANGES))) if not found.all() and found.any() else \
        stats.rate_interval(int(found.all(axis=1).sum()), len(drawn))
    return pd.DataFrame([*rows, ("all", found.size, int(found.sum()), *whole)], columns=["change", "asked", "found", "share", "low", "high"])


def _mine_words(images: ImageSet, table: pd.DataFrame, k: int, measured: pd.DataFrame | None) -> str:
    yes, same = (table["answer"] == "yes").sum(), (table["how"] == "the same file").sum()
    missing = len(table) - yes
    return (f"Of {len(table):,} works {yes:,} are in {images.folder} ({same:,} as the same file, {yes - same:,} as nearly the same picture), and {missing:,} were not found"
            f" among the {k} pictures that are nearest to each by CLIP.{' Not found is not a no: it is as good as this search.' if missing else ''} "
            f"{_missed_words(measured)} {published()}")


def _missed_words(measured: pd.DataFrame | None) -> str:
    """What the try with changed copies says."""
    if measured is None:
        return "How often this search misses a changed copy was not measured here."
    whole, each = measured.iloc[-1], measured.iloc[:-1]
    missed, low, high, worst = whole.asked - whole.found, 100 * (1 - whole.high), 100 * (1 - whole.low), each.loc[each["share"].idxmin()]
    bounds = f"at most {high:.1f} %" if not missed else f"at least {low:.1f} %" if not whole.found else f"{low:.1f}–{high:.1f} %"
    return (f"Tried here on {whole.asked:,} changed copies of {int(worst.asked):,} pictures of this folder ({', '.join(each['change'])}), it missed "
            f"{missed:,}: {100 * (1 - whole.share):.1f} % (with 95 % confidence {bounds})"
            + (f", most of those {worst.change} ({worst.asked - worst.found:,} of {worst.asked:,})" if missed else "")
            + ". That holds for pictures like these and changes like these; redrawing, collage and stronger crops were not tried.")


def published(path: Path = PUBLISHED) -> str:
    """The error of the comparison of two pictures as published (benchmarks/near_duplicates.py), or that it was not measured.

    Raises HarnessError for a table of another form.
    """
    if not path.is_file():
        return f"How often the comparison of two pictures errs was not measured ({path.name} is not there)."
    table = read_table(path)
    if not {"kind", "copies", "method", "threshold", "size", "share", "low", "high"} <= set(table):
        raise HarnessError(f"{path}: not the table of benchmarks/near_duplicates.py; measure it again.")
    rows = table[table["method"] == "harness.perceptual"]
    if rows.empty or not np.allclose(rows["threshold"], perceptual.NEAR):
        return f"How often the comparison of two pictures errs was measured at another threshold than {perceptual.NEAR:g}, and says nothing about this one."
    copies = rows["copies"].astype(str) == "True"
    found, alarm = rows[copies].loc[rows[copies]["share"].idxmin()], rows[~copies].loc[rows[~copies]["share"].idxmax()]
    return (f"The comparison of two pictures by itself, measured on drawn portraits: it recognises {_share(found)} of the copies that it recognises worst ({found.kind}, "
            f"{found['size']} px), and takes for a copy {_share(alarm)} of the other pictures that it confuses most ({alarm.kind}, {alarm['size']} px).")


def _share(row: pd.Series) -> str:
    return f"{100 * row.share:.1f} % ({100 * row.low:.1f}–{100 * row.high:.1f})"


def pair_sheet(pairs: Sequence[tuple[Path, Path, str]]) -> Image.Image:
    """The first pairs (file, other file, what they are), two pictures each."""
    shown = list(pairs)[:PAIRS]
    return sheet([path for one, other, _ in shown for path in (one, other)],
                 [words for one, other, how in shown for words in (one.name, f"{how.removeprefix('the ').removesuffix(' picture')} · {other.name}")], columns=6)
