"""Settings that contradict each other, as a notebook names them in its metadata, refused before anything starts.

``"harness": {"refuse": [["held_out < 5", "at least 5 works must be held out"], …]}``: a condition on the parameters, and the
sentence that is said when it holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.errors import HarnessError, Refused
from harness.runs import expressions


def contradictions(rules: Any, values: Mapping[str, Any], where: str) -> None:
    """Raise Refused with the sentence of the first rule whose condition holds for ``values``, HarnessError for a rule that cannot be read."""
    if not isinstance(rules, list) or not all(isinstance(rule, list) and len(rule) == 2 and all(isinstance(word, str) for word in rule) for rule in rules):
        raise HarnessError(f"{where}: `refuse` must be a list of pairs [condition, sentence]")
    for condition, sentence in rules:
        try:
            holds = bool(expressions.evaluate(condition, values))
        except expressions.UNREADABLE as error:
            raise HarnessError(f"{where}: the condition {condition[:80]!r} cannot be worked out ({error}); it may hold {expressions.SHOWN}") from error
        if holds:
            now = ", ".join(f"{name} = {values[name]!r}" for name in expressions.names(condition, values))
            raise Refused(f"{sentence.rstrip('.')} (now {now})")
