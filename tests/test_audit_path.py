"""The straight path of the first audit, folder of images to report, with a real (tiny, random) open_clip model."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

import tiny
from drawn import crossed, folder, portraits
from harness import plots, report
from harness.audit import copies, exposure, representation, style
from harness.calibrate import verdict
from harness.embed import embed
from harness.models import load_clip
from harness.stats import table

DOMAIN = "drawn portraits, 64 px"


@pytest.mark.filterwarnings("ignore")
def test_from_folders_of_images_to_one_page(tmp_path: Path) -> None:
    clip = load_clip(str(tiny.clip(tmp_path / "clip")))
    see = partial(embed, clip=clip, cache=tmp_path / "cache", progress=lambda event: None)
    asked = crossed(12, 2)
    works, held = (folder(tmp_path / name, portraits(n, seed)) for name, n, seed in (("works", 8, 1), ("held", 24, 2)))
    base, tuned = (folder(tmp_path / name, portraits(24, seed), **asked) for name, seed in (("base", 3), ("tuned", 4)))
    others = {f"artist-{i:02d}": see(folder(tmp_path / f"other{i}", portraits(24, 10 + i), **asked)) for i in range(2)}

    rows = style.score(see(tuned), see(base), see(held), trained_on=set(works.table["sha256"]))
    near = copies.score(tuned, works, held, see)
    shown = [representation.score(see(images), clip) for images in (tuned, base)]
    flagged = exposure.score(tuned, exposure.detector())
    findings = [style.finding(rows, style.null(others, see(base), see(held)), "artist-31", domain=DOMAIN),
                copies.finding(near, "artist-31", domain=DOMAIN), *representation.findings(*shown, domain=DOMAIN),
                exposure.finding(flagged, domain=DOMAIN)]
    findings = [verdict(f, None) for f in findings]
    sheet = report.Figure(plots.png(plots.contact_sheet(tuned)), "Tuned.", "Drawn portraits.", "copies")
    path = report.write(findings, {"title": "A first audit", "purpose": "audit"}, [sheet], tmp_path / "out")

    told = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert path.name == "report.html" and len(told["findings"]) == len(table(findings)) == 8
    assert {f["verdict"] for f in told["findings"]} <= {"not calibrated", "cannot tell"}
    assert told["findings"][0]["verdict"] == "cannot tell" and "at least 19" in told["findings"][0]["why"]
