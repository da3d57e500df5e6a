"""Designs beyond the plain one: crossed seeds, imperfect detectors, imbalance, many questions at once, planning.

`harness.stats` holds the finding and the intervals that every room uses. Here stands, one file a family, what a particular design
needs. Every function names its source and the conditions under which it is valid; outside them it raises `CannotTell`.
"""

from __future__ import annotations

from harness.errors import HarnessError


class CannotTell(HarnessError):
    """The design does not carry the answer; the message says why and what it would take. A finding then says `cannot tell`."""
