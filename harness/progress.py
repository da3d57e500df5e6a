"""Progress as plain lines that read well in a terminal, in a log file and in a saved notebook."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

Progress = Callable[[Mapping[str, Any]], None]


def printer(every: float = 2.0, stream: TextIO | None = None) -> Progress:
    """A progress callback that prints at most one line every ``every`` seconds.

    The event is a plain dict such as ``{"stage": "train", "step": 3, "of": 100, "loss": 0.1}``.
    The first and the last event of a stage (``step == of``) and events without a step are always printed.
    ``stream`` defaults to whatever ``sys.stdout`` is when a line is printed.
    """
    last: dict[str, float] = {}

    def show(event: Mapping[str, Any]) -> None:
        stage, now = str(event.get("stage", "")), time.monotonic()
        if _must_show(event) or now - last.get(stage, float("-inf")) >= every:
            last[stage] = now
            print(line(event), file=stream or sys.stdout, flush=True)

    return show


def silent(event: Mapping[str, Any]) -> None:
    """A progress callback that says nothing."""


def line(event: Mapping[str, Any]) -> str:
    """One event as one line: ``train 3/100  loss 0.1``."""
    rest = {key: value for key, value in event.items() if key not in ("stage", "step", "of")}
    words = [str(event.get("stage", "")), _count(event)] + [f" {key} {_short(value)}" for key, value in rest.items()]
    return " ".join(word for word in words if word)


def _must_show(event: Mapping[str, Any]) -> bool:
    return "step" not in event or event["step"] == event.get("of")


def _count(event: Mapping[str, Any]) -> str:
    if "step" not in event:
        return ""
    return f"{event['step']}/{event['of']}" if "of" in event else str(event["step"])


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
