"""Looking into one's own folder of pictures: what a CLIP filter keeps, what is near to what, whose they are, who opted out.

Every answer is a table, pictures to look at, and one paragraph in plain words. What stands twice, and whether a certain work is in
a folder, is asked in `mine`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from harness import plots, stats
from harness.audit import search
from harness.audit.search import Index
from harness.consent import signals
from harness.consent.ledger import ALL_WORKS, Ledger, Record
from harness.embed import Encoder
from harness.errors import HarnessError
from harness.images import SUFFIXES, ImageSet, atomic_write, write_csv

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

CAPTIONS = ("caption", "prompt", "text", "alt")
"""columns that say what a picture shows"""
ABOUT = {"source domain": ("source", "url"), "licence": ("licence", "license"), "creator": ("creator", "artist", "author"),
         "rights holder": ("rights_holder", "owner", "copyright")}
"""what pictures are counted by, and the columns that say it, the first that is there"""
IN_LEDGER = {"source domain": "source", "licence": "licence", "creator": "creator", "rights holder": "rights_holder"}
NOT_STATED = "not stated"
USUAL = (0.28, 0.3)
"""Thresholds of LAION-5B (English part; arXiv:2210.08402, section 3) and LAION-400M (arXiv:2111.02114), both for OpenAI's CLIP ViT-B/32."""
SHOWN, CELL = 12, 144


@dataclass(frozen=True, eq=False)
class Answer:
    """What was asked of a folder, answered."""

    name: str
    """of its files"""
    words: str
    """one paragraph"""
    table: pd.DataFrame
    """every row of it"""
    pictures: Mapping[str, Image.Image] = field(default_factory=dict)
    """contact sheet and, for some, a plot: what each shows -> picture; none where nothing was found that could be shown"""

    def save(self, folder: Path) -> list[Path]:
        """Write NAME.csv, NAME.md and NAME.png (further pictures NAME-2.png …); returns the files."""
        files = [write_csv(Path(folder) / f"{self.name}.csv", self.table)]
        names = [f"{self.name}{f'-{i}' if i > 1 else ''}.png" for i in range(1, 1 + len(self.pictures))]
        files += [atomic_write(Path(folder) / name, plots.png(picture)) for name, picture in zip(names, self.pictures.values(), strict=True)]
        shown = "".join(f"\n![{what}]({name})\n" for name, what in zip(names, self.pictures, strict=True))
        return [*files, atomic_write(Path(folder) / f"{self.name}.md", f"{self.words}\n{shown}")]


def sheet(paths: Sequence[Path], captions: Sequence[str], columns: int = 6) -> Image.Image:
    """A contact sheet of files, whichever folders they lie in."""
    import pandas as pd

    files = ImageSet(Path(), pd.DataFrame({"file": [str(Path(path).absolute()) for path in paths]}))
    return plots.contact_sheet(files, captions, columns, CELL)


def rows_of(images: ImageSet, names: Iterable[str]) -> list[int]:
    """For each hash the first row of the set that has it."""
    first: dict[str, int] = {}
    for row, name in enumerate(images.table["sha256"]):
        first.setdefault(name, row)
    return [first[name] for name in names]


def files_left_out(images: ImageSet) -> str:
    """What else lies in the folder and is no part of the set, in words; '' for nothing."""
    named = set(images.table["file"]) | {"samples.csv"}
    other = [p for p in images.folder.iterdir() if p.name not in named and not p.name.startswith(".")]
    kinds = Counter("folders" if p.is_dir() else "pictures that samples.csv does not name" if p.suffix.lower() in SUFFIXES else "other files" for p in other)
    return f"Left out of {images.folder}: " + ", ".join(f"{n} {kind}" for kind, n in kinds.items()) + "." if kinds else ""


# --- whose they are -------------------------------------------------------------------------------------------------------------


def shares(images: ImageSet, ledger: Ledger | None = None, sample_of: str = "", level: float = 0.95) -> Answer:
    """Pictures by source domain, licence, creator and rights holder, from the table's columns, else from the ledger's records.

    Columns: about, value, pictures, share, low, high. `sample_of` names something larger of which these pictures were drawn at
    random: only then is there an interval (Clopper and Pearson, independent draws). What nobody says is counted as `not stated`.
    """
    import pandas as pd

    said = {about: _stated(images, about, ledger) for about in ABOUT}
    rows = []
    for about, values in said.items():
        for value, n in sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])):
            bounds = stats.rate_interval(n, len(images), level)[1:] if sample_of else (None, None)
            rows.append((about, value, n, n / len(images), *bounds))
    table = pd.DataFrame(rows, columns=["about", "value", "pictures", "share", "low", "high"])
    return Answer("shares", _share_words(images, table, ledger, sample_of, level), table, {"one picture of each": _examples(images, said)})


def _stated(images: ImageSet, about: str, ledger: Ledger | None) -> list[str]:
    """What is said of every picture, by its row or else by the ledger."""
    column = next((name for name in ABOUT[about] if name in images.table), None)
    values = [""] * len(images) if column is None else ["" if value != value else str(value).strip() for value in images.table[column]]
    if ledger is not None and not all(values):
        values = _from_ledger(images, about, values, ledger)
    return [(_domain(value) if about == "source domain" else value) or NOT_STATED for value in values]


def _from_ledger(images: ImageSet, about: str, values: list[str], ledger: Ledger) -> list[str]:
    """The values with the gaps filled from records on the very work, else on all works of the artist; two that differ are both named."""
    on: dict[str, set[str]] = defaultdict(set)
    for record in ledger.records:
        value = getattr(record, IN_LEDGER[about]).strip()
        if value:
            on[record.sha256 if record.sha256 != ALL_WORKS else f"{ALL_WORKS}{record.subject}"].add(value)
    artists = images.table["artist"] if "artist" in images.table else [""] * len(images)
    rows = zip(values, images.table["sha256"], artists, strict=True)
    return [value or " / ".join(sorted(on.get(work) or on.get(f"{ALL_WORKS}{artist}") or ())) for value, work, artist in rows]


def _domain(source: str) -> str:
    """The host of an address, without www; any other text as it is."""
    first = source.partition("/")[0]
    try:
        address = urlsplit(source if "://" in source or "." not in first or " " in first else f"//{source}")
        return (address.hostname or source).removeprefix("www.")
    except ValueError:
        return source


def _examples(images: ImageSet, said: Mapping[str, Sequence[str]]) -> Image.Image:
    """One picture of each of the most frequent values of everything that is said at all."""
    chosen = [(list(values).index(value), f"{n:,} · {value}") for values in said.values()
              for value, n in Counter(values).most_common(SHOWN // 2) if value != NOT_STATED]
    chosen = chosen or [(row, NOT_STATED) for row in range(min(6, len(images)))]
    return sheet([images.paths[row] for row, _ in chosen], [words for _, words in chosen])


def _share_words(images: ImageSet, table: pd.DataFrame, ledger: Ledger | None, sample_of: str, level: float) -> str:
    parts = []
    for about, group in table.groupby("about", sort=False):
        stated, silent = group[group["value"] != NOT_STATED], int(group.loc[group["value"] == NOT_STATED, "pictures"].sum())
        top = ", ".join(f"{r.value} {r.pictures:,}" + (f" ({100 * r.low:.1f}–{100 * r.high:.1f} %)" if sample_of else "") for r in stated.head(3).itertuples())
        parts.append(f"{about}: " + (f"{len(stated)} named, most often {top}" if len(stated) else "nobody is named") + f"; {NOT_STATED} for {silent:,}")
    basis = (f"Read as a random sample of {sample_of}: the intervals ({100 * level:g} %, exact) hold if every picture was drawn independently of the others."
             if sample_of else "These are plain counts of this folder; nothing is inferred about anything larger, so that there are no intervals.")
    where = "the columns of the table" + (" and, where those are silent, the ledger" if ledger is not None else "")
    return f"Of {len(images):,} pictures, by {where}. " + ". ".join(parts) + f". {basis}"


# --- what a filter keeps --------------------------------------------------------------------------------------------------------


def clip_filter(images: ImageSet, index: Index, clip: Encoder, usual: Sequence[float] = USUAL, points: int = 41) -> Answer:
    """The share of pictures kept when the cosine of picture and caption has to reach a threshold, per column of captions.

    Columns: caption (the column), threshold, kept, share, usual (yes for one of the thresholds of the great web corpora). Pictures
    without a caption are left out and counted. Raises HarnessError where there is no caption at all.
    """
    import pandas as pd

    scores = {name: matches(images, index, clip, images.table[name]) for name in captioned(images)}
    if not scores:
        raise HarnessError(f"{images.folder}: no captions ({' or '.join(CAPTIONS)} in samples.csv), without which a CLIP filter has nothing to compare with.")
    every = np.concatenate([values[np.isfinite(values)] for values in scores.values()])
    grid = sorted({*np.floor(1e4 * np.linspace(every.min(), every.max(), points)) / 1e4, *usual})
    rows = []
    for name, values in scores.items():
        there = np.sort(values[np.isfinite(values)])
        rows += [(name, t, n := len(there) - int(np.searchsorted(there, t)), n / len(there), "yes" if t in usual else "") for t in grid]
    table = pd.DataFrame(rows, columns=["caption", "threshold", "kept", "share", "usual"])
    pictures = {"share kept at each threshold": _curve(table, usual), "worst and best matches": _extremes(images, scores)}
    return Answer("filter", _filter_words(images, table, scores, clip, usual), table, pictures)


def captioned(images: ImageSet) -> list[str]:
    """The columns in which at least one picture has a caption."""
    return [name for name in CAPTIONS if name in images.table and (images.table[name].astype(str).str.strip() != "").any()]


def matches(images: ImageSet, index: Index, clip: Encoder, captions: Sequence[str], batch: int = 4096) -> np.ndarray:
    """float32 (n,): cosine of each picture with its caption; NaN where the caption is empty. What the CLIP does not read is cut off by it."""
    rows = index.find(list(images.table["sha256"]))
    texts, found = np.asarray([str(text).strip() for text in captions], dtype=object), np.full(len(rows), np.nan, np.float32)
    for start in range(0, len(rows), batch):
        here = start + np.flatnonzero(texts[start:start + batch] != "")
        words, which = np.unique(texts[here], return_inverse=True)
        if len(here):
            found[here] = (index.vectors(rows[here]) * clip.encode_texts(list(words))[which]).sum(axis=1)
    return found


def _curve(table: pd.DataFrame, usual: Sequence[float]) -> Image.Image:
    """One line for each column of captions, and where the usual thresholds lie."""
    figure, axes = plots._figure(6.4, 2.8)
    for (name, group), colour in zip(table.groupby("caption", sort=False), (plots.BLUE, plots.GREEN, plots.INK, plots.GREY), strict=False):
        axes.plot(group["threshold"], 100 * group["share"], color=colour, linewidth=2, label=f"column {name}")
    for threshold in usual:
        axes.axvline(threshold, color=plots.ORANGE, linewidth=1, linestyle="--", label=None if threshold != usual[0] else
                     " and ".join(f"{t:g}" for t in usual) + ", chosen for OpenAI's ViT-B/32")
    axes.set(xlabel="threshold on the cosine of picture and caption", ylabel="percent of pictures kept", ylim=(0, 105))
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.1)
    return plots._drawn(figure)


def _extremes(images: ImageSet, scores: Mapping[str, np.ndarray]) -> Image.Image:
    """For the first column of captions the six worst and the six best matches."""
    name, values = next(iter(scores.items()))
    order = [row for row in np.argsort(values, kind="stable") if np.isfinite(values[row])]
    chosen = order[:6] + order[max(6, len(order) - 6):]
    return sheet([images.paths[row] for row in chosen], [f"{values[row]:.3f} · {images.table[name].iloc[row]}" for row in chosen])


def _filter_words(images: ImageSet, table: pd.DataFrame, scores: Mapping[str, np.ndarray], clip: Encoder, usual: Sequence[float]) -> str:
    parts = []
    for name, values in scores.items():
        there, group = values[np.isfinite(values)], table[table["caption"] == name].set_index("threshold")
        kept = " and ".join(f"{int(group.loc[t, 'kept']):,} ({100 * group.loc[t, 'share']:.1f} %) at {t:g}" for t in usual)
        cut = sum(search.is_cut(clip, text) for text in {str(text) for text in images.table[name]})
        parts.append(f"By the column {name}, a filter keeps {kept} of {len(there):,} pictures (half of them at {np.median(there):.3f}); "
                     f"{len(values) - len(there):,} have no caption there, and {cut:,} captions are longer than this CLIP reads, so that their ends do not count")
    return (". ".join(parts) + f". A threshold belongs to one CLIP: {' and '.join(f'{t:g}' for t in usual)} were chosen by looking at what OpenAI's ViT-B/32 keeps (LAION-5B and "
            f"LAION-400M); these cosines are of the CLIP {clip.sha256[:12]}, and another one's lie elsewhere. What a filter drops is what the CLIP does not recognise, not what is bad.")


# --- nearest, and opted out -----------------------------------------------------------------------------------------------------


def nearest(images: ImageSet, index: Index, query: np.ndarray, asked: str, k: int = SHOWN) -> Answer:
    """The k pictures nearest to a vector (d,) of words or of a picture (`asked`, for the paragraph), exact.

    Columns: rank, cosine, file, sha256. Raises HarnessError for a k beyond the folder's distinct pictures.
    """
    import pandas as pd

    found = search.nearest(np.asarray(query, np.float32).reshape(1, -1), index, k)
    names = index.names(found.rows[0])
    rows = rows_of(images, names)
    files = [images.table["file"].iloc[row] for row in rows]
    table = pd.DataFrame({"rank": range(1, k + 1), "cosine": found.cosines[0], "file": files, "sha256": names})
    seen = sheet([images.paths[row] for row in rows[:48]], [f"{c:.3f} · {file}" for c, file in zip(found.cosines[0], files, strict=True)][:48])
    words = (f"The {k} of {len(index):,} distinct pictures that this CLIP ({index.clip_sha256[:12]}) holds for nearest to {asked}, by an exact search: cosines from "
             f"{found.cosines[0, 0]:.3f} to {found.cosines[0, -1]:.3f}. There is always a nearest picture; that one is near does not say that it shows what was asked for.")
    return Answer("search", words, table, {f"nearest to {asked}": seen})


def opted_out(images: ImageSet, lists: Mapping[str, Path] | None = None, scan: Callable[..., list[Record]] = signals.scan) -> Answer:
    """Works with a word against their use, in the file (Content Credentials, XMP) or in the list of the place they come from.

    Columns: file, sha256, use, decision, basis, note. `lists` are ai.txt or tdmrep.json files by host (`consent.signals.scan`).
    """
    import pandas as pd

    found = {record: None for record in scan(images, lists) if record.decision != "allowed"}
    rows = rows_of(images, [record.sha256 for record in found])
    told: list[tuple[Any, ...]] = [(images.table["file"].iloc[row], r.sha256, r.use, r.decision, r.basis, r.note) for row, r in zip(rows, found, strict=True)]
    table = pd.DataFrame(told, columns=["file", "sha256", "use", "decision", "basis", "note"])
    works = dict(zip(table["sha256"], zip(rows, table["basis"], strict=True), strict=True))
    pictures = {"works with a signal": sheet([images.paths[row] for row, _ in list(works.values())[:24]], [basis for _, basis in list(works.values())[:24]])} if works else {}
    return Answer("signals", _signal_words(images, table, list(found), lists or {}), table, pictures)


def _signal_words(images: ImageSet, table: pd.DataFrame, found: Sequence[Record], lists: Mapping[str, Path]) -> str:
    rows = images.table["sha256"].isin(table["sha256"]).sum()
    by = ", ".join(f"{basis}: {group['sha256'].nunique():,}" for basis, group in table.groupby("basis"))
    minors = len({record.sha256 for record in found if record.adult == "minor"})
    read = "the files themselves" + (f" and the lists of {', '.join(lists)}" if lists else "; no list of a source was given")
    return (f"{rows:,} of {len(images):,} pictures carry a word against their use{f' ({by})' if by else ''}; read were {read}."
            + (f" {minors} of them are said to show a minor: they may be used for nothing." if minors else "")
            + " That the others carry none is nobody's consent: most files lose such marks on their way, and most artists never set one.")
