"""A run: a folder whose name is the hash of everything that decides its result, and a manifest that says how it went.

A notebook calls ``start``, ``note`` and ``finish``. Under ``harness run`` the folder is already there and its checks
are done; in JupyterLab or under plain papermill ``start`` makes it. Success is only a manifest that says ``complete``.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness import params, provenance
from harness.errors import HarnessError, Refused
from harness.runs import identity, manifest, notebooks, watch

FOLDER, RESULTS = "HARNESS_RUN", "HARNESS_RESULTS"  # environment: the folder of this run; where all of them lie


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

    def finish(self, outputs: Mapping[str, Path | str] | Iterable[Path | str] | None = None) -> Path:
        """Say that the run is complete, with the hash of every output; returns the report, or else the folder.

        ``outputs`` are files or folders inside the run's folder; None means everything in it. The first ``.html`` is
        the report. Raises HarnessError for an output that is missing or lies elsewhere.
        """
        named = [self.folder] if outputs is None else list(outputs.values() if isinstance(outputs, Mapping) else outputs)
        hashes = {name: provenance.sha256(self.folder / name) for name in manifest.output_files(self.folder, named)}
        if not hashes:
            raise HarnessError(f"{self.folder}: the run has no outputs to finish with; write them before `finish`")
        report = next((name for name in hashes if name.endswith(".html")), None)
        times = {} if self.manifest["status"] == manifest.COMPLETE else self._times()  # steps of a finished run were only reused
        self.update(status=manifest.COMPLETE, error=None, outputs=hashes, report=report, **times)
        return self.report

    def fail(self, cell: int | None, source: str, reason: str) -> None:
        """Say that the run failed: in which cell (its number and first line of code), and why."""
        first = next((line for line in source.strip().splitlines() if not line.startswith("#")), "")
        error = {"cell": cell, "source": first[:120], "reason": reason[:2000]}
        self.update(status=manifest.FAILED, error=error, **self._times())

    @property
    def report(self) -> Path:
        """The page to open, or the folder where the run wrote none."""
        return self.folder / (self.manifest["report"] or "")

    def update(self, **facts: Any) -> None:
        """Replace facts in the manifest, whole or not at all."""
        manifest.write(self.folder, {**self.manifest, **facts})

    def _times(self) -> dict[str, Any]:
        times, now = self.manifest["timings"], manifest.now()
        seconds = (now - datetime.datetime.fromisoformat(times["started"])).total_seconds()
        return {"timings": {**times, "ended": now.isoformat(), "seconds": round(seconds, 3)}, "peak_memory": provenance.peak_memory()}


def start(notebook: str, parameters: Mapping[str, Any]) -> Run:
    """Begin, or go on with, the run of the notebook called ``notebook``; its cells write into ``run.folder``.

    ``parameters`` are the values of the parameters cell, as a dict of all of them or simply ``globals()``.
    Raises HarnessError when they differ from what the run was started with.
    """
    given = os.environ.get(FOLDER)
    if given and manifest.status(Path(given)) and manifest.read(Path(given))["notebook"] == notebook:
        run = Run(Path(given))
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
    facts = identity.facts(found, resolved)
    folder = choose_folder(results(path or Path.cwd()), notebook, identity.run_id(facts))
    if is_finished(folder):
        print(f"this run is finished already, its steps are reused: {folder}")
        return Run(folder)
    return create(folder, notebook, facts, given=own, preset=None)


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
    """Every parameter of a notebook: its default, overridden by each of ``given`` in turn, as its declared type."""
    resolved = notebook.defaults
    for settings in given:
        resolved |= params.check(notebook.parameters, settings, where=notebook.name)
    return resolved


def refuse_secrets(resolved: Mapping[str, Any]) -> None:
    """Raises Refused for a parameter that looks like a token: parameters are written down and published."""
    for name, value in resolved.items():
        if provenance.mask(value) != value and not isinstance(value, tuple):
            raise Refused(f"`{name}` looks like a secret, and parameters are written down; set it as an environment variable instead")


# --- folders ----------------------------------------------------------------------------------------------------------


def results(path: Path) -> Path:
    """Where the runs of a notebook lie: ``$HARNESS_RESULTS``, else ``results/runs`` in its project."""
    chosen = os.environ.get(RESULTS)
    return Path(chosen).expanduser().resolve() if chosen else notebooks.root(path) / "results" / "runs"


def choose_folder(parent: Path, notebook: str, run_id: str, force: bool = False) -> Path:
    """The folder of a run: the latest finished one, else the latest try, else a new one; ``force``: one beside them."""
    taken, free = [], parent / f"{notebook}-{run_id}"
    while free.exists():
        taken.append(free)
        free = parent / f"{notebook}-{run_id}-{len(taken) + 1}"
    if force or not taken:
        return free
    done = [folder for folder in taken if manifest.status(folder) == manifest.COMPLETE]
    return (done or taken)[-1]


def is_finished(folder: Path) -> bool:
    """Whether a run is complete and all of its outputs are there; raises HarnessError when one was changed since."""
    if manifest.status(folder) != manifest.COMPLETE:
        return False
    changed = manifest.changed_outputs(folder)
    for name, what in changed.items():
        if what == "changed":
            raise HarnessError(f"{folder / name}: is not what the finished run wrote; delete it to have it made again, or use --force "
                               "for a fresh run beside it")
    return not changed


def create(folder: Path, notebook: str, facts: Mapping[str, Any], given: Mapping[str, Any], preset: str | None) -> Run:
    """Make a run's folder, or take up one that stopped, and write its manifest; prints why there is a new run.

    Raises Refused while another process is at work in it.
    """
    before = manifest.read(folder) if manifest.status(folder) else None
    if before and before["status"] == manifest.RUNNING and manifest.is_alive(before["process"]):
        raise Refused(f"{folder}: this very run is at work in process {before['process']['pid']}; wait for it, or end it first")
    why = _why_again(before) if before else identity.why_new(folder.parent, notebook, facts)
    print(f"run {folder.name}: {why}", flush=True)
    manifest.write(folder, {
        "schema": manifest.SCHEMA, "status": manifest.RUNNING, "id": identity.run_id(facts), "notebook": notebook, "why_new": why,
        "parameters": {"preset": preset, "given": dict(given), "resolved": facts["parameters"]}, "seeds": _seeds(facts["parameters"]),
        "identity": {key: value for key, value in facts.items() if key != "parameters"},
        **_surroundings(before["timings"]["attempts"] + 1 if before else 1),
        "peak_memory": None, "notes": {}, "outputs": {}, "report": None, "error": None,
    })
    return Run(folder)


def _surroundings(attempts: int) -> dict[str, Any]:
    return {
        "git": provenance.git(provenance.PACKAGE), "packages": provenance.packages(), "hardware": provenance.hardware(),
        "process": manifest.process(), "timings": {"started": manifest.now().isoformat(), "attempts": attempts},
    }


def _why_again(before: Mapping[str, Any]) -> str:
    if before["status"] == manifest.FAILED:
        return f"goes on where it stopped ({before['error']['reason'].splitlines()[0][:200]})"
    return "goes on where it was killed" if before["status"] == manifest.RUNNING else "made again: an output of the finished run is gone"


def _seeds(resolved: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in resolved.items() if name in ("seed", "seeds") or name.endswith(("_seed", "_seeds"))}
