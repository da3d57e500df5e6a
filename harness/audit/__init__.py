"""The audits, one file a question: `score` gives tidy rows, one per image or pair; `finding` makes a row of the report.

What all of them need stands here: pairs of the same prompt and seed, and the name of the instrument that read.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import HarnessError

if TYPE_CHECKING:
    import pandas as pd

_ROOM = Path(__file__).parent
_HELPERS = {"copies": ("tiles.py",), "exposure": ("prompts.py",)}
_SHARED = ("embed.py", "images.py", "stats.py")


def instrument(scorer: str, weights_sha256: str) -> str:
    """Name of what read the images: scorer, hash of its code, hash of its weights; a calibration must match it."""
    code = hashlib.sha256()
    own = [_ROOM / name for name in ("__init__.py", f"{scorer}.py", *_HELPERS.get(scorer, ()))]
    for path in (*own, *(_ROOM.parent / name for name in _SHARED)):
        # Line ends differ between checkouts; the code does not.
        code.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return f"{scorer} code={code.hexdigest()[:16]} weights={weights_sha256[:16]}"


def pair(tuned: pd.DataFrame | None, base: pd.DataFrame | None) -> np.ndarray:
    """For every row of `tuned` (n) the row of `base` with the same prompt and seed, as indices (n,).

    Raises HarnessError where a prompt or seed is missing, stands twice, or has no partner on the other side.
    """
    left, right = _keys(tuned, "tuned"), _keys(base, "base")
    missing = [key for key in left if key not in right] + [key for key in right if key not in left]
    if missing:
        prompt, seed = missing[0]
        raise HarnessError(f"{len(missing)} images have no partner of the same prompt and seed, the first is "
                           f"{prompt!r} with seed {seed}; sample both models with the same prompts and seeds.")
    return np.asarray([right[key] for key in left], dtype=np.int64)


def _keys(table: pd.DataFrame | None, side: str) -> dict[tuple[str, str], int]:
    """(prompt, seed) -> row; both as text, since a table read back from a file has lost its types."""
    if table is None or not {"prompt", "seed"} <= set(table.columns):
        raise HarnessError(f"the {side} images have no columns prompt and seed; a contrast needs both.")
    keys: dict[tuple[str, str], int] = {}
    for row, key in enumerate(zip(table["prompt"].astype(str), table["seed"].astype(str), strict=True)):
        if keys.setdefault(key, row) != row:
            raise HarnessError(f"the {side} images hold prompt {key[0]!r} with seed {key[1]} twice.")
    return keys


def same_weights(*embeddings: object) -> str:
    """The one CLIP that made all of these Embeddings; raises HarnessError where there are several."""
    owners = {e.clip_sha256 for e in embeddings}
    if len(owners) != 1:
        raise HarnessError("embeddings of different CLIPs cannot be compared: " + ", ".join(sorted(o[:12] for o in owners)))
    return owners.pop()
