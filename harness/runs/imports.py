"""The code that a notebook can reach: what it imports, what those import in turn, and the data beside them. Read, never run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import takewhile
from pathlib import Path

from harness import provenance

PACKAGE, NAME = provenance.PACKAGE, provenance.PACKAGE.name
SHELL = re.compile(r"^\s*[!%].*$|^.*=\s*[!%].*$", re.MULTILINE)
NAMED = re.compile(rf"{NAME}(\.\w+)+")


def reach(sources: Sequence[str], folders: Sequence[Path] = ()) -> dict[str, str]:
    """Name and hash (16 hexadecimal digits) of every file of this package that code cells can reach, imports inside functions too.

    Modules that lie in ``folders`` (where the notebook runs, and where it lies) are followed as well. Data files count for each
    room that is reached, and wherever a module names them by a path. Cells that cannot be parsed reach everything.
    """
    try:
        trees = [ast.parse(_without_shell(source)) for source in sources]
    except (SyntaxError, ValueError):
        return everything()
    waiting = {name for tree in trees for name in _imported(tree, "")} | _in_shell(sources)
    found: dict[str, Path] = {}
    data: set[Path] = set()
    while waiting:
        name = waiting.pop()
        path = _file(name, folders)
        if path is None or name in found:
            continue
        found[name] = path
        imported, named = _parsed(name, path, provenance.stamp(path))
        waiting |= imported - set(found)
        data |= named
    return _hashed({*found.values(), *_data(found), *data}, folders)


def everything() -> dict[str, str]:
    """The same for every file of this package."""
    return _hashed(provenance.files(PACKAGE), ())


def _without_shell(source: str) -> str:
    """A cell as plain Python: magics and shell lines are not."""
    return "" if source.lstrip().startswith("%%") and not source.lstrip().startswith(("%%time", "%%capture")) else SHELL.sub("pass", source)


def _in_shell(sources: Sequence[str]) -> set[str]:
    """This package as shell lines start it: the command itself, or ``python -m`` with one of its modules."""
    lines = "\n".join(match.group() for source in sources for match in SHELL.finditer(source))
    commands = {f"{NAME}.__main__"} if re.search(rf"\b{NAME}\b", lines) else set()
    return commands | {match.group() for match in NAMED.finditer(lines)}


def _file(name: str, folders: Sequence[Path]) -> Path | None:
    """Where a module lies, if it is ours or lies in one of the folders."""
    roots = [PACKAGE.parent] if name.split(".")[0] == NAME else folders
    for root in roots:
        base = root.joinpath(*name.split("."))
        for path in (base / "__init__.py", base.with_name(f"{base.name}.py")):
            if path.is_file():
                return path
    return None


@cache
def _parsed(name: str, path: Path, stamp: tuple[int, int]) -> tuple[frozenset[str], frozenset[Path]]:
    """What a module imports, and the data that it names by a path."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return frozenset(_imported(tree, package)), frozenset(_named_data(tree, path))


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    """Full names of what may be modules, with the packages above them; imports for type checkers alone are left out."""
    checking = {id(each) for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
                for part in node.body for each in ast.walk(part)}
    for node in ast.walk(tree):
        if id(node) not in checking:
            for name in _names(node, package):
                parts = name.split(".")
                yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def _names(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        above = package.split(".")[:len(package.split(".")) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        return [base, *(f"{base}.{alias.name}" for alias in node.names)]
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and NAMED.fullmatch(node.value):
        return [node.value]  # for importlib, as the table of commands does
    return []


def _named_data(tree: ast.Module, path: Path) -> Iterator[Path]:
    """Files of this package that a module names as ``somewhere / "world" / "weights"``, relative to itself or to the package."""
    joins = [node for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)]
    inner = {id(node.left) for node in joins}
    for words in (_words(node) for node in joins if id(node) not in inner):
        for base in (path.parent, PACKAGE) if words else ():
            yield from _data_under(base.joinpath(*words))


def _words(node: ast.expr) -> list[str]:
    """The text constants right after the start of a path, up to the first part that is computed."""
    parts: list[ast.expr] = []
    while isinstance(node, ast.BinOp):
        parts, node = [node.right, *parts], node.left
    texts = (part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else None for part in parts)
    return list(takewhile(lambda text: text is not None, texts))


def _data_under(path: Path) -> Iterator[Path]:
    if path.exists() and path.resolve().is_relative_to(PACKAGE):
        yield from (file for file in provenance.files(path) if file.suffix != ".py")


def _data(found: dict[str, Path]) -> Iterator[Path]:
    """The data of every package that is reached: files that are no modules, beside it or in folders that are no packages."""
    for folder in {path.parent for name, path in found.items() if name.split(".")[0] == NAME}:
        for child in folder.iterdir():
            if child.name not in provenance.IGNORED and not (child / "__init__.py").exists():
                yield from _data_under(child)


def _hashed(paths: set[Path] | Iterator[Path], folders: Sequence[Path]) -> dict[str, str]:
    roots = sorted([PACKAGE.parent, *folders], key=lambda root: len(root.parts), reverse=True)  # the nearest: where we stand must not show
    names = {next(path.relative_to(root).as_posix() for root in roots if path.is_relative_to(root)): path for path in paths}
    return {name: provenance.hash_once(names[name], provenance.stamp(names[name])) for name in sorted(names)}
