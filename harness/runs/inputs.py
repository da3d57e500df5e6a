"""What goes into a run from outside: files and folders that its parameters name, by hash, with data card and licence."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness import provenance
from harness.errors import HarnessError, Refused

CARDS = "data_cards"
TABLE = "samples.csv"
HUB_NAMES, HUB_ID = ("model", "clip"), re.compile(r"(hf-hub:)?[\w.-]{1,96}/[\w.-]{1,96}")
KEY_HEAD = 4096  # bytes among which a key says what it is


@dataclass(frozen=True)
class Input:
    """One file or folder."""

    parameter: str
    """Which parameter names it."""
    path: str
    """As the parameter names it."""
    name: str
    """The same wherever the project lies: relative to the project, or the last part of a path elsewhere."""
    sha256: str
    """Of the bytes, for a folder of all names and bytes in it."""


def find(resolved: Mapping[str, Any], project: Path) -> list[Input]:
    """The file or folder behind every text parameter that names one, so that a changed input makes a new run.

    A word names one when it is there and has a ``/``, is a folder, or is a file with an ending: a plain word such as
    ``miniature`` is no input because a file happens to be called so. Raises Refused for a folder that holds the whole
    project or home and for a private key, and HarnessError for what cannot be read.
    """
    words = [(name, word) for name, value in resolved.items() for word in (value if isinstance(value, (list, tuple)) else [value])]
    return [_input(name, word, project) for name, word in words if isinstance(word, str) and _is_path(word)]


def portable(resolved: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The parameters with each path replaced by its portable name; ``found`` are inputs as dicts."""
    names = {(row["parameter"], row["path"]): row["name"] for row in found}
    return {key: [names.get((key, word), word) if isinstance(word, str) else word for word in value] if isinstance(value, (list, tuple))
            else names.get((key, value), value) if isinstance(value, str) else value for key, value in resolved.items()}


def described(found: Sequence[Input], project: Path) -> list[dict[str, Any]]:
    """The rows of a manifest: each input with the name of its data card and its licence, None where there is no card."""
    return [asdict(each) | _card(Path(each.path).expanduser(), project) for each in found]


def hub_commits(resolved: Mapping[str, Any]) -> dict[str, str]:
    """The commit that the local cache of the hub holds of each model that ``model`` or ``clip`` names (``owner/name``)."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub"))
    named = [(name, word) for name, word in resolved.items() if name.split("_")[-1] in HUB_NAMES and isinstance(word, str)]
    found = {}
    for name, word in named:
        ref = cache / f"models--{word.removeprefix('hf-hub:').replace('/', '--')}" / "refs" / "main"
        if HUB_ID.fullmatch(word) and not _is_path(word) and ref.is_file():
            found[f"{name}={word}"] = ref.read_text(encoding="utf-8", errors="replace").strip()
    return found


def _is_path(word: str) -> bool:
    try:
        path = Path(word).expanduser()
        return word.strip(". ") != "" and path.exists() and (len(path.parts) > 1 or path.is_dir() or path.suffix != "")
    except (OSError, ValueError, RuntimeError):  # too long a name, a NUL, an unknown ~user
        return False


def _input(parameter: str, word: str, project: Path) -> Input:
    path = Path(os.path.abspath(Path(word).expanduser()))
    if any(place.resolve().is_relative_to(path.resolve()) for place in (project, Path.home())):
        raise Refused(f"`{parameter}`: {path} holds the whole project or home; name the folder of the data themselves")
    if _is_key(path):
        raise Refused(f"`{parameter}`: {path} is a private key, and what goes into a run is written down; name it in an environment variable instead")
    inside = [path.relative_to(root).as_posix() for root in (project, project.resolve()) if path.is_relative_to(root)]
    try:
        return Input(parameter, word, inside[0] if inside else path.name, provenance.sha256(path))
    except OSError as error:
        raise HarnessError(f"`{parameter}`: {error.filename or path} cannot be read ({error.strerror}); check it and its permissions") from error


def _is_key(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return b"PRIVATE KEY-----" in stream.read(KEY_HEAD)
    except OSError:  # a folder, or what is said of it below
        return False


def _card(path: Path, project: Path) -> dict[str, Any]:
    """Name and licence of the card that describes a folder: one that lies in it, or one of the project with its table's hash."""
    for card, front in _fronts(path, project):
        return {"card": card, "licence": str(front["license"])}
    return {"card": None, "licence": None}


def _fronts(path: Path, project: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if not path.is_dir():
        return
    table = path / TABLE
    digest = provenance.sha256(table) if table.is_file() else None
    for card in [*sorted(path.glob("*.md")), *sorted((project / CARDS).glob("*.md"))]:
        front = _front(card)
        if front.get("license") and (card.parent == path or digest and front.get("table_sha256") == digest):
            yield card.name, front


def _front(card: Path) -> dict[str, Any]:
    """The YAML at the head of a Markdown file; {} where there is none that can be read."""
    import yaml

    try:
        head, front, _ = card.read_text(encoding="utf-8").split("---\n", 2)
        found = yaml.safe_load(front) if not head.strip() else None
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
