"""The code that a notebook can reach: what it imports, what those import in turn, and the data beside them. Read, never run."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import takewhile
from pathlib import Path

from harness import provenance
from harness.errors import HarnessError

PACKAGE, NAME = provenance.PACKAGE, provenance.PACKAGE.name
CALLS = ("system", "getoutput", "run_line_magic", "run_cell_magic")  # what IPython makes of shell lines and magics
WORD = re.compile(r"[\w./~-]+")
LONGEST = 200  # characters of a word that could name a file
PYTHON = ("%%time", "%%capture", "%%prun")  # %%timeit too
SCRIPTS = (".py", ".sh", ".ipynb")
NAMED = re.compile(rf"{NAME}(\.\w+)+")


def reach(sources: Sequence[str], folders: Sequence[Path] = ()) -> dict[str, str]:
    """Name and hash (16 hexadecimal digits) of every file of this package that code cells can reach, imports inside functions too.

    Modules that lie in ``folders`` (where the notebook runs, and where it lies) are followed as well. Data files count for each
    room that is reached, and wherever a module names them by a path; scripts and modules that shell lines and magics name count as
    well. Cells that cannot be parsed reach everything. Raises HarnessError for a module that is no Python.
    """
    try:
        trees = [tree for source in sources for tree in _trees(source)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return everything(folders)
    commands = [command for tree in trees for command in _commands(tree)]
    scripts = set(_scripts(commands, folders))
    places = [*folders, *sorted({script.parent for script in scripts} - {*folders})]
    waiting = {name for tree in trees for name in _imported(tree, "")} | _in_shell(commands)
    waiting |= {name for script in scripts if script.suffix == ".py" for name in _parsed("", script, provenance.stamp(script))[0]}
    found: dict[str, Path] = {}
    data: set[Path] = scripts
    while waiting:
        name = waiting.pop()
        path = _file(name, places)
        if path is None or name in found:
            continue
        found[name] = path
        imported, named = _parsed(name, path, provenance.stamp(path))
        waiting |= imported - set(found)
        data |= named
    return _hashed({*found.values(), *_data(found), *data}, folders)


def everything(folders: Sequence[Path] = ()) -> dict[str, str]:
    """The same for every file of this package, and every module in ``folders`` and right below them."""
    beside = {path for folder in folders for pattern in ("*.py", "*/*.py") for path in folder.glob(pattern) if path.is_file()}
    return _hashed({*provenance.files(PACKAGE), *beside}, folders)


def _trees(source: str) -> Iterator[ast.Module]:
    """A cell as Python, with calls in place of its magics and shell lines; of a cell magic that runs Python, what it runs."""
    try:
        yield ast.parse(source)
        return
    except SyntaxError:
        from IPython.core.inputtransformer2 import TransformerManager  # only now: it takes a moment

    if source.lstrip().startswith(PYTHON):
        yield from _trees(source.lstrip().partition("\n")[2])
    else:
        yield ast.parse(TransformerManager().transform_cell(source))


def _commands(tree: ast.Module) -> Iterator[str]:
    """The words of shell lines and magics."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CALLS:
            yield " ".join(str(word.value) for word in node.args if isinstance(word, ast.Constant))


def _scripts(commands: Sequence[str], folders: Sequence[Path]) -> Iterator[Path]:
    """Files that shell lines and magics name, seen from ``folders``; ``%run`` may leave the ending out."""
    for word in {word for command in commands for word in WORD.findall(command) if len(word) <= LONGEST}:
        for name in (word, f"{word}.py"):
            for path in (Path(os.path.abspath(folder / os.path.expanduser(name))) for folder in folders):
                if path.suffix in SCRIPTS and path.is_file():
                    yield path


def _in_shell(commands: Sequence[str]) -> set[str]:
    """Modules that shell lines and magics name, and this package as they start it: the command itself, or one of its modules."""
    lines = "\n".join(commands)
    ours = {f"{NAME}.__main__"} if re.search(rf"\b{NAME}\b", lines) else set()
    return ours | {word for word in re.findall(r"\w+(?:\.\w+)*", lines) if word.split(".")[0] != NAME and len(word) <= LONGEST} | {match.group() for match in NAMED.finditer(lines)}


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
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise HarnessError(f"{path}: not Python that can be read ({error}), and the notebook reaches it; mend it or take it away") from error
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
    names = {next((path.relative_to(root).as_posix() for root in roots if path.is_relative_to(root)), path.name): path for path in paths}
    return {name: provenance.hash_once(names[name], provenance.stamp(names[name])) for name in sorted(names)}
