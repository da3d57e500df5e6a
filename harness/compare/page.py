"""The page of a comparison: one file without scripts, readable on a phone, that asks nothing of the network."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import __version__, provenance
from harness.images import atomic_write, decode
from harness.compare import compare

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    from harness.compare.compare import Comparison, Side

SIDE, SMALL = 256, 128
"""Largest side of a picture on the page; up to the second it is kept without loss."""


def write(told: Comparison, out: Path, images: int = 12) -> Path:
    """Write the comparison as one HTML file; of each group of pictures the first `images` prompts are shown.

    Raises HarnessError where the file cannot be written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("harness.compare", "templates"), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": compare.number, "signed": compare.signed, "interval": compare.interval, "pairs": compare.pairs,
                             "probability": compare.probability}
    page = environment.get_template("compare.html.j2").render(
        told=told, sides={"A": _about(told.a), "B": _about(told.b)}, bars=[bar(c.low, c.estimate, c.high) for c in told.contrasts],
        settings=[s for s in told.settings if s.kind != "code"], code=[s.name for s in told.settings if s.kind == "code"],
        groups=groups(told.a, told.b, images), version=__version__)
    return atomic_write(out, page)


def _about(side: Side) -> Mapping[str, Any]:
    found = side.manifest
    return {"run": side.folder.name, "notebook": found["notebook"], "preset": found["parameters"]["preset"] or "none", "started": found["timings"]["started"][:16].replace("T", " ") + " UTC",
            "took": f"{found['timings'].get('seconds', 0):.0f} s", "device": found["identity"]["device"], "purpose": found["notes"].get("purpose") or "not noted"}


def bar(low: float | None, estimate: float | None, high: float | None) -> Mapping[str, float] | None:
    """Places of an interval on a line of 100 units whose middle is zero, scaled to its own farther end; None for no interval."""
    if low is None or estimate is None or high is None:
        return None
    reach = max(abs(low), abs(high)) or 1.0
    return {name: round(50 + 46 * value / reach, 2) for name, value in (("low", low), ("at", estimate), ("high", high))}


# --- pictures ---------------------------------------------------------------------------------------------------------


def groups(a: Side, b: Side, images: int) -> list[Mapping[str, Any]]:
    """Groups of pictures that both runs have: how many pairs share prompt and seed, how many are alike, and some of them.

    Shown is the first pair of each prompt in the order of the runs, so that nobody chose them by their look; a group
    whose pictures are all alike is told in words only.
    """
    if a.pictures is None or b.pictures is None:
        return []
    tables = [_keyed(side.pictures.table) for side in (a, b)]
    both = tables[0].merge(tables[1], on=["group", "prompt", "seed"], suffixes=("_a", "_b"))
    return [_group(name, part, a, b, images) for name, part in both.groupby("group", sort=False)]


def _keyed(table: pd.DataFrame) -> pd.DataFrame:
    """File, hash, group, prompt and seed as text; a table without groups is one group."""
    words = {name: table[name].astype(str) if name in table else "" for name in ("group", "prompt", "seed")}
    return table[["file", "sha256"]].assign(**words)


def _group(name: str, part: pd.DataFrame, a: Side, b: Side, images: int) -> Mapping[str, Any]:
    alike = part["sha256_a"] == part["sha256_b"]
    first = part[~alike].drop_duplicates("prompt").head(images) if not alike.all() else part.head(0)
    return {"name": name or "pictures", "pairs": len(part), "alike": int(alike.sum()),
            "shown": [{"prompt": provenance.mask(row.prompt), "seed": row.seed, "a": _picture(a.folder / row.file_a, row.sha256_a), "b": _picture(b.folder / row.file_b, row.sha256_b)} for row in first.itertuples()]}


def _picture(path: Path, sha256: str) -> Mapping[str, Any]:
    """A picture as a data URI with its size; larger ones are scaled down, and nothing but pixels comes along.

    The hash of the file stands beside it, so that a withdrawal finds the page.
    """
    picture = decode(path)
    picture.thumbnail((SIDE, SIDE))
    return {"uri": _uri(picture), "width": picture.width, "height": picture.height, "small": max(picture.size) <= SMALL, "sha256": sha256}


def _uri(picture: Image.Image) -> str:
    kind, how = ("PNG", {"optimize": True}) if max(picture.size) <= SMALL else ("JPEG", {"quality": 88})
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **how)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
