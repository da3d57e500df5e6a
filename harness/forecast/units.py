"""Seconds, bytes and operations as a person reads them."""

from __future__ import annotations


def seconds(value: float) -> str:
    """``0.4 s``, ``52 s``, ``2 min 52 s``, ``3 h 05 min``."""
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60:02d} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(value: float) -> str:
    """Bytes in powers of 1,024: ``812 B``, ``5.6 MiB``, ``1.2 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1000 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("GiB is the last unit")


def operations(value: float) -> str:
    """Floating-point operations in powers of 1,000: ``3.4 GFLOP``, ``2.41 TFLOP``, ``1.9 PFLOP``."""
    for unit in ("", "K", "M", "G", "T", "P"):
        if value < 1000 or unit == "P":
            return f"{value:.3g} {unit}FLOP"
        value /= 1000
    raise AssertionError("P is the last unit")


def money(value: float) -> str:
    """``12.30``, ``0.032``: two decimals, or two digits that say something."""
    return f"{value:.2f}" if value >= 0.1 or value == 0 else f"{value:.2g}"
