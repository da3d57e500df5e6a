"""Every published result was made by the code as it stands."""

from __future__ import annotations

import json
from pathlib import Path

from harness import prove


def test_no_stamp_is_stale(root: Path) -> None:
    assert prove.stale(root) == [], "run the named proofs again: `make prove`"


def test_every_stamp_names_its_command_and_results(root: Path) -> None:
    stamps = sorted((root / prove.PUBLISHED).glob(f"*{prove.STAMP}"))
    for path in stamps:
        found = json.loads(path.read_text())
        assert found["command"] and found["results"] and len(found["code_sha256"]) == 64
    assert stamps or not (root / "notebooks" / "00_start_here.ipynb").exists()
