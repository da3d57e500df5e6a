"""Names wherever they stand as words: the one pattern for taking names out of texts, out of files' names, and for knowing whose a picture is.

The longest goes first, and a name of somebody else in which one stands ("Anna Lee", where "Anna" is to go) is left as it is.
The search for what is left has a rule of its own.
"""

from __future__ import annotations

import html
import json
import re
import unicodedata
import urllib.parse
from collections.abc import Iterable
from functools import lru_cache

GAP = re.compile(r"[\s_+-]+")
JOINED = r"(?:[\s_+-]|%20)+"
"""what stands between the words of a name: spaces, or what takes their place in files' names and addresses"""
BEFORE, AFTER = r"(?<![^\W_])", r"(?![^\W_]|[\u0300-\u036f])"
FORMAT = frozenset(
    "adapter artist base caption consent creator date depicted depicts error estimate file files findings format from holder hours id image images input inputs "
    "interval json kind ledger licence manifest method model name names note notebook notes outputs parameters person prompt prompts purpose question report "
    "results rights rights_holder role root run runs samples schema seed seeds sha256 signed source status subject subjects table tables text time title type "
    "until use value values vectors version why works".split())
"""words of the harness's own tables and files: somebody who is called so cannot be told from them, and the words stay"""


@lru_cache(maxsize=100_000)
def fold(name: str) -> str:
    """A name as it is compared: without regard to case, to what stands between its words, and to how accents are written."""
    return GAP.sub(" ", unicodedata.normalize("NFC", unicodedata.normalize("NFKC", name).casefold())).strip()


def is_format(name: str) -> bool:
    """Is it a word of the files' own formats?"""
    return fold(name) in FORMAT or GAP.sub("_", name.casefold()) in FORMAT


class Names:
    """Some names, and the names of others in which they stand."""

    def __init__(self, names: Iterable[str], others: Iterable[str] = ()) -> None:
        """`others` may be all that are known: those in which none of the names stands do not matter."""
        self.names = tuple(dict.fromkeys(name for name in names if fold(name)))
        own, bare = {fold(name) for name in self.names}, re.compile(_any(self.names), re.IGNORECASE)
        self.others = tuple(sorted({other for other in others if fold(other) not in own and bare.search(other)})) if own else ()
        listed = sorted({*((name, "") for name in self.names), *((other, f"o{i}") for i, other in enumerate(self.others))}, key=lambda each: (-len(each[0]), each))
        ways = [f"(?P<{group}>{_written(name)})" if group else _written(name) for name, group in listed]
        self._parts = tuple(dict.fromkeys(map(_ascii, self.names)))
        self._pattern = re.compile(f"{BEFORE}(?:{'|'.join(ways)}){AFTER}" if ways else r"(?!)", re.IGNORECASE)

    def search(self, text: str) -> bool:
        """Does one of them stand in a text?"""
        return any(match.lastgroup is None for match in self._pattern.finditer(text))

    def sub(self, gone: str, text: str) -> str:
        """The text with `gone` in their place."""
        return self._pattern.sub(lambda match: match.group() if match.lastgroup else gone, text)

    def probe(self, data: bytes) -> bool:
        """May one of them stand in these bytes, whatever their encoding? Quick, and never no where the answer is yes."""
        plain = (data.replace(b"\0", b"") if b"\0" in data else data).lower()
        return any(part in plain for part in self._parts)


def _any(names: Iterable[str]) -> str:
    ways = "|".join(_written(name) for name in names)
    return f"{BEFORE}(?:{ways}){AFTER}" if ways else r"(?!)"


def _ascii(name: str) -> bytes:
    """The longest part of a name that every encoding and escape writes alike; b"", which is everywhere, where that is not plain."""
    return max(re.findall(r"[0-9a-z]+", name.lower()), key=len, default="").encode() if name.isascii() else b""


def _written(name: str) -> str:
    """A pattern for the ways in which a name is written down."""
    words = [word for word in GAP.split(name.strip()) if word]
    return JOINED.join(f"(?:{'|'.join(map(re.escape, sorted(_forms(word), key=len, reverse=True)))})" for word in words)


def _forms(word: str) -> set[str]:
    """A word with both spellings of accents, escaped for pages, addresses and JSON."""
    plain = {unicodedata.normalize(form, word) for form in ("NFC", "NFD")}
    return {way for each in plain for way in (each, html.escape(each), html.escape(each, quote=False), urllib.parse.quote(each),
                                              urllib.parse.quote_plus(each), json.dumps(each)[1:-1])}
