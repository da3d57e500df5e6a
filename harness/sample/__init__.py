"""Prompts and seeds to an ImageSet, reproducible one by one."""

from harness.sample.draw import sample
from harness.sample.settings import SCHEDULERS, Sampling, cross

__all__ = ["SCHEDULERS", "Sampling", "cross", "sample"]
