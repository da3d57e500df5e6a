"""``harness ls``: what each notebook asks, takes and has presets for."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.errors import HarnessError
from harness.params import Parameter
from harness.runs import notebooks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``harness ls``."""
    parser.add_argument("folder", type=Path, nargs="?", help="where the notebooks are (default: notebooks/ of this project)")


def main(args: argparse.Namespace) -> int:
    """Print every notebook; 1 when one of them cannot be read, which is named."""
    folder = args.folder or notebooks.root(Path.cwd()) / "notebooks"
    paths = [path for path in sorted(folder.rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]
    if not paths:
        raise HarnessError(f"{folder}: there are no notebooks here; name the folder that has them: `harness ls FOLDER`")
    return max([_print(path) for path in paths])


def _print(path: Path) -> int:
    try:
        found = notebooks.read(path)
    except HarnessError as error:
        print(f"error: {error}\n", file=sys.stderr)
        return 1
    print(f"{path}\n  {found.title}")
    if found.question:
        print(f"  {found.question}")
    print(f"  presets: {', '.join(found.presets()) or 'none'}")
    print("\n".join(_rows(found.parameters)) + "\n")
    return 0


def _rows(parameters: list[Parameter]) -> list[str]:
    heads = [f"{parameter.name}: {parameter.type_name} = {parameter.default!r}" for parameter in parameters]
    width = min(max(map(len, heads), default=0), 48)
    return [f"    {head:<{width}}  {parameter.help}" for head, parameter in zip(heads, parameters)]
