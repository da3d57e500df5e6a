"""Small expressions over a notebook's parameters, as its metadata holds them: read as syntax trees and never executed."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq, ast.NotEq: operator.ne,
    ast.Is: operator.is_, ast.IsNot: operator.is_not, ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
}
CALLS: dict[str, Callable[..., Any]] = {"len": len, "min": min, "max": max, "abs": abs, "ceil": math.ceil}
SHOWN = "parameters, numbers, texts, comparisons, and, or, not, in, + - * / // %, len, min, max, abs and ceil"
UNREADABLE = (SyntaxError, TypeError, ValueError, ArithmeticError, RecursionError, MemoryError)


def read(text: str) -> ast.expr:
    """The syntax tree of an expression; raises one of UNREADABLE."""
    return ast.parse(text.strip(), mode="eval").body


def names(text: str, values: Mapping[str, Any]) -> list[str]:
    """The parameters that an expression speaks of, in order of the alphabet."""
    return sorted({node.id for node in ast.walk(read(text)) if isinstance(node, ast.Name) and node.id in values})


def evaluate(text: str, values: Mapping[str, Any]) -> Any:
    """The value of an expression over ``values``; raises one of UNREADABLE for anything that SHOWN does not name."""
    return _value(read(text), values)


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name) and node.id in values:
        return values[node.id]
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(each, values) for each in node.elts]
    if isinstance(node, ast.BoolOp):  # no short cut: a part that cannot be read is found whatever stands before it
        return (all if isinstance(node.op, ast.And) else any)([_value(each, values) for each in node.values])
    if isinstance(node, ast.Compare) and all(type(each) in OPERATORS for each in node.ops):
        sides = [_value(each, values) for each in (node.left, *node.comparators)]
        return all(OPERATORS[type(how)](a, b) for how, a, b in zip(node.ops, sides, sides[1:]))
    if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.operand, values))
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](*_numbers(node, values))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS and not node.keywords:
        return CALLS[node.func.id](*(_value(each, values) for each in node.args))
    raise ValueError(f"there is no parameter `{node.id}`" if isinstance(node, ast.Name) else f"`{ast.unparse(node)}` is not known here")


def _numbers(node: ast.BinOp, values: Mapping[str, Any]) -> list[float]:
    """Operands, which must be numbers: text times a number would be a long text."""
    found = [_value(side, values) for side in (node.left, node.right)]
    if not all(isinstance(each, (int, float)) for each in found):
        raise ValueError("texts and lists cannot be reckoned with")
    return found
