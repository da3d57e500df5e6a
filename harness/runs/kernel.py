"""papermill's kernel and papermill's saving, made safe: the kernel dies with its launcher, and what is saved is whole and masked."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from harness import provenance
from harness.runs import child

SCHEME = "likeness:"  # how papermill knows that a path is written by `Notebooks`
TEXTS = ("source", "text", "data", "traceback")  # of cells and their outputs
RAISE = "--InteractiveShell.system_raise_on_error=True"  # from the first cell on a failed shell line fails its cell
FIXED = {"PYTHONHASHSEED": "0", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # same seed, same bits, as far as the libraries can


def execute(held: Mapping[str, Any], saved: Path, parameters: Mapping[str, Any], environment: Mapping[str, str], lock: int) -> None:
    """Run the cells of a notebook (its JSON) in a fresh kernel, showing their output as it comes and saving the notebook after each.

    ``environment`` is the kernel's alone, so that several notebooks may run in threads of one process; ``lock`` is a file
    descriptor that the kernel inherits. Raises what papermill raises: PapermillExecutionError, DeadKernelError and others.
    """
    import nbformat
    import papermill
    from traitlets.config import Config

    _register()
    plain = str(saved).replace("{", "{{").replace("}", "}}")  # papermill fills parameters into paths
    papermill.execute_notebook(
        nbformat.reads(json.dumps(held), as_version=4), f"{SCHEME}{plain}", parameters=dict(parameters), kernel_name="python3", progress_bar=False,
        stdout_file=sys.stdout, stderr_file=sys.stderr, autosave_cell_every=0,
        config=Config(KernelManager={"transport_encryption": "auto"}),  # other users of this machine could listen
        **_kernel({**FIXED, **os.environ, **environment}, lock),
    )


@cache
def _register() -> None:
    from papermill.iorw import papermill_io

    papermill_io.register(SCHEME, Notebooks)


def _kernel(environment: dict[str, str], lock: int) -> dict[str, Any]:
    """Options that make nbclient start the kernel as our child, and end it without an interrupt when no cell is at work.

    jupyter_client sends SIGINT before every shutdown; an idle kernel answers with "KeyboardInterrupt caught in kernel".
    """
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.manager import AsyncKernelManager

    at_work = [False]

    class Manager(AsyncKernelManager):
        """A kernel manager for one notebook."""

        async def start_kernel(self, **options: Any) -> None:
            """Start it with this very Python, our environment, the lock, and the order to die with this process."""
            own = get_kernel_dict()  # a "python3" that the user has installed may be another Python
            self.kernel_spec.argv, self.kernel_spec.env, self.kernel_spec.metadata = [*own["argv"], RAISE], {}, own.get("metadata", {})
            posix = {"preexec_fn": child.die_with_parent, "pass_fds": (lock,)} if os.name == "posix" else {}
            await super().start_kernel(env=environment, **posix, **options)

        async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:
            """End it, politely where it is idle."""
            if self.has_kernel and not at_work[0] and not now:
                await self.request_shutdown(restart=restart)
                await self.finish_shutdown(restart=restart)
            await super().shutdown_kernel(now=now, restart=restart)

    def begins(**_: Any) -> None:
        at_work[0] = True

    def ends(**_: Any) -> None:
        at_work[0] = False

    return {"kernel_manager_class": Manager, "on_cell_start": begins, "on_cell_executed": ends}


def _masked(value: Any) -> Any:
    """A notebook's JSON without secrets. nbformat keeps texts as lists of lines, so they are put together first: a secret may have several."""
    return provenance.mask(_whole(value))


def _whole(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _whole(item, "data" if name == "data" else key) for key, item in value.items()}
    if isinstance(value, list) and name in TEXTS and all(isinstance(line, str) for line in value):
        return "".join(value) if name != "traceback" else ["\n".join(value)]
    return [_whole(item) for item in value] if isinstance(value, list) else value


class Notebooks:
    """Where papermill writes: whole files without secrets, without widgets, which viewers refuse, and without paths of this machine."""

    @classmethod
    def write(cls, text: str, path: str) -> None:
        """Write a notebook's JSON."""
        from harness.images import atomic_write

        found = json.loads(text)
        found["metadata"].pop("widgets", None)
        paths = found["metadata"].get("papermill", {})
        paths |= {name: os.path.basename(value) for name, value in paths.items() if name.endswith("_path") and isinstance(value, str)}
        atomic_write(Path(path.removeprefix(SCHEME)), json.dumps(_masked(found), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def pretty_path(cls, path: str) -> str:
        """A path as papermill shows it."""
        return path.removeprefix(SCHEME)
