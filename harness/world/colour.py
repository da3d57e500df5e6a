"""Colours of drawn portraits: hex to CIE Lab, Monk orbs, three skin bins and plain hair-colour words.

Sources: CIE 15:2004 for Lab (D65); the ten orbs of the Monk Skin Tone Scale (Monk 2019, skintone.google).
"""

from __future__ import annotations

import math

MONK = ("#f6ede4", "#f3e7db", "#f7ead0", "#eadaba", "#d7bd96", "#a07e56", "#825c43", "#604134", "#3a312a", "#292420")

# Bounds in CIE L*. The gaps are deliberate: a colour that falls into one is not drawn, because its bin would be a matter of taste.
SKIN_BINS = {"light": (80.0, 100.0), "medium": (50.0, 77.0), "dark": (0.0, 46.0)}

HAIR_WORDS = {
    "black": ("#000000", "#1b0b47", "#0e0e0e", "#220f00", "#2c1b18", "#362c47"),
    "brown": ("#4a312c", "#724133", "#6a4e35", "#562306", "#71472d", "#6c4545", "#796a45", "#47280b"),
    "blond": ("#e5d7a3", "#ecdcbf", "#d6b370", "#b9a05f", "#e2ba87", "#ffeba4", "#b58143"),
    "red": ("#c93305", "#ab2a18", "#ff543d", "#f27d65", "#e15c66", "#f24e1e", "#ad3a20", "#a55728"),
    "orange": ("#cb6820", "#d56c0c", "#ac6511", "#f29c65"),
    "yellow": ("#fff500", "#f4d150", "#e9b729", "#ffc700"),
    "pink": ("#dba3be", "#f59797", "#fc909f", "#e16381", "#f9c9b6", "#ffedef"),
    "purple": ("#592454", "#9287ff", "#9747ff", "#e0ddff"),
    "blue": ("#605de4", "#1d5dff", "#699bf7", "#6bd9e9", "#85c2c6", "#d2eff3"),
    "green": ("#3eac2c", "#0fa958", "#238d80"),
    "white": ("#ffffff", "#e8e1e1", "#dee1f5"),
    "grey": ("#afafaf",),
}


def rgb(colour: str) -> tuple[float, float, float]:
    """Red, green and blue in 0–1 of a hex colour such as "#a07e56" (an alpha part is ignored)."""
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))  # type: ignore[return-value]


def lab(colour: str) -> tuple[float, float, float]:
    """CIE L*a*b* (D65) of a hex colour. L* runs from 0 (black) to 100 (white)."""
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb(colour))
    x = (0.4124564 * r + 0.3575761 * g + 0.1804375 * b) / 0.95047
    y = 0.2126729 * r + 0.7151522 * g + 0.0721750 * b
    z = (0.0193339 * r + 0.1191920 * g + 0.9503041 * b) / 1.08883
    fx, fy, fz = (t ** (1 / 3) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116 for t in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def monk_orb(colour: str) -> int:
    """The number (1–10) of the Monk orb nearest to a hex colour by CIE76 distance."""
    here = lab(colour)
    return 1 + min(range(10), key=lambda i: math.dist(here, lab(MONK[i])))


def skin_bin(colour: str) -> str | None:
    """The bin ("light", "medium", "dark") of a colour by L*, or None where the colour lies in a gap between the bins."""
    lightness = lab(colour)[0]
    return next((name for name, (low, high) in SKIN_BINS.items() if low <= lightness <= high), None)


def hair_word(colour: str) -> str:
    """The plain word for a hair colour: that of the nearest listed colour by CIE76 distance."""
    here = lab(colour)
    return min(HAIR_WORDS, key=lambda word: min(math.dist(here, lab(c)) for c in HAIR_WORDS[word]))
