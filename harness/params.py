"""Settings: read from dataclasses and from a notebook's parameters cell, and checked before anything starts.

Both say the same four things about a setting: its name, its type, its default and its help. Values come from the
command line as text and from YAML as typed scalars; either way they end as the declared type or in one sentence.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import inspect
import io
import math
import textwrap
import tokenize
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import HarnessError

REQUIRED = dataclasses.MISSING
SCALARS: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool, "None": types.NoneType}
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
Settings = TypeVar("Settings")


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One setting: its name, type (a plain type, ``X | None``, ``list[X]`` or ``Literal``), default and help."""

    name: str
    type: Any
    default: Any
    help: str

    @property
    def type_name(self) -> str:
        """The type as it is written in source."""
        return type_name(self.type)


def type_name(kind: Any) -> str:
    """A type as it is written in source: ``int``, ``float | None``, ``list[str]``."""
    if kind is types.NoneType:
        return "None"
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return " | ".join(type_name(part) for part in typing.get_args(kind))
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind).replace("typing.", "")


# --- from a dataclass -------------------------------------------------------------------------------------------------


def fields(cls: type) -> list[Parameter]:
    """The settings of a dataclass; help is the string literal under each field ("" where there is none)."""
    helps, kinds = _literals_under_fields(cls), typing.get_type_hints(cls)
    found = []
    for field in dataclasses.fields(cls):
        default = field.default if field.default_factory is REQUIRED else field.default_factory()
        found.append(Parameter(field.name, kinds[field.name], default, helps.get(field.name, "")))
    return found


def _literals_under_fields(cls: type) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body
    helps = {}
    for field, under in zip(body, body[1:]):
        if isinstance(field, ast.AnnAssign) and isinstance(under, ast.Expr) and isinstance(under.value, ast.Constant):
            helps[field.target.id] = inspect.cleandoc(str(under.value.value))
    return helps


def add_arguments(parser: argparse.ArgumentParser, cls: type) -> None:
    """Give ``parser`` one ``--option VALUE`` for each field of the dataclass ``cls``."""
    for field in fields(cls):
        shown = "required" if field.default is REQUIRED else f"{field.type_name}, default {field.default}"
        parser.add_argument(
            "--" + field.name.replace("_", "-"), dest=field.name, metavar=field.name.upper(), default=argparse.SUPPRESS,
            required=field.default is REQUIRED, help=f"{field.help} ({shown})".replace("%", "%%").strip(),
        )


def from_args(cls: type[Settings], args: argparse.Namespace) -> Settings:
    """The dataclass ``cls`` from parsed options; raises HarnessError for a value of the wrong type or a contradiction."""
    given = {field.name: getattr(args, field.name) for field in fields(cls) if hasattr(args, field.name)}
    checked = check(fields(cls), given, where=cls.__name__)
    try:
        return cls(**checked)
    except ValueError as error:
        raise HarnessError(f"{cls.__name__}: {error}") from error


# --- from a notebook's parameters cell -------------------------------------------------------------------------------


def read_cell(source: str, where: str = "the parameters cell") -> list[Parameter]:
    """The settings in a parameters cell of lines ``name: type = literal  # help``.

    Raises HarnessError for anything else in the cell: code, a default that is not a literal or does not fit its type,
    a missing help, a name declared twice.
    """
    try:
        return _read_lines(source, where)
    except SyntaxError as error:
        raise HarnessError(f"{where}, line {error.lineno}: {error.msg}") from error
    except (RecursionError, MemoryError, ValueError) as error:
        raise HarnessError(f"{where}: cannot be read ({error or 'nested too deeply'}); keep to plain literals") from error


def _read_lines(source: str, where: str) -> list[Parameter]:
    lines = ast.parse(source).body
    helps, found = _comments(source), {}
    for line in lines:
        parameter = _read_line(line, helps, f"{where}, line {line.lineno}")
        if parameter.name in found:
            raise HarnessError(f"{where}, line {line.lineno}: `{parameter.name}` is declared twice; remove one of them")
        found[parameter.name] = parameter
    return list(found.values())


def _read_line(line: ast.stmt, helps: Mapping[int, str], where: str) -> Parameter:
    if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name) or line.value is None:
        raise HarnessError(f"{where}: only lines `name: type = literal  # help` may stand here; move the rest below")
    name, kind = line.target.id, _type(line.annotation, where)
    try:
        default = ast.literal_eval(line.value)
    except (ValueError, TypeError) as error:  # a call or a name; a list as a key
        raise HarnessError(f"{where}: the default of `{name}` is not a literal; compute it in a cell below") from error
    if not helps.get(line.end_lineno):
        raise HarnessError(f"{where}: `{name}` has no help; end the line with `# what it does`")
    try:
        return Parameter(name, kind, convert(name, kind, default), helps[line.end_lineno])
    except HarnessError as error:
        raise HarnessError(f"{where}: the default does not fit: {error}") from error


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("# ").strip() for token in tokens if token.type == tokenize.COMMENT}


def _type(node: ast.expr, where: str) -> Any:
    """The type that an annotation names; read, never evaluated."""
    if isinstance(node, ast.Name) and node.id in SCALARS:
        return SCALARS[node.id]
    if isinstance(node, ast.Constant) and node.value is None:
        return types.NoneType
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _type(node.left, where) | _type(node.right, where)
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "list":
        return list[_type(node.slice, where)]
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal":
        return _literal(node, where)
    raise HarnessError(f"{where}: `{ast.unparse(node)}` is not a type that a parameter can have; use str, int, float, "
                       "bool, list[…], Literal[…], or one of them `| None`")


def _literal(node: ast.Subscript, where: str) -> Any:
    try:
        return typing.Literal[ast.literal_eval(node.slice)]
    except (ValueError, TypeError) as error:
        raise HarnessError(f"{where}: `{ast.unparse(node)}` must name its choices as literals, such as Literal[\"a\", \"b\"]") from error


# --- values -----------------------------------------------------------------------------------------------------------


def check(parameters: Sequence[Parameter], given: Mapping[str, Any], where: str = "parameters") -> dict[str, Any]:
    """``given`` with every value converted to its declared type; raises HarnessError for a name that nobody declared."""
    known = {parameter.name: parameter for parameter in parameters}
    for name in given:
        if name not in known:
            raise HarnessError(f"{where}: there is no parameter `{name}`; {_suggest(name, list(known))}")
    return {name: convert(name, known[name].type, value) for name, value in given.items()}


def assignments(words: Sequence[str]) -> dict[str, str]:
    """``["steps=20", "name=a=b"]`` as a dict of text; raises HarnessError for a word without ``=`` or a name given twice."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.strip():
            raise HarnessError(f"`-p {word}` is not `name=value`")
        if name.strip() in found:
            raise HarnessError(f"`-p {name.strip()}` is given twice; keep one of them")
        found[name.strip()] = value.strip()
    return found


def read_preset(path: Path, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """The settings of a preset file (a YAML mapping), checked against the notebook's parameters."""
    import yaml

    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml_loader())
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read ({error.strerror}); check it and its permissions") from error
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:  # no such day, nested too deeply
        raise HarnessError(f"{path}: not a YAML file that can be read: {' '.join(str(error).split())[:500]}") from error
    if found is not None and not isinstance(found, dict):
        raise HarnessError(f"{path}: must hold lines `name: value`, not a {type(found).__name__}")
    return check(parameters, {str(name): value for name, value in (found or {}).items()}, where=str(path))


def yaml_loader() -> type:
    """A safe YAML loader that refuses a key written twice, where the standard one keeps the last silently."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Safe, and strict about keys."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise yaml.constructor.ConstructorError(None, None, f"`{key}` is given twice", node.start_mark)
            return super().construct_mapping(node, deep)

    return Loader


def convert(name: str, kind: Any, value: Any) -> Any:
    """``value`` as ``kind``; raises HarnessError when it is something else. Nothing is rounded or guessed."""
    if kind is Any:
        return value
    parts = typing.get_args(kind)
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return _one_of(name, kind, parts, value)
    if typing.get_origin(kind) is typing.Literal:
        return _choice(name, parts, value)
    if typing.get_origin(kind) in (list, tuple):
        return _sequence(name, kind, parts[0], value)
    converted = _scalar(kind, value)
    if converted is None and kind is not types.NoneType:
        raise HarnessError(f"`{name}` must be {type_name(kind)}, not {value!r}")
    return converted


def _one_of(name: str, kind: Any, parts: tuple[Any, ...], value: Any) -> Any:
    none = types.NoneType in parts
    if none and (value is None or (isinstance(value, str) and value.lower() in ("none", "null"))):
        return None
    for part in sorted((part for part in parts if part is not types.NoneType), key=lambda part: part is str):
        try:
            return convert(name, part, value)
        except HarnessError:
            continue
    raise HarnessError(f"`{name}` must be {type_name(kind)}, not {value!r}")


def _choice(name: str, choices: tuple[Any, ...], value: Any) -> Any:
    for choice in choices:
        if value == choice and type(value) is type(choice) or isinstance(value, str) and value == str(choice):
            return choice
    raise HarnessError(f"`{name}` must be one of {', '.join(map(repr, choices))}, not {value!r}")


def _sequence(name: str, kind: Any, part: Any, value: Any) -> Any:
    if isinstance(value, str):
        value = [word.strip().strip("'\"") for word in value.strip("[]() ").split(",") if word.strip()]
    if not isinstance(value, (list, tuple)):
        raise HarnessError(f"`{name}` must be {type_name(kind)}, not {value!r}")
    return typing.get_origin(kind)(convert(f"{name}[{place}]", part, item) for place, item in enumerate(value))


def _scalar(kind: type, value: Any) -> Any:
    """``value`` as a plain type, or None when it does not fit."""
    if kind is bool:
        word = str(value).lower() if isinstance(value, (bool, str)) else ""
        return True if word in TRUE else False if word in FALSE else None
    if isinstance(value, bool) or value is None:
        return None
    if kind in (str, Path):
        return kind(value) if isinstance(value, (str, Path)) else None
    if kind is float and isinstance(value, (int, float, str)) or kind is int and isinstance(value, (int, str)):
        return _number(kind, value)
    return None


def _number(kind: type, value: Any) -> Any:
    try:
        number = kind(value)  # YAML reads 1e-4 as text; so does the command line
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _suggest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean `{near[0]}`?" if near else f"there are {', '.join(known) or 'none'}"
