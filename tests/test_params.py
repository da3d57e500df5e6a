"""Settings are read exactly, and everything else is refused with a sentence."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, strategies

from harness import params
from harness.errors import HarnessError

CELL = '''
# a comment of its own
steps: int = 20  # how many steps
learning_rate: float = 1e-4  # peak learning rate
flag: bool = True  # a switch
note: str = "a # b"  # text with a hash
size: int | None = None  # None: as the model says
seeds: list[int] = [1, 2]  # one image each
kind: Literal["a", "b"] = "a"  # one of two
'''


@dataclasses.dataclass(frozen=True)
class Example:
    """An example of settings."""

    prompt: str
    "what to draw"
    steps: int = 20
    """how many steps, 100 % of them"""
    rate: float | None = None
    "a rate"
    flip: bool = False
    "mirror half of the images"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("steps must be at least 1")


def parsed(*words: str) -> Example:
    parser = argparse.ArgumentParser()
    params.add_arguments(parser, Example)
    return params.from_args(Example, parser.parse_args(words))


def test_fields_of_a_dataclass_carry_help() -> None:
    found = {field.name: field for field in params.fields(Example)}
    assert list(found) == ["prompt", "steps", "rate", "flip"]
    assert found["prompt"].help == "what to draw" and found["prompt"].default is params.REQUIRED
    assert found["rate"].type_name == "float | None" and found["steps"].default == 20


def test_options_become_the_dataclass() -> None:
    assert parsed("--prompt", "x") == Example("x")
    assert parsed("--prompt", "x", "--steps", "3", "--rate", "1e-4", "--flip", "true") == Example("x", 3, 1e-4, True)
    assert parsed("--prompt", "x", "--flip", "false", "--rate", "none") == Example("x")


@pytest.mark.parametrize("words", [("--steps", "2.5"), ("--steps", "0"), ("--flip", "maybe"), ("--rate", "nan")])
def test_bad_options_are_refused(words: tuple[str, str]) -> None:
    with pytest.raises(HarnessError, match=words[0].strip("-")):
        parsed("--prompt", "x", *words)


def test_help_is_printable() -> None:
    parser = argparse.ArgumentParser()
    params.add_arguments(parser, Example)
    assert "100 % of them (int, default 20)" in " ".join(parser.format_help().split())


def test_a_cell_is_read() -> None:
    found = {parameter.name: parameter for parameter in params.read_cell(CELL)}
    assert [found["steps"].default, found["learning_rate"].default, found["seeds"].default] == [20, 1e-4, [1, 2]]
    assert found["note"].help == "text with a hash" and found["size"].type_name == "int | None"
    assert params.check(list(found.values()), {"kind": "b"}) == {"kind": "b"}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("import os", "only lines"),
        ("steps = 3  # no type", "only lines"),
        ("steps: int  # no default", "only lines"),
        ("steps: int = 2 * 3  # computed", "not a literal"),
        ("steps: int = len('a')  # computed", "not a literal"),
        ("steps: int = 3", "no help"),
        ("steps: int = 'three'  # wrong", "does not fit"),
        ("steps: int = 2.5  # wrong", "does not fit"),
        ("steps: dict = {}  # wrong", "not a type"),
        ("steps: int = 3  # once\nsteps: int = 4  # twice", "twice"),
        ("steps: int = = 3  # broken", "line 1"),
    ],
)
def test_a_bad_cell_is_refused(line: str, says: str) -> None:
    with pytest.raises(HarnessError, match=says):
        params.read_cell(line)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (bool, "false", False), (bool, "False", False), (bool, "0", False), (bool, "on", True), (bool, True, True),
        (float, "1e-4", 1e-4), (float, 3, 3.0), (int, "-7", -7), (str, "20", "20"), (str, "", ""),
        (int | None, "none", None), (int | None, "3", 3), (str | None, "null", None), (str | int, "3", 3),
        (list[int], "1, 2,3", [1, 2, 3]), (list[int], [1, "2"], [1, 2]), (list[str], "['a', 'b']", ["a", "b"]),
        (tuple[float, ...], "1,2", (1.0, 2.0)), (list[int], "[]", []), (Path, "a/b", Path("a/b")),
    ],
)
def test_values_become_their_type(kind: object, text: object, value: object) -> None:
    found = params.convert("x", kind, text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (bool, "nein"), (bool, 1), (bool, None), (int, True), (int, "1e3"), (int, 2.0), (int, None), (int, ""),
        (float, "inf"), (float, "nan"), (float, "fast"), (float, False), (str, 7), (str, 1.5), (str, None), (str, ["a"]),
        (list[int], "1,x"), (list[int], 3), (int | None, "x"), (Path, 3),
    ],
)
def test_values_of_another_type_are_refused(kind: object, value: object) -> None:
    with pytest.raises(HarnessError, match="`x"):
        params.convert("x", kind, value)


@given(strategies.floats(allow_nan=False, allow_infinity=False))
def test_every_float_survives_the_command_line(number: float) -> None:
    assert params.convert("x", float, repr(number)) == number


@given(strategies.integers())
def test_every_int_survives_the_command_line(number: int) -> None:
    assert params.convert("x", int, str(number)) == number


def test_a_misspelt_name_gets_a_suggestion() -> None:
    with pytest.raises(HarnessError, match="no parameter `step`; did you mean `steps`"):
        params.check(params.read_cell(CELL), {"step": 3})


def test_assignments() -> None:
    assert params.assignments(["a=1", "b = x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    for words in (["a"], ["=1"], ["a=1", "a=2"]):
        with pytest.raises(HarnessError):
            params.assignments(words)


def test_a_preset_is_read_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "nb.tiny.yaml"
    path.write_text("# harness run nb.ipynb --preset tiny\nlearning_rate: 1e-3\nflag: no\n")
    assert params.read_preset(path, params.read_cell(CELL)) == {"learning_rate": 1e-3, "flag": False}
    path.write_text("# nothing\n")
    assert params.read_preset(path, params.read_cell(CELL)) == {}


@pytest.mark.parametrize("text", ["stepz: 3", "steps: many", "- steps", "steps: [", "steps: 1\nsteps: 2", "steps: null"])
def test_a_bad_preset_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "nb.tiny.yaml"
    path.write_text(text)
    with pytest.raises(HarnessError, match="steps|nb.tiny.yaml"):
        params.read_preset(path, params.read_cell(CELL))
