"""``harness run``: papermill with everything checked before the start, and a manifest that tells the truth after it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import params, provenance, runs
from harness.errors import HarnessError
from harness.runs import identity, manifest, notebooks

DEFAULT_PRESET = "tiny"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``harness run``."""
    parser.add_argument("notebook", type=Path, help="the .ipynb file")
    parser.add_argument("--preset", help=f"settings from presets/<notebook>.PRESET.yaml (default: {DEFAULT_PRESET}, where there is one)")
    parser.add_argument("-p", dest="given", metavar="name=value", action="append", default=[], help="set one parameter; may be repeated")
    parser.add_argument("--force", action="store_true", help="a fresh run beside a finished one")
    parser.add_argument("--dry-run", action="store_true", help="check everything, say what would run, start nothing")


def main(args: argparse.Namespace) -> int:
    """Run a notebook, or reuse its finished run; 0 only when the manifest says complete."""
    notebook = notebooks.read(args.notebook)
    preset = choose_preset(notebook, args.preset)
    settings = params.read_preset(notebook.presets()[preset], notebook.parameters) if preset else {}
    given = params.assignments(args.given)
    resolved = runs.resolve(notebook, settings, given)
    runs.refuse_secrets(resolved)
    facts = identity.facts(notebook, resolved)
    folder = runs.choose_folder(runs.results(notebook.path), notebook.name, identity.run_id(facts), args.force)
    if args.dry_run:
        return _plan(notebook, preset, resolved, folder, facts)
    if runs.is_finished(folder):
        print(f"this run is finished already ({manifest.read(folder)['timings']['ended']}); nothing was started, --force makes a fresh one")
        return _show(runs.Run(folder))
    print(f"{notebook.path}, preset {preset or 'none'}")
    return execute(notebook, runs.create(folder, notebook.name, facts, given, preset))


def choose_preset(notebook: notebooks.Notebook, asked: str | None) -> str | None:
    """The preset asked for, else the default one where there is one; raises HarnessError for one that is not there."""
    found = notebook.presets()
    if asked and asked not in found:
        raise HarnessError(f"{notebook.name} has no preset `{asked}`; there are {', '.join(found) or 'none'}")
    return asked or (DEFAULT_PRESET if DEFAULT_PRESET in found else None)


def _plan(notebook: notebooks.Notebook, preset: str | None, resolved: Mapping[str, Any], folder: Path, facts: Mapping[str, Any]) -> int:
    print(f"would run {notebook.path} (preset {preset or 'none'}) into {folder}")
    for name, value in resolved.items():
        print(f"  {name} = {value!r}")
    why = "finished already" if runs.is_finished(folder) else manifest.status(folder) or identity.why_new(folder.parent, notebook.name, facts)
    print(f"  {why}")
    return 0


def execute(notebook: notebooks.Notebook, run: runs.Run) -> int:
    """Run the notebook's cells in a fresh kernel, their output shown as it comes; returns the exit code."""
    partial, error = run.folder / manifest.PARTIAL, None
    os.environ[runs.FOLDER] = str(run.folder)
    try:
        _papermill(notebook.path, partial, run.parameters)
    except KeyboardInterrupt:
        error = (None, "", "KeyboardInterrupt: stopped by Ctrl-C; the same command goes on from what was finished")
    except Exception as problem:  # a cell, the kernel, papermill itself: all of them end in the manifest
        error = _describe(problem, partial)
    finally:
        del os.environ[runs.FOLDER]
    if error is None and run.manifest["status"] == manifest.RUNNING:
        error = (None, "", "the notebook ended without `run.finish(…)`, so nobody knows whether it is done")
    if error and run.manifest["status"] != manifest.FAILED:
        run.fail(*error)
    _keep_notebook(partial, run.folder / manifest.SAVED)
    return _show(run)


def _papermill(source: Path, saved: Path, parameters: Mapping[str, Any]) -> None:
    import papermill
    from traitlets.config import Config

    papermill.execute_notebook(
        source, saved, parameters=dict(parameters), kernel_name="python3", progress_bar=False,
        stdout_file=sys.stdout, stderr_file=sys.stderr, autosave_cell_every=0,
        config=Config(KernelManager={"transport_encryption": "auto"}),  # other users of this machine could listen
    )


def _describe(problem: Exception, partial: Path) -> tuple[int | None, str, str]:
    """Cell number, source and reason of what papermill raised."""
    if type(problem).__name__ == "PapermillExecutionError":
        return problem.exec_count, problem.source, f"{problem.ename}: {problem.evalue}"
    hint = "; the kernel was killed, most often because memory ran out" if "DeadKernel" in type(problem).__name__ else ""
    return *_cell_begun(partial), f"{type(problem).__name__}: {problem}{hint}"


def _cell_begun(partial: Path) -> tuple[int | None, str]:
    """Number and source of the last cell that papermill began, by the notebook that it saves as it goes."""
    if not partial.exists():
        return None, ""
    code = [cell for cell in notebooks.load(partial)["cells"] if cell["cell_type"] == "code"]
    begun = [(number, notebooks.text(cell)) for number, cell in enumerate(code, 1)
             if cell["metadata"].get("papermill", {}).get("start_time")]
    return begun[-1] if begun else (None, "")


def _keep_notebook(partial: Path, final: Path) -> None:
    """Give the executed notebook its final name: without widgets, which viewers refuse, and without secrets."""
    from harness.images import atomic_write

    if not partial.exists():
        return
    try:
        found = json.loads(partial.read_text(encoding="utf-8"))
        found["metadata"].pop("widgets", None)
        atomic_write(final, json.dumps(provenance.mask(found), indent=1, ensure_ascii=False) + "\n")
    except ValueError as error:
        raise HarnessError(f"{partial}: papermill left a broken file ({error}); run the same command again") from error
    partial.unlink()


def _show(run: runs.Run) -> int:
    """The end of a run in the terminal."""
    found = run.manifest
    if found["status"] == manifest.COMPLETE:
        print(f"complete after {found['timings']['seconds']:.0f} s\nreport: {run.report}")
        return 0
    error = found["error"]
    place = f" in cell {error['cell']} (`{error['source']}`)" if error["cell"] else ""
    print(f"error: the run failed{place}: {error['reason']}\nwhat was finished is kept in {run.folder}; the same command goes on from there",
          file=sys.stderr)
    return 130 if error["reason"].startswith("KeyboardInterrupt") else 1
