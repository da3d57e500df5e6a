"""Pictures for people: contact sheets, pairs, loss curves, intervals. Colours of Okabe and Ito, told apart by all eyes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from harness.errors import HarnessError
from harness.images import ImageSet, square

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from harness.stats import Finding

BLUE, ORANGE, GREEN, GREY, INK = "#0072b2", "#d55e00", "#007a5e", "#6b6b6b", "#1f2328"
PAD, LINE = 8, 15


def png(image: Image.Image) -> bytes:
    """A picture as PNG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def contact_sheet(images: ImageSet | np.ndarray, captions: Sequence[str] | None = None, columns: int = 8, cell: int = 96) -> Image.Image:
    """Images (ImageSet, or uint8 (n, h, w, 3)) in rows of `columns`, `cell` pixels each, a short caption below."""
    pictures = _pictures(images, cell)
    if captions is not None and len(captions) != len(pictures):
        raise HarnessError(f"a contact sheet of {len(pictures)} pictures has {len(captions)} captions.")
    columns = max(1, min(columns, len(pictures)))
    rows, height = -(-len(pictures) // columns), cell + PAD + (LINE if captions is not None else 0)
    sheet = Image.new("RGB", (PAD + columns * (cell + PAD), PAD + rows * height), "white")
    for i, picture in enumerate(pictures):
        left, top = PAD + (i % columns) * (cell + PAD), PAD + (i // columns) * height
        sheet.paste(picture, (left, top))
        if captions is not None:
            _write(sheet, captions[i], left, top + cell + 1, cell)
    return sheet


def side_by_side(groups: dict[str, ImageSet | np.ndarray], cell: int = 96) -> Image.Image:
    """One column a group (name -> equally many images), row i of every group beside the others: base, tuned, works."""
    columns = {name: _pictures(images, cell) for name, images in groups.items()}
    counts = {len(pictures) for pictures in columns.values()}
    if len(counts) != 1:
        raise HarnessError("side by side needs equally many pictures of every group: "
                           + ", ".join(f"{name} {len(p)}" for name, p in columns.items()))
    n = counts.pop()
    sheet = Image.new("RGB", (PAD + len(columns) * (cell + PAD), PAD + LINE + n * (cell + PAD)), "white")
    for c, (name, pictures) in enumerate(columns.items()):
        left = PAD + c * (cell + PAD)
        _write(sheet, name, left, 3, cell)
        for r, picture in enumerate(pictures):
            sheet.paste(picture, (left, PAD + LINE + r * (cell + PAD)))
    return sheet


def _pictures(images: ImageSet | np.ndarray, cell: int) -> list[Image.Image]:
    """Squares of `cell` pixels; small pictures are enlarged without blurring where the factor is whole."""
    source = images.decoded() if isinstance(images, ImageSet) else map(Image.fromarray, images)
    pictures = [p.resize((cell, cell), Image.Resampling.NEAREST) if p.width == p.height and cell % p.width == 0
                else square(p, cell) for p in source]
    if not pictures:
        raise HarnessError("there is no picture to show.")
    return pictures


def _write(sheet: Image.Image, text: str, left: int, top: int, width: int) -> None:
    """One line of text, shortened with an ellipsis to `width` pixels."""
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    short = text
    while short and pen.textlength(short + ("…" if short != text else ""), font=font) > width:
        short = short[:-1]
    pen.text((left, top), short + ("…" if short != text else ""), fill=INK, font=font)


def loss_curve(losses: pd.DataFrame, smooth: int = 25) -> Image.Image:
    """Training loss by step (columns step, loss): every step in grey, its moving mean in blue."""
    if not {"step", "loss"} <= set(losses.columns):
        raise HarnessError(f"a loss curve needs columns step and loss; there are {', '.join(map(str, losses.columns))}.")
    figure, axes = _figure(6.4, 2.8)
    axes.plot(losses["step"], losses["loss"], color="#b5b5b5", linewidth=0.8, label="each step")
    mean = losses["loss"].rolling(smooth, min_periods=1, center=True).mean()
    axes.plot(losses["step"], mean, color=BLUE, linewidth=2, label=f"mean of {smooth} steps")
    axes.set(xlabel="training step", ylabel="loss", ylim=(0, None))
    axes.legend(frameon=False)
    return _drawn(figure)


def interval_plot(findings: Sequence[Finding], percent: bool = False, null: str = "usual where nothing is there") -> Image.Image:
    """Estimates with their intervals, one row a finding, and the floor as a grey tick where there is one."""
    shown = [f for f in findings if f.estimate is not None]
    if not shown:
        raise HarnessError("there is no finding with a number to draw.")
    factor = 100 if percent else 1
    figure, axes = _figure(6.4, 0.9 + 0.42 * len(shown))
    for row, f in enumerate(reversed(shown)):
        axes.plot([factor * f.low, factor * f.high], [row, row], color=BLUE, linewidth=2.5, solid_capstyle="butt")
        axes.plot(factor * f.estimate, row, "o", color=BLUE, markersize=7)
        if f.floor:
            axes.plot(factor * f.floor, row, "|", color=ORANGE, markersize=18, markeredgewidth=2.5)
    axes.set_yticks(range(len(shown)), [f.subject for f in reversed(shown)])
    axes.set(ylim=(-0.6, len(shown) - 0.4), xlabel="percent" if percent else "difference in cosine")
    axes.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
    if any(f.floor for f in shown):
        axes.plot([], [], "|", color=ORANGE, markersize=11, markeredgewidth=2.5, label=null)
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1)
    return _drawn(figure)


def null_plot(controls: dict[str, float], observed: float, subject: str) -> Image.Image:
    """Where the accused model lies among models tuned on other artists: one dot a model."""
    figure, axes = _figure(6.4, 1.7)
    values = np.sort(list(controls.values()))
    axes.plot(values, np.linspace(-0.3, 0.3, len(values)) if len(values) > 1 else [0], "o", color=GREY, markersize=6,
              markerfacecolor="none", label=f"{len(values)} models tuned on others")
    axes.plot(observed, 0, "D", color=ORANGE, markersize=9, label=f"tuned on {subject}")
    axes.spines["left"].set_visible(False)
    axes.set(yticks=[], ylim=(-0.6, 0.6), xlabel="tuned minus base, cosine to the held-out works")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.1)
    return _drawn(figure)


def threshold_curve(curve: pd.DataFrame) -> Image.Image:
    """Flagged share against the threshold, with intervals (columns threshold, share, low, high)."""
    figure, axes = _figure(6.4, 2.6)
    axes.fill_between(curve["threshold"], 100 * curve["low"], 100 * curve["high"], color=BLUE, alpha=0.2, linewidth=0, label="95 % interval")
    axes.plot(curve["threshold"], 100 * curve["share"], "o-", color=BLUE, label="flagged")
    axes.set(xlabel="threshold of the detector", ylabel="percent of images", ylim=(0, max(1.0, 105 * curve["high"].max())))
    axes.legend(frameon=False)
    return _drawn(figure)


def _figure(width: float, height: float) -> tuple[Figure, object]:
    """A figure that touches no global state of matplotlib, so that notebooks keep their backend."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)
    return figure, axes


def _drawn(figure: Figure) -> Image.Image:
    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[:, :, :3].copy())
