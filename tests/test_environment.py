"""pyproject.toml, environment.yml and constraints.txt say the same, and say what the code really imports."""

from __future__ import annotations

import ast
import importlib.metadata
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ASKED_FOR = {"jupyterlab", "ipywidgets", "matplotlib"}  # used by people and in notebooks, if by no module


def project(root: Path) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


def declared(root: Path, *extras: str) -> list[str]:
    found = project(root)
    return found["dependencies"] + [line for extra in extras for line in found["optional-dependencies"][extra]]


def pins(root: Path) -> dict[str, Requirement]:
    lines = [line for line in (root / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def closure(lines: list[str]) -> set[str]:
    """Names of everything installed that ``lines`` bring, directly or not."""
    found, todo = set(), [(Requirement(line), "") for line in lines]
    while todo:
        need, extra = todo.pop()
        name = canonicalize_name(need.name)
        if (need.marker and not need.marker.evaluate({"extra": extra})) or (name, frozenset(need.extras)) in found:
            continue
        found.add((name, frozenset(need.extras)))
        below = importlib.metadata.requires(name) or []
        todo += [(Requirement(line), each) for line in below for each in (need.extras or {""})]
    return {name for name, _ in found}


def test_conda_and_pip_have_the_same_dependencies(root: Path) -> None:
    rows = yaml.safe_load((root / "environment.yml").read_text())["dependencies"]
    listed = next(row["pip"] for row in rows if isinstance(row, dict))
    assert set(listed) - {"-e .", "-c constraints.txt"} == set(declared(root, *project(root)["optional-dependencies"]))
    assert "-e ." in listed and "-c constraints.txt" in listed


def test_conda_has_a_python_that_fits(root: Path) -> None:
    rows = yaml.safe_load((root / "environment.yml").read_text())["dependencies"]
    python = next(Requirement(row) for row in rows if isinstance(row, str) and row.startswith("python"))
    oldest = project(root)["requires-python"].removeprefix(">=")
    assert python.specifier.contains(oldest) and python.specifier.contains("3.12") and not python.specifier.contains("3.10")


def test_dependencies_are_ranges_and_constraints_are_pins(root: Path) -> None:
    assert all(">=" in line and "==" not in line for line in declared(root, "test", "exposure"))
    assert len(pins(root)) > 100
    assert all([spec.operator for spec in pin.specifier] == ["=="] for pin in pins(root).values())


def test_every_pin_fits_its_range(root: Path) -> None:
    for line in declared(root, "test", "exposure"):
        need, pin = Requirement(line), pins(root)[canonicalize_name(Requirement(line).name)]
        assert need.specifier.contains(next(iter(pin.specifier)).version, prereleases=True), (line, str(pin))


def test_everything_that_is_brought_in_is_pinned_to_what_is_tested(root: Path) -> None:
    found = closure(declared(root, "test", "exposure"))
    assert len(found) > 100
    here = sys.version_info[:2] == (3, 11)
    for name in found - {"likeness-harness"}:
        assert name in pins(root) or not here, f"constraints.txt lacks {name}"
        version = importlib.metadata.version(name).split("+")[0]
        assert name not in pins(root) or pins(root)[name].specifier.contains(version, prereleases=True), f"{name} {version} is not the pinned one"


def imported(folder: Path) -> set[str]:
    """Top-level names that the code of a folder imports, standard library and its own left out."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").split(".")[0])
    return found - set(sys.stdlib_module_names) - {"harness", "tests", "tiny", "conftest", "__future__"}


@pytest.fixture(scope="module")
def distributions() -> dict[str, set[str]]:
    return {name: {canonicalize_name(each) for each in found} for name, found in importlib.metadata.packages_distributions().items()}


def test_what_the_harness_imports_is_declared(root: Path, distributions: dict[str, set[str]]) -> None:
    names = {canonicalize_name(Requirement(line).name) for line in declared(root, *project(root)["optional-dependencies"])}
    optional = {"torchvision", "bitsandbytes"}  # only the guard asks for the one, by name; the other is for GPUs, and its absence is a sentence
    found = imported(root / "harness")
    assert {"torch", "yaml"} <= found
    for module in found - optional:
        assert distributions.get(module, {module}) & names, f"harness imports {module}, which pyproject.toml does not declare"


def test_what_is_declared_is_used(root: Path, distributions: dict[str, set[str]]) -> None:
    """A runtime dependency that no module imports belongs in an extra, or nowhere."""
    used = {dist for module in imported(root / "harness") for dist in distributions.get(module, {module})}
    used |= {"ipykernel", "dicebear-styles"}  # the kernel that papermill starts; definitions that are read as package data
    unused = {canonicalize_name(Requirement(line).name) for line in declared(root)} - used - ASKED_FOR
    assert unused == set()


def test_every_file_of_the_package_is_shipped(root: Path) -> None:
    data = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert data["harness.world"] == ["weights/**/*"]
    endings = {pattern.rpartition("*")[2] for pattern in data["harness"]} | {".py", ".pyc"}
    files = [path for path in (root / "harness").rglob("*") if path.is_file() and "weights" not in path.parts]
    assert files and {path.suffix for path in files} <= endings
