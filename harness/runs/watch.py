"""Watches a notebook's cells, so that a failure is written down where it happened, however the notebook is run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.runs import Run

_watched: dict[str, Any] = {}


def cells(run: Run) -> None:
    """Record the failure of any later cell in the run's manifest, and let a failed ``!command`` fail its cell.

    Does nothing outside IPython.
    """
    shell = _shell()
    if shell is None:
        return
    shell.system_raise_on_error = True
    if not _watched:
        shell.events.register("post_run_cell", _after_cell)
    _watched["run"] = run


def _shell() -> Any:
    module = sys.modules.get("IPython")
    return module.get_ipython() if module else None


def ran() -> list[str] | None:
    """The cells that this session ran so far as they were typed, the current one last; None outside IPython."""
    shell = _shell()
    return None if shell is None else [cell.rstrip() for cell in shell.history_manager.input_hist_raw if cell.strip()]


def _after_cell(result: Any) -> None:
    error = result.error_before_exec or result.error_in_exec
    run = _watched["run"]
    if error is None or _is_late_exit(error, run):
        return
    run.fail(result.execution_count, result.info.raw_cell, describe(error))


def describe(error: BaseException) -> str:
    """An error as ``Type: message``, with what an early exit means said."""
    early = "; the notebook was left before its end" if isinstance(error, SystemExit) else ""
    return f"{type(error).__name__}: {error}{early}"


def _is_late_exit(error: BaseException, run: Run) -> bool:
    return isinstance(error, SystemExit) and not error.code and bool(run.manifest["outputs"])
