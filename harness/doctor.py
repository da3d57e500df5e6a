"""``harness doctor``: what this machine is, and what to do about each problem."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import provenance
from harness.errors import HarnessError

OK, NOTE, PROBLEM = "ok", "note", "problem"
DISTRIBUTION = "likeness-harness"
PYTHONS = ((3, 11), (3, 12))
GIB = 1 << 30
WEIGHTS = provenance.PACKAGE / "world" / "weights"


@dataclass(frozen=True)
class Check:
    """One thing looked at: what it is, how it stands (ok, note, problem), and what to do."""

    name: str
    state: str
    found: str
    advice: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``harness doctor`` takes no options."""


def main(args: argparse.Namespace) -> int:
    """Print every check; 1 when one of them is a problem."""
    found = []
    for check in checks():
        found.append(check)
        print(f"{check.state:>7}  {check.name}: {check.found}" + (f"\n         → {check.advice}" if check.advice else ""), flush=True)
    problems = sum(check.state == PROBLEM for check in found)
    print(f"{problems} problems" if problems else "this machine can run the notebooks")
    return int(problems > 0)


def checks() -> Iterator[Check]:
    """Every check in turn; the cheap ones come first."""
    plain: tuple[Callable[[], Check], ...] = (python, place, memory, disk, git, dependencies, extras, weights, torchvision, torch)
    for check in plain:
        yield check()


def python(version: tuple[int, int] = sys.version_info[:2]) -> Check:
    """Whether this Python is one that the project is tested with."""
    found = f"{platform.python_version()} at {sys.executable}"
    if version < PYTHONS[0]:
        return Check("Python", PROBLEM, found, "install Python 3.11 or 3.12 and make the environment again")
    if version > PYTHONS[-1]:
        return Check("Python", NOTE, found, "tested with 3.11 and 3.12; should something fail, try one of them")
    return Check("Python", OK, found)


def place() -> Check:
    """The system, and whether this is Colab."""
    if importlib.util.find_spec("google") and importlib.util.find_spec("google.colab"):
        advice = f"results vanish with the session; mount Drive and set HARNESS_RESULTS to a folder on it ({_results()})"
        return Check("Place", NOTE, "Google Colab", advice)
    return Check("Place", OK, f"{platform.platform()}, {os.cpu_count()} cores")


def _results() -> str:
    return f"now {os.environ.get('HARNESS_RESULTS') or 'unset'}"


def memory() -> Check:
    """Whether the memory is enough for the miniature models."""
    import psutil

    found = psutil.virtual_memory()
    text = f"{found.available / GIB:.1f} of {found.total / GIB:.1f} GiB free"
    if found.available < 2 * GIB:
        return Check("Memory", PROBLEM, text, "close other programs: the miniature needs 2 GiB")
    return Check("Memory", OK, text)


def disk(folder: Path | None = None) -> Check:
    """Whether there is room for runs."""
    folder = folder or Path(os.environ.get("HARNESS_RESULTS") or Path.cwd())
    free = shutil.disk_usage(folder if folder.exists() else Path.cwd()).free
    text = f"{free / GIB:.1f} GiB free at {folder}"
    if free < GIB:
        return Check("Disk", PROBLEM, text, "free some space, or set HARNESS_RESULTS to a folder on a larger disk")
    return Check("Disk", OK, text)


def git() -> Check:
    """Whether runs can record the commit they were made with."""
    if shutil.which("git"):
        return Check("git", OK, shutil.which("git"))
    return Check("git", NOTE, "not found", "install git: without it runs are recorded without a commit")


def dependencies() -> Check:
    """Whether every package that this one needs is here in a version that fits."""
    bad = missing(extra=None)
    if bad is None:
        return Check("Packages", NOTE, f"{DISTRIBUTION} is not installed, this is a bare checkout", "`python -m pip install -e .` in it")
    if bad:
        return Check("Packages", PROBLEM, "; ".join(bad), "`python -m pip install -e .` in the checkout, or `make run`")
    return Check("Packages", OK, "all there, in versions that fit")


def extras() -> Check:
    """Which optional extras are not installed."""
    if missing(extra=None) is None:
        return Check("Extras", NOTE, "unknown in a bare checkout")
    names = importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    lacking = {name: missing(extra=name) for name in names}
    lacking = {name: bad for name, bad in lacking.items() if bad}
    if not lacking:
        return Check("Extras", OK, ", ".join(sorted(names)))
    text = "; ".join(f"{name} ({', '.join(bad)})" for name, bad in lacking.items())
    return Check("Extras", NOTE, f"missing: {text}", f"`python -m pip install '{DISTRIBUTION}[{','.join(lacking)}]'`, only if you want them")


def missing(extra: str | None) -> list[str] | None:
    """What an extra (None: the package itself) needs and this environment lacks; None when we are not installed."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    needs = [Requirement(line) for line in lines]
    wanted = [need for need in needs if need.marker is None or need.marker.evaluate({"extra": extra or ""})]
    base = {need.name for need in needs if need.marker is None}
    return [text for need in wanted if extra is None or need.name not in base for text in _lack(need.name, need.specifier)]


def _lack(name: str, fits: object) -> list[str]:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return [f"{name} is missing"]
    return [] if fits.contains(version, prereleases=True) else [f"{name} {version} does not fit {fits}"]


def weights(folder: Path = WEIGHTS) -> Check:
    """Whether the miniature models came with the installation."""
    lacking = [name for name in ("pipeline", "clip") if not any((folder / name).rglob("*.safetensors"))]
    if lacking:
        advice = "install again from a complete copy, or train them: `harness world build`"
        return Check("Miniature", PROBLEM, f"no weights in {', '.join(str(folder / name) for name in lacking)}", advice)
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    return Check("Miniature", OK, f"{size / 1e6:.0f} MB of weights in {folder}")


def torchvision() -> Check:
    """Whether torchvision can be imported, by itself or with the guard's help."""
    from harness import guard

    try:
        state = guard.install()
    except HarnessError as error:
        return Check("torchvision", PROBLEM, "broken", str(error))
    words = {"absent": "not installed, and not needed", "mended": "its compiled operators do not fit this torch; the guard has mended the import"}
    return Check("torchvision", OK, words.get(state, f"{importlib.metadata.version('torchvision')}, healthy"))


def torch() -> Check:
    """Which torch this is and what it computes on."""
    try:
        import torch as found
    except (ImportError, OSError) as error:
        return Check("torch", PROBLEM, f"cannot be imported: {error}", "`python -m pip install torch`")
    if found.cuda.is_available():
        free, total = found.cuda.mem_get_info()
        name = found.cuda.get_device_name()
        return Check("torch", OK, f"{found.__version__} on {name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free")
    if provenance.gpus():
        return Check("torch", PROBLEM, f"{found.__version__} sees no GPU, but the driver does: {provenance.gpus()[0]['name']}",
                     "install the CUDA build of torch that fits the driver; until then everything runs on the CPU")
    mps = found.backends.mps.is_available()
    return Check("torch", OK, f"{found.__version__} on {'Apple GPU (mps)' if mps else 'CPU'}, {found.get_num_threads()} threads")
