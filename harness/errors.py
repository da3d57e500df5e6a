"""The errors a user can meet. Each carries one sentence: what was wrong, where, and what to do."""

from __future__ import annotations


class HarnessError(Exception):
    """Something the user can put right; the command line prints it as one line and exits 2."""


class Refused(HarnessError):
    """Consent, or another guard, says no."""


class BadImage(HarnessError):
    """A file that is not an image that can be used; the message names it."""
