"""Which preset a run takes: the one asked for, or the one that fits what this machine is."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from harness import provenance
from harness.errors import HarnessError
from harness.runs.notebooks import Notebook

SMALLEST, DEFAULT = "smoke", "tiny"
GPUS = (("a100", 38 << 10), ("t4", 14 << 10))  # largest first: the least MiB of GPU memory that a preset is meant for
ENOUGH = 2 << 30  # bytes of free memory that the miniature models need (as `harness doctor` says)


@dataclass(frozen=True)
class Machine:
    """What the choice of a preset looks at."""

    gpu: str
    """Name of the first GPU that torch can use, or ''."""
    gpu_mib: int
    """Its memory in MiB."""
    free_bytes: int
    """Free memory of the host."""


def machine() -> Machine:
    """This machine, as ``harness doctor`` finds it, without importing torch."""
    import psutil

    found = provenance.usable_gpus()
    memory = int(re.sub(r"\D", "", found[0]["memory"]) or 0) if found else 0
    return Machine(found[0]["name"] if found else "", memory, psutil.virtual_memory().available)


def choose(notebook: Notebook, asked: str | None, given: Collection[str] = (), here: Machine | None = None) -> tuple[str | None, str]:
    """(preset, why): the one asked for, else the one for this machine among those that there are; (None, why) without any.

    A preset whose first line names settings that it cannot know (``-p model=FOLDER_OR_HUB_ID``) is chosen only when they
    are ``given``. Raises HarnessError for a preset that is not there.
    """
    found = notebook.presets()
    if asked and asked not in found:
        raise HarnessError(f"{notebook.name} has no preset `{asked}`; there are {', '.join(found) or 'none'}")
    if asked:
        return asked, "asked for"
    here = here or machine()
    passed = []
    for name, why in _in_order(here):
        lacking = [setting for setting in needs(found[name]) if setting not in given] if name in found else []
        if name in found and not lacking:
            return name, "; ".join([why, *passed])
        passed += [f"`{name}` would want {', '.join(f'-p {setting}=…' for setting in lacking)}"] if lacking else []
    return None, "; ".join([f"{'no preset for this machine' if found else 'it has no presets'}, the notebook's own defaults", *passed])


def _in_order(here: Machine) -> list[tuple[str, str]]:
    """Presets worth a try on this machine, the best first, each with its reason."""
    fitting = [(name, f"{here.gpu} with {here.gpu_mib >> 10} GiB") for name, least in GPUS if here.gpu and here.gpu_mib >= least]
    if here.free_bytes < ENOUGH:
        return [*fitting, (SMALLEST, f"only {here.free_bytes / (1 << 30):.1f} GiB of memory are free")]
    return [*fitting, (DEFAULT, f"{here.gpu} with {here.gpu_mib >> 10} GiB" if here.gpu else "no GPU that torch can use")]


def needs(preset: Path) -> list[str]:
    """The settings that a preset's own command sets beside it, by its first line; raises HarnessError for what is no file."""
    try:
        with preset.open(encoding="utf-8", errors="replace") as lines:
            return re.findall(r"-p (\w+)=", lines.readline())
    except OSError as error:  # a folder or a dangling link of that name
        raise HarnessError(f"{preset}: cannot be read ({error.strerror}); check it and its permissions") from error
