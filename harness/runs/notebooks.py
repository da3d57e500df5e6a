"""What a notebook says about itself, read from its file without starting anything."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import params
from harness.errors import HarnessError

TAG = "parameters"
MARKS = (".git", "pyproject.toml")


@dataclass(frozen=True)
class Notebook:
    """What a notebook says about itself."""

    path: Path
    """Its file."""
    title: str
    """Its first heading."""
    question: str
    """Its first paragraph that ends in a question mark."""
    parameters: list[params.Parameter]
    """The settings of its parameters cell."""
    code_sha256: str
    """Hash of its code without the parameters cell."""
    sources: tuple[str, ...] = ()
    """The code cells without the parameters cell."""
    harness: Mapping[str, Any] = field(default_factory=dict)
    """What its metadata say to the harness: `work`, `refuse`."""
    held: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """Its whole JSON, so that what runs is what was hashed."""

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    @property
    def defaults(self) -> dict[str, Any]:
        """Every parameter with its default."""
        return {parameter.name: parameter.default for parameter in self.parameters}

    def presets(self) -> dict[str, Path]:
        """The preset files of this notebook by name, from ``presets/`` beside it."""
        found = sorted((self.path.parent / "presets").glob(f"{self.name}.*.yaml"))
        return {path.name[len(self.name) + 1:-len(".yaml")]: path for path in found}


def read(path: Path) -> Notebook:
    """Read a notebook file; raises HarnessError when it is not one or its parameters cell is lost or wrong."""
    found = load(path)
    cells = found["cells"]
    code = [cell for cell in cells if cell.get("cell_type") == "code"]
    tagged = [cell for cell in code if TAG in _tags(cell)]
    if len(tagged) != 1:
        raise HarnessError(f"{path}: {len(tagged) or 'no'} code cells are tagged `{TAG}`; give exactly one cell that tag "
                           "(JupyterLab: property inspector, the cog at the right, Cell Tags)")
    sources = tuple(text(cell).rstrip() for cell in code if cell is not tagged[0])
    parameters = params.read_cell(text(tagged[0]), where=f"{path}, parameters cell")
    words = [text(cell) for cell in cells if cell.get("cell_type") == "markdown"]
    digest = hashlib.sha256("\n\f\n".join(sources).encode()).hexdigest()
    told = found.get("metadata", {}).get("harness", {})
    if not isinstance(told, dict):
        raise HarnessError(f"{path}: its metadata `harness` must be a table, not a {type(told).__name__}")
    return Notebook(path, _title(words) or path.stem, _question(words), parameters, digest, sources, told, found)


def _tags(cell: dict[str, Any]) -> list[str]:
    metadata = cell.get("metadata")
    tags = metadata.get("tags") if isinstance(metadata, dict) else None
    return tags if isinstance(tags, list) else []


def load(path: Path) -> dict[str, Any]:
    """The JSON of a notebook; raises HarnessError when the file is missing or not a notebook."""
    try:
        if not path.is_file():
            near = sorted(other.name for other in path.parent.glob("*.ipynb")) if path.parent.is_dir() else []
            raise HarnessError(f"{path}: there is no such notebook; here are {', '.join(near) or 'none'}")
        found = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(found, ensure_ascii=False).encode()  # half a character (a lone surrogate) can be neither hashed nor saved
    except (ValueError, RecursionError) as error:
        raise HarnessError(f"{path}: not a notebook: {error}") from error
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read ({error.strerror}); check its name and permissions") from error
    if not isinstance(found, dict) or not isinstance(found.get("cells"), list) or not all(isinstance(cell, dict) for cell in found["cells"]):
        raise HarnessError(f"{path}: not a notebook of format 4: it has no list of cells")
    sources = [cell.get("source", "") for cell in found["cells"]]
    if not all(isinstance(line, str) for source in sources for line in (source if isinstance(source, list) else [source])):
        raise HarnessError(f"{path}: not a notebook of format 4: the source of cell {_odd(sources)} is neither text nor a list of lines")
    if not isinstance(found.get("metadata", {}), dict):
        raise HarnessError(f"{path}: not a notebook of format 4: its metadata are not a table")
    return found


def _odd(sources: list[Any]) -> int:
    """Number of the first cell whose source is no text."""
    return next(number for number, source in enumerate(sources, 1)
                if not all(isinstance(line, str) for line in (source if isinstance(source, list) else [source])))


def text(cell: dict[str, Any]) -> str:
    """A cell's source as one text."""
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(source)


def is_parameters(source: str) -> bool:
    """Whether a cell holds settings alone: a parameters cell, or the one that papermill adds to it."""
    try:
        return source.startswith("# Parameters") or bool(params.read_cell(source))
    except HarnessError:
        return False


def root(path: Path) -> Path:
    """The project that a file belongs to: its nearest folder above with a ``.git`` or ``pyproject.toml``, else its own folder."""
    path = path.resolve()
    start = path if path.is_dir() else path.parent
    for folder in (start, *start.parents):
        if any((folder / mark).exists() for mark in MARKS):
            return folder
    return start


def find(name: str) -> Path | None:
    """The file of the notebook called ``name`` seen from where we are, or None (Colab keeps notebooks elsewhere)."""
    here = Path.cwd()
    for folder in (here, here / "notebooks", root(here) / "notebooks", Path(__file__).parents[2] / "notebooks"):
        if (folder / f"{name}.ipynb").is_file():
            return folder / f"{name}.ipynb"
    return None


def _title(words: list[str]) -> str:
    for line in "\n".join(words).splitlines():
        if line.startswith("# "):
            return line[2:].strip()
    return ""


def _question(words: list[str]) -> str:
    """The first paragraph that ends in a question mark, without its markup."""
    for paragraph in re.split(r"\n\s*\n", "\n\n".join(words)):
        plain = re.sub(r"[*_`>]|^#+ .*$", "", paragraph, flags=re.MULTILINE)
        plain = " ".join(plain.split())
        if plain.endswith("?"):
            return re.sub(r"^(The )?question[.:]\s*", "", plain, flags=re.IGNORECASE)
    return ""
