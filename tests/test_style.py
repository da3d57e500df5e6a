"""The house rules that a machine can hold: sizes, types, docstrings, no pickles, the order of the rooms, clean notebooks."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from harness import params
from harness.runs import notebooks

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "harness").rglob("*.py"))
NOTEBOOKS = [path for path in sorted((ROOT / "notebooks").rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]
PRESETS = sorted((ROOT / "notebooks").rglob("presets/*.yaml"))
LONGEST_FUNCTION, LONGEST_FILE, LONGEST_CELL, LONGEST_CELL_FUNCTION = 40, 300, 25, 10
Function = ast.FunctionDef | ast.AsyncFunctionDef
# Each room may import those before it and what everything shares; none may import one that stands after it.
ORDER = ("world", "consent", "finetune", "sample", "embed", "audit", "stats", "inference", "calibrate", "report")
# What loads a pickle, by the name under which it is called.
PICKLES = re.compile(r"^(pickle|cPickle|dill|cloudpickle|joblib|shelve)\.(load|loads|open|Unpickler)$|^torch\.load$|^(pd|pandas)\.read_pickle$")


def trees() -> list[tuple[Path, ast.Module]]:
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in FILES]


def functions() -> list[tuple[str, Function]]:
    return [(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node) for path, tree in trees() for node in ast.walk(tree) if isinstance(node, Function)]


def public(tree: ast.Module) -> list[Function | ast.ClassDef]:
    """Functions and classes at the top of a module, and methods of such classes, without a leading underscore."""
    tops = [node for node in tree.body if isinstance(node, (ast.ClassDef, *Function.__args__)) and not node.name.startswith("_")]
    protocols = [top for top in tops if isinstance(top, ast.ClassDef) and "Protocol" in map(ast.unparse, top.bases)]
    methods = [node for top in tops if isinstance(top, ast.ClassDef) and top not in protocols for node in top.body if isinstance(node, Function.__args__)]
    return tops + [node for node in methods if not node.name.startswith("_")]


def test_there_is_something_to_look_at() -> None:
    assert len(FILES) >= 20 and len(functions()) >= 150
    assert NOTEBOOKS or not (ROOT / "README.md").exists()


def test_functions_are_short() -> None:
    long = [f"{name}: {node.end_lineno - node.lineno + 1} lines" for name, node in functions() if node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION]
    assert long == []


def test_most_functions_are_shorter_still() -> None:
    lengths = sorted(node.end_lineno - node.lineno + 1 for _, node in functions())
    assert lengths[len(lengths) * 9 // 10] <= 25


def test_files_are_short() -> None:
    long = {str(path.relative_to(ROOT)): count for path in FILES if (count := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST_FILE}
    assert long == {}


def test_every_argument_and_return_is_typed() -> None:
    bare = []
    for name, node in functions():
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
        bare += [f"{name}({each.arg})" for each in arguments if each and each.annotation is None and each.arg not in ("self", "cls")]
        bare += [f"{name} -> ?"] if node.returns is None else []
    assert bare == []


def test_public_functions_say_what_they_do() -> None:
    assert [f"{path.relative_to(ROOT)}:{node.lineno} {node.name}" for path, tree in trees() for node in public(tree) if not ast.get_docstring(node)] == []


def test_modules_say_what_they_are_for() -> None:
    assert [str(path.relative_to(ROOT)) for path, tree in trees() if path.stat().st_size and not ast.get_docstring(tree)] == []


def test_no_pickle_is_loaded() -> None:
    calls = [(path, node) for path, tree in trees() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert len(calls) > 500
    assert [f"{path.name}:{node.lineno}" for path, node in calls if PICKLES.match(ast.unparse(node.func))] == []
    allowing = [keyword for _, node in calls for keyword in node.keywords if keyword.arg == "allow_pickle" and getattr(keyword.value, "value", True)]
    assert allowing == []


def imports(tree: ast.Module) -> set[str]:
    """Rooms of this package that a module imports, inside functions too, other than for type checkers alone."""
    checking = {id(each) for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) for each in ast.walk(node)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in checking:
            names = [alias.name for alias in node.names] if node.module == "harness" else [(node.module or "").removeprefix("harness.")]
            found |= {name.split(".")[0] for name in names} if (node.module or "").split(".")[0] == "harness" else set()
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("harness.")}
    return found


def test_nothing_imports_what_stands_to_its_right() -> None:
    wrong = []
    for path, tree in trees():
        room = path.relative_to(ROOT / "harness").parts[0].removesuffix(".py")
        if room in ORDER:
            wrong += [f"{path.relative_to(ROOT)} imports {other}" for other in imports(tree) if other in ORDER[ORDER.index(room) + 1:] and not shared(room, other)]
    assert wrong == []


def shared(room: str, other: str) -> bool:
    """A scorer ends in a finding, so ``audit`` may use the statistics; the world writes data cards for what it draws."""
    return (room, other) in {("audit", "stats"), ("audit", "inference"), ("world", "consent")}


# --- notebooks and presets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_clean_and_readable(path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in found["cells"] if cell["cell_type"] == "code"]
    assert notebooks.read(path).parameters and notebooks.read(path).question
    assert "widgets" not in found["metadata"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert [notebooks.text(cell).splitlines()[0] for cell in code if len(notebooks.text(cell).splitlines()) > LONGEST_CELL] == []
    titles = [line for cell in found["cells"] if cell["cell_type"] == "markdown" for line in notebooks.text(cell).splitlines() if line.startswith("# ")]
    assert len(titles) == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_tells_and_the_harness_does(path: Path) -> None:
    for cell in notebooks.load(path)["cells"]:
        if cell["cell_type"] != "code":
            continue
        plain = re.sub(r"^\s*[!%].*$", "pass", notebooks.text(cell), flags=re.MULTILINE)
        long = [node.name for node in ast.walk(ast.parse(plain)) if isinstance(node, Function) and node.end_lineno - node.lineno + 1 > LONGEST_CELL_FUNCTION]
        assert long == []


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.name)
def test_a_preset_starts_with_its_command_and_fits_its_notebook(path: Path) -> None:
    notebook, preset = path.name.removesuffix(".yaml").rsplit(".", 1)
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert re.fullmatch(rf"# harness run notebooks/{notebook}\.ipynb --preset {preset}( -p \w+=\S+)*", first)
    params.read_preset(path, notebooks.read(path.parents[1] / f"{notebook}.ipynb").parameters)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_its_presets(path: Path) -> None:
    assert set(notebooks.read(path).presets()) >= {"smoke", "tiny", "t4", "a100"}
