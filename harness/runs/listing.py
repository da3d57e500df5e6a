"""``harness ls``: what each notebook asks and takes, its presets, and what they took or would take on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import params
from harness.errors import HarnessError
from harness.params import Parameter
from harness.forecast import costs, preflight
from harness.runs import notebooks, presets, results, scan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``harness ls``."""
    parser.add_argument("folder", type=Path, nargs="?", help="where the notebooks are (default: notebooks/ of this project)")
    parser.add_argument("--price", type=float, help=f"what an hour of this machine costs (default: ${costs.PRICE})")


def main(args: argparse.Namespace) -> int:
    """Print every notebook; 1 when one of them cannot be read, which is named."""
    folder = args.folder or notebooks.root(Path.cwd()) / "notebooks"
    paths = [path for path in sorted(folder.rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]
    if not paths:
        raise HarnessError(f"{folder}: there are no notebooks here; name the folder that has them: `harness ls FOLDER`")
    price, history = costs.price(args.price), scan.runs(results(paths[0]))
    return max([_print(path, history, price) for path in paths])


def _print(path: Path, history: preflight.History, price: float | None) -> int:
    try:
        found = notebooks.read(path)
        expected = list(_presets(found, [run for run in history if run[1]["notebook"] == found.name], price))
    except HarnessError as error:
        print(f"error: {error}\n", file=sys.stderr)
        return 1
    print(f"{path}\n  {found.title}")
    if found.question:
        print(f"  {found.question}")
    print("\n".join(expected or ["  presets: none"]))
    print("\n".join(_rows(found.parameters)) + "\n")
    return 0


def _presets(notebook: notebooks.Notebook, history: preflight.History, price: float | None) -> Iterator[str]:
    """A line for each preset, with its forecast here; only what was counted before is counted, so that this stays quick."""
    names = notebook.presets()
    width = max(map(len, names), default=0)
    for name, path in names.items():
        resolved = {**notebook.defaults, **params.read_preset(path, notebook.parameters)}
        lacking = " ".join(f"-p {setting}=…" for setting in presets.needs(path))
        expected = f"wants {lacking}, which decides how long it takes" if lacking else _expected(notebook, resolved, history, price)
        yield f"  preset {name:<{width}}  {expected}"


def _expected(notebook: notebooks.Notebook, resolved: dict[str, Any], history: preflight.History, price: float | None) -> str:
    found = preflight.predict(preflight.Question(notebook, resolved), history, price, start=False)
    if found.seconds is None:
        return "never run here"
    return f"{preflight.short(found, price)}; {found.method.removeprefix('time: ').split('; ')[0].split(': ')[0]}"


def _rows(parameters: list[Parameter]) -> list[str]:
    heads = [f"{parameter.name}: {parameter.type_name} = {parameter.default!r}" for parameter in parameters]
    width = min(max(map(len, heads), default=0), 48)
    return [f"    {head:<{width}}  {parameter.help}" for head, parameter in zip(heads, parameters)]
