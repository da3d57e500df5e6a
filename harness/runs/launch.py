"""``harness run``: papermill with everything checked before the start, and a manifest that tells the truth after it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import params, provenance, runs
from harness.errors import HarnessError
from harness.runs import identity, lock, manifest, notebooks, presets
from harness.runs import inputs as runs_inputs
from harness.runs.inputs import Input

ORPHAN = 3.0  # seconds: a kernel whose launcher was killed needs a moment to die

EPILOG = ("Environment: HARNESS_RESULTS is the folder where runs lie (default: results/runs of the project), HARNESS_MEMORY_GIB the memory that a run may "
          "take, HARNESS_WATTS what the processor draws, HARNESS_PRICE_PER_HOUR what an hour costs.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``harness run``."""
    parser.epilog = EPILOG
    parser.add_argument("notebook", type=Path, help="the .ipynb file")
    parser.add_argument("--preset", help="settings from presets/<notebook>.PRESET.yaml (default: the one that fits this machine)")
    parser.add_argument("-p", dest="given", metavar="name=value", action="append", default=[], help="set one parameter; may be repeated")
    parser.add_argument("--price", type=float, metavar="PER_HOUR", help="what an hour of this machine costs (default: $HARNESS_PRICE_PER_HOUR)")
    parser.add_argument("--force", action="store_true", help="a fresh run beside a finished one")
    parser.add_argument("--dry-run", action="store_true", help="check everything, say what would run, start nothing")


@dataclass(frozen=True)
class Plan:
    """A run that was checked and not started."""

    notebook: notebooks.Notebook
    """What runs."""
    preset: str | None
    """Where its settings come from besides the notebook's defaults."""
    preset_why: str
    """Why this preset."""
    given: Mapping[str, Any]
    """What was asked for on top of the preset, as it was given."""
    resolved: Mapping[str, Any]
    """Every parameter with its value."""
    facts: Mapping[str, Any]
    """Everything that decides the result."""
    folder: Path
    """Where the run lies, or will lie."""
    inputs: Sequence[Input] = ()
    """Files and folders that parameters name."""


def plan(notebook: Path, preset: str | None, given: Mapping[str, Any], force: bool = False, results: Path | None = None) -> Plan:
    """Check everything that can be checked before a kernel starts; raises HarnessError or Refused. Starts and writes nothing.

    ``given`` are values by name, text or typed; ``force`` asks for a fresh run beside a finished one; ``results`` is where
    the runs lie (default: $HARNESS_RESULTS, else results/runs of the notebook's project).
    """
    found = notebooks.read(notebook)
    chosen, why = presets.choose(found, preset, given)
    settings = params.read_preset(found.presets()[chosen], found.parameters) if chosen else {}
    resolved = runs.resolve(found, settings, given)
    runs.refuse_secrets(resolved)
    inputs = runs_inputs.find(resolved, notebooks.root(found.path))
    facts = identity.facts(found, resolved, inputs)
    folder = runs.choose_folder(results or runs.results(found.path), found.name, identity.run_id(facts), force)
    return Plan(found, chosen, why, dict(given), resolved, facts, folder, inputs)


def main(args: argparse.Namespace) -> int:
    """Run a notebook, or reuse its finished run; 0 only when the manifest says complete."""
    made = plan(args.notebook, args.preset, params.assignments(args.given), args.force)
    if args.dry_run:
        return _show_plan(made, args.price)
    with lock.hold(made.folder, wait=ORPHAN) as descriptor:
        if runs.is_finished(made.folder):
            print(f"this run is finished already ({manifest.read(made.folder)['timings']['ended']}); nothing was started, --force makes a fresh one")
            print(f"report: {runs.Run(made.folder).report}")
            return 0
        print(f"{made.notebook.path}, preset {_preset(made)}")
        return execute(made, descriptor, args.price)


def _preset(made: Plan) -> str:
    return f"{made.preset or 'none'} ({made.preset_why})"


def _show_plan(made: Plan, price: float | None) -> int:
    from harness.forecast import preflight

    print(f"would run {made.notebook.path}, preset {_preset(made)}, into {made.folder}")
    for name, value in made.resolved.items():
        print(f"  {name} = {value!r}")
    finished = runs.is_finished(made.folder)
    why = "finished already" if finished else manifest.status(made.folder) or identity.why_new(made.folder.parent, made.notebook.name, made.facts)
    print(f"  {why}")
    if not finished:
        preflight.before(made, price)
    return 0


def execute(made: Plan, descriptor: int, price: float | None = None) -> int:
    """Run a planned notebook in a fresh kernel, its output shown as it comes; returns the exit code.

    ``descriptor`` is that of the folder's lock, which the kernel shares. Raises Refused where this machine cannot hold the run.
    """
    from harness.forecast import costs, preflight

    predicted = preflight.before(made, price)
    run = runs.create(made.folder, made.notebook.name, made.facts, made.resolved, made.inputs, notebooks.root(made.notebook.path), made.given,
                      (made.preset, made.preset_why), manifest.LAUNCHER, predicted)
    saved = run.folder / manifest.PARTIAL
    error = _error(made, run, saved, descriptor)
    if saved.exists():
        saved.replace(run.folder / manifest.SAVED)
    _write_end(run, error or _completed(made, run))
    code = _show(run)
    run.update(actual=costs.after(run.folder, run.manifest, price))
    return code


def _error(made: Plan, run: runs.Run, saved: Path, descriptor: int) -> tuple[int | None, str, str] | None:
    """Run the cells; cell number, source and reason of what went wrong, None where nothing did."""
    try:
        _papermill(made.notebook, saved, run.parameters, {runs.FOLDER: str(run.folder)}, descriptor)
    except KeyboardInterrupt:
        return None, "", "KeyboardInterrupt: stopped by Ctrl-C; the same command goes on from what was finished"
    except Exception as problem:  # a cell, the kernel, papermill itself: all of them end in the manifest
        return _describe(problem, saved)
    if not run.manifest["outputs"]:
        return None, "", "the notebook ended without `run.finish(…)`, so nobody knows whether it is done"
    return None


def _completed(made: Plan, run: runs.Run) -> tuple[None, str, str] | None:
    """Call the run complete, now that its last cell has ended; else why not: what it is named by is no longer what ran, or its outputs are not."""
    try:
        found = notebooks.read(made.notebook.path)
        known = {(each.parameter, each.path) for each in made.inputs}  # what the run itself made or fetched is none
        inputs = [each for each in runs_inputs.find(made.resolved, notebooks.root(found.path)) if (each.parameter, each.path) in known]
        now = identity.facts(found, made.resolved, inputs)
        now["inputs"] = {name: digest for name, digest in now["inputs"].items() if name in made.facts["inputs"]}
        changed = identity.differences(made.facts, now)
        if changed:
            return None, "", f"code or inputs changed while it ran: {'; '.join(changed[:identity.SHOWN])}; run it again"
        run.complete()
    except HarnessError as error:
        return None, "", str(error)
    return None


def _write_end(run: runs.Run, error: tuple[int | None, str, str] | None) -> None:
    """Write the failure that the kernel itself could not write."""
    if error and run.manifest["status"] != manifest.FAILED:
        run.fail(*error, peak_memory=provenance.peak_memory(children=True))


def _papermill(notebook: notebooks.Notebook, saved: Path, parameters: Mapping[str, Any], environment: Mapping[str, str], descriptor: int) -> None:
    from harness.runs import kernel

    kernel.execute(notebook.held, saved, parameters, environment, descriptor)


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


def _show(run: runs.Run) -> int:
    """The end of a run in the terminal."""
    found = run.manifest
    if found["status"] == manifest.COMPLETE:
        tries = found["timings"]["attempts"]
        print(f"complete after {found['timings']['seconds']:.0f} s{f' (the last of {tries} attempts)' if tries > 1 else ''}\nreport: {run.report}")
        return 0
    error = found["error"]
    place = f" in cell {error['cell']} (`{error['source']}`)" if error["cell"] else ""
    saved = run.folder / manifest.SAVED
    seen = f"; its cells as far as they came are in {saved.name}" if saved.exists() else ""
    print(f"error: the run failed{place}: {error['reason']}\nwhat was finished is kept in {run.folder}{seen}; the same command goes on from there",
          file=sys.stderr)
    return 130 if error["reason"].startswith("KeyboardInterrupt") else 1
