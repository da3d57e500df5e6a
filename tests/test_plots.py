"""Pictures show what they are given, refuse what does not fit, and leave matplotlib's global state alone."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from drawn import folder, portraits
from harness import plots
from harness.errors import HarnessError
from harness.stats import Finding

SQUARES = np.stack([np.full((8, 8, 3), 20 * i, np.uint8) for i in range(5)])
FINDING = Finding("style", "artist-07", 0.1, 0.05, 0.15, 0.95, 40, 20, 0.02, None, 0.05, "none", "", "not calibrated", 0, "")


def has(image: Image.Image, colour: str) -> bool:
    want = [int(colour[i:i + 2], 16) for i in (1, 3, 5)]
    return bool((np.abs(np.asarray(image, int) - want).max(axis=2) < 12).any())


def test_contact_sheet_holds_every_picture_in_order() -> None:
    sheet = np.asarray(plots.contact_sheet(SQUARES, columns=3, cell=16))
    step = 16 + plots.PAD
    assert sheet.shape == (plots.PAD + 2 * step, plots.PAD + 3 * step, 3)
    centres = [sheet[plots.PAD + 8 + r * step, plots.PAD + 8 + c * step, 0] for r, c in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]]
    assert centres == [0, 20, 40, 60, 80]


def test_captions_are_written_and_shortened(tmp_path: Path) -> None:
    images = folder(tmp_path, portraits(2, 0))
    plain, said = (np.asarray(plots.contact_sheet(images, captions=c, cell=64)) for c in (["", ""], ["a", "a very long caption indeed"]))
    assert plain.shape == said.shape and (plain != said).any()
    below = slice(plots.PAD + 64, None)
    assert (plain[below] == 255).all() and (said[below, -plots.PAD:] == 255).all()
    with pytest.raises(HarnessError, match="captions"):
        plots.contact_sheet(SQUARES, captions=["one"])


def test_side_by_side_needs_equal_groups() -> None:
    sheet = np.asarray(plots.side_by_side({"base": SQUARES[:2], "tuned": SQUARES[2:4]}, cell=16))
    assert sheet[plots.PAD + plots.LINE + 8, plots.PAD + 16 + plots.PAD + 8, 0] == 40
    with pytest.raises(HarnessError, match="base 2, tuned 3"):
        plots.side_by_side({"base": SQUARES[:2], "tuned": SQUARES[:3]})
    with pytest.raises(HarnessError, match="no picture"):
        plots.contact_sheet(SQUARES[:0])


def test_curves_and_intervals_are_drawn() -> None:
    losses = pd.DataFrame({"step": range(100), "loss": np.linspace(1, 0.2, 100)})
    assert has(plots.loss_curve(losses), plots.BLUE)
    drawn = plots.interval_plot([FINDING])
    assert has(drawn, plots.BLUE) and has(drawn, plots.ORANGE)
    assert not has(plots.interval_plot([FINDING.but(floor=None)]), plots.ORANGE)
    assert has(plots.null_plot({"a": 0.0, "b": 0.1}, 0.3, "artist-07"), plots.ORANGE)
    curve = pd.DataFrame({"threshold": [0.2, 0.8], "share": [0.1, 0.0], "low": [0.0, 0.0], "high": [0.2, 0.05]})
    assert has(plots.threshold_curve(curve), plots.BLUE)
    assert Image.open(io.BytesIO(plots.png(drawn))).size == drawn.size
    with pytest.raises(HarnessError, match="columns step and loss"):
        plots.loss_curve(losses[["step"]])
    with pytest.raises(HarnessError, match="no finding"):
        plots.interval_plot([FINDING.but(estimate=None, low=None, high=None)])


def test_pyplot_is_never_imported() -> None:
    code = ("import sys, pandas as pd; from harness import plots; "
            "plots.loss_curve(pd.DataFrame({'step': [0, 1], 'loss': [1.0, 0.5]})); sys.exit('matplotlib.pyplot' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
