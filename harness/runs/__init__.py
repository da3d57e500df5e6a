"""A run: a folder whose name is the hash of everything that decides its result, and a manifest that says how it went.

A notebook calls ``start``, ``used``, ``note`` and ``finish``. Under ``harness run`` the folder is already there and its checks
are done; in JupyterLab or under plain papermill ``start`` makes it. Success is only a manifest that says ``complete``.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import params, provenance
from harness.errors import HarnessError, Refused
from harness.runs import identity, lock, manifest, notebooks, refuse, watch
from harness.runs import inputs as runs_inputs
from harness.runs.folders import RESULTS, add_works, choose_folder, clear_halves, is_finished, lost_notebook, refuse_leaks, results
from harness.runs.inputs import Input

if TYPE_CHECKING:
    from harness.images import ImageSet

__all__ = ["FOLDER", "RESULTS", "Run", "choose_folder", "create", "is_finished", "refuse_secrets", "resolve", "results", "start"]
FOLDER = "HARNESS_RUN"  # environment of a kernel: the folder of its run
_held: dict[Path, ExitStack] = {}  # locks of runs that this process began by itself


class Run:
    """One run's folder. ``folder`` is where everything is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        return f"Run({self.folder.name}, {self.manifest['status']})"

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest as it stands on disk."""
        return manifest.read(self.folder)

    @property
    def id(self) -> str:
        """The hash of code, parameters, inputs, versions and device."""
        return self.manifest["id"]

    @property
    def parameters(self) -> dict[str, Any]:
        """Every parameter as it was resolved."""
        return self.manifest["parameters"]["resolved"]

    def note(self, key: str, value: Any) -> None:
        """Write a fact into the manifest's notes: purpose, hashes of inputs and models, counts. Secrets are masked."""
        self.update(notes={**self.manifest["notes"], key: value})

    def used(self, images: ImageSet, role: str) -> None:
        """Write down, in ``works.csv``, pictures that went into this run and as what ("trained on", "held out").

        A row is sha256, subject, role: one for each picture and each artist or person that the pictures' table names. A
        later withdrawal finds the run by it. Raises HarnessError for pictures without hashes, or an empty role.
        """
        add_works(self.folder, images, role)

    def finish(self, outputs: Mapping[str, Path | str] | Iterable[Path | str] | None = None) -> Path:
        """Say that the work is done, with the hash of every output; returns the report, or else the folder.

        Alone the run is complete with that; under ``harness run`` once its last cell has ended and these outputs still stand.
        ``outputs`` are files or folders inside the run's folder; None means everything in it. The first ``.html`` is
        the report. Raises HarnessError for an output that is missing or lies elsewhere, Refused for one that holds a secret.
        """
        named = [self.folder] if outputs is None else list(outputs.values() if isinstance(outputs, Mapping) else outputs)
        names = manifest.output_files(self.folder, named)
        if not names:
            raise HarnessError(f"{self.folder}: the run has no outputs to finish with; write them before `finish`")
        refuse_leaks(self.folder, names)
        self._as_filed()
        hashes = {name: provenance.sha256(self.folder / name) for name in names}
        report = next((name for name in hashes if name.endswith(".html")), None)
        done, alone = self.manifest["status"] == manifest.COMPLETE, self.manifest["process"].get("by") != manifest.LAUNCHER
        times = {} if done else self._times()  # steps of a finished run were only reused
        self.update(status=manifest.COMPLETE if done or alone else manifest.RUNNING, error=None, outputs=hashes, report=report, **times)
        _held.pop(self.folder, ExitStack()).close()
        return self.report

    def complete(self) -> None:
        """The launcher's last word, after the last cell; raises HarnessError for outputs that changed since ``finish``, Refused for leaks."""
        outputs = self.manifest["outputs"]
        for name, what in manifest.changed_outputs(self.folder).items():
            raise HarnessError(f"{self.folder / name}: is {what} since `run.finish(…)`; finish when everything is written, and run it again")
        refuse_leaks(self.folder, [name for name in manifest.output_files(self.folder, [self.folder]) if name not in outputs])
        self.update(status=manifest.COMPLETE, error=None)

    def fail(self, cell: int | None, source: str, reason: str, **facts: Any) -> None:
        """Say that the run failed: in which cell (its number and first line of code), and why."""
        first = next((line for line in source.strip().splitlines() if not line.startswith("#")), "")
        error = {"cell": cell, "source": first[:120], "reason": reason[:2000]}
        self.update(**{"status": manifest.FAILED, "error": error, **self._times(), **facts})

    @property
    def report(self) -> Path:
        """The page to open, or the folder where the run wrote none."""
        return self.folder / (self.manifest["report"] or "")

    def update(self, **facts: Any) -> None:
        """Replace facts in the manifest, whole or not at all."""
        manifest.write(self.folder, {**self.manifest, **facts})

    def _as_filed(self) -> None:
        """Alone: raises HarnessError where a cell up to this one did not run as it stands in the file that this run is named by."""
        found, done = self.manifest, watch.ran()
        path = notebooks.find(found["notebook"]) if done and found["identity"]["notebook"] and FOLDER not in os.environ else None
        if path is None:
            return
        sources = list(notebooks.read(path).sources)
        if done[-1] not in sources or not {*sources[:sources.index(done[-1])]} <= {*done, ""}:
            raise HarnessError(f"{path}: not all of its cells ran as they stand there, so this run cannot end under their name; "
                               "save the notebook under its own name, restart and run all its cells")

    def _times(self) -> dict[str, Any]:
        times, now = self.manifest["timings"], manifest.now()
        seconds = (now - datetime.datetime.fromisoformat(times["started"])).total_seconds()
        return {"timings": {**times, "ended": now.isoformat(), "seconds": round(seconds, 3)},
                "peak_memory": provenance.peak_memory(), "determinism": provenance.determinism()}


def start(notebook: str, parameters: Mapping[str, Any]) -> Run:
    """Begin, or go on with, the run of the notebook called ``notebook``; its cells write into ``run.folder``.

    ``parameters`` are the values of the parameters cell, as a dict of all of them or simply ``globals()``.
    Raises HarnessError when they differ from what the run was started with, Refused while another process is at work in it.
    """
    given = os.environ.get(FOLDER)
    if given:
        run = Run(Path(given))
        if run.manifest["notebook"] != notebook:
            raise HarnessError(f"this is the run of {run.manifest['notebook']} (${FOLDER}), but its notebook says `runs.start({notebook!r}, …)`; "
                               "it must say the name of its own file")
        _same(_own(notebook, parameters, list(run.parameters)), run.parameters)
    else:
        run = _start_alone(notebook, parameters)
    watch.cells(run)
    return run


def _start_alone(notebook: str, parameters: Mapping[str, Any]) -> Run:
    path = notebooks.find(notebook)
    found = notebooks.read(path) if path else None
    own = _own(notebook, parameters, list(found.defaults) if found else None)
    resolved = resolve(found, own) if found else own
    refuse_secrets(resolved)
    project = notebooks.root(path or Path.cwd())
    inputs = runs_inputs.find(resolved, project)
    known = None if found and _is_foreign(found) else found
    facts = identity.facts(known, resolved, inputs)
    parent = results(path or Path.cwd())
    folder = choose_folder(parent, notebook, identity.run_id(facts))
    if known is None and found and manifest.status(folder) == manifest.COMPLETE:
        folder = choose_folder(parent, notebook, identity.run_id(facts), force=True)  # nobody knows whether its later cells were the same
    if folder not in _held:
        held = ExitStack()
        held.enter_context(lock.hold(folder))
        _held[folder] = held
    if is_finished(folder):
        _held.pop(folder).close()
        print(f"this run is finished already, its steps are reused: {folder}")
        return Run(folder)
    return create(folder, notebook, facts, resolved, inputs, project, given=own)


def _is_foreign(found: notebooks.Notebook) -> bool:
    """Whether this session ran cells that the file of that name does not hold: a copy, or changes that were not saved. Says so."""
    foreign = [cell for cell in watch.ran() or [] if cell not in found.sources and not notebooks.is_parameters(cell)]
    if foreign:
        print(f"`{foreign[0].splitlines()[0][:60]}` is no cell of {found.path}: no finished run of that notebook is reused, and this one does not count as its")
    return bool(foreign)


def _own(notebook: str, parameters: Mapping[str, Any], declared: list[str] | None) -> dict[str, Any]:
    """The parameters alone, where a notebook passed its ``globals()``; else exactly what it passed."""
    if "__builtins__" not in parameters:
        return dict(parameters)
    if declared is None:
        raise HarnessError(f"{notebook}.ipynb is not to be found from {Path.cwd()}; pass its parameters to `runs.start` as a dict")
    return {name: parameters[name] for name in declared if name in parameters}


def _same(now: Mapping[str, Any], then: Mapping[str, Any]) -> None:
    for name in sorted({*now, *then}):
        if name not in now or name not in then or manifest.plain(now[name]) != then[name]:
            raise HarnessError(f"`{name}` is {now.get(name, 'missing')!r} in the notebook but {then.get(name, 'missing')!r} in the "
                               "run that was started; pass all values of the parameters cell, unchanged, to `runs.start`")


def resolve(notebook: notebooks.Notebook, *given: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter of a notebook: its default, overridden by each of ``given`` in turn, as its declared type.

    Raises HarnessError for names and types that do not fit, Refused for settings that the notebook says contradict each other.
    """
    resolved = notebook.defaults
    for settings in given:
        resolved |= params.check(notebook.parameters, settings, where=notebook.name)
    refuse.contradictions(notebook.harness.get("refuse", []), resolved, where=f"{notebook.path}, metadata")
    return resolved


def refuse_secrets(resolved: Mapping[str, Any]) -> None:
    """Raises Refused for a parameter that looks like a token: parameters are written down and published."""
    for name, value in resolved.items():
        if any(provenance.is_secret(word) for word in (value if isinstance(value, (list, tuple)) else [value])):
            raise Refused(f"`{name}` looks like a secret, and parameters are written down; set it as an environment variable instead")


def create(folder: Path, notebook: str, facts: Mapping[str, Any], resolved: Mapping[str, Any], inputs: Sequence[Input], project: Path,
           given: Mapping[str, Any], preset: tuple[str | None, str] = (None, "chosen in the notebook"), by: str = manifest.ALONE,
           predicted: Mapping[str, Any] | None = None) -> Run:
    """Make a run's folder, or take up one that stopped, and write its manifest; prints why there is a new run.

    The caller holds the folder's lock. ``preset`` is its name and why it was taken.
    """
    before = manifest.whole(folder) if manifest.status(folder) else None
    why = _why_again(folder, before) if before else identity.why_new(folder.parent, notebook, facts)
    print(f"run {folder.name}: {why}", flush=True)
    clear_halves(folder)
    manifest.write(folder, {
        "schema": manifest.SCHEMA, "status": manifest.RUNNING, "id": identity.run_id(facts), "notebook": notebook, "why_new": why,
        "parameters": {"preset": preset[0], "preset_why": preset[1], "given": dict(given), "resolved": dict(resolved)},
        "seeds": _seeds(resolved), "identity": {key: value for key, value in facts.items() if key != "parameters"},
        **_surroundings(project), "process": manifest.process(by),
        "timings": {"started": manifest.now().isoformat(), "ended": None, "seconds": None, "attempts": before["timings"].get("attempts", 1) + 1 if before else 1},
        "peak_memory": None, "inputs": runs_inputs.described(inputs, project), "notes": {}, "outputs": {}, "report": None,
        "predicted": dict(predicted or {}), "actual": {}, "error": None,
    })
    return Run(folder)


def _surroundings(project: Path) -> dict[str, Any]:
    own = provenance.git(project)
    return {
        "git": own if own["commit"] else provenance.git(provenance.PACKAGE), "packages": provenance.packages(),
        "hardware": provenance.hardware(), "determinism": provenance.determinism(),
    }


def _why_again(folder: Path, before: Mapping[str, Any]) -> str:
    if before["status"] == manifest.FAILED:
        reason = ((before["error"] or {}).get("reason") or "no reason was written").splitlines()[0]
        return f"goes on where it stopped ({reason[:200]})"
    if before["status"] == manifest.RUNNING or lost_notebook(folder):
        return "goes on where it was killed"
    return "made again: an output of the finished run is gone"


def _seeds(resolved: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in resolved.items() if name in ("seed", "seeds") or name.endswith(("_seed", "_seeds"))}
