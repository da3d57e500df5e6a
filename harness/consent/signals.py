"""Words left in the files themselves, or beside them: assertions in Content Credentials, XMP, ai.txt and TDM reservations.

Each becomes a record on the very work, which the gate hears whoever it is from. A signal can say no; a yes in a file is
nobody's consent, as the gate still asks for the artist's own. Nothing else of a file's metadata is taken, and nothing is
fetched: credentials that lie elsewhere are not read.

Sources: C2PA and the CAWG training and data mining assertion 1.1; PLUS LDF `DataMining` and `MinorModelAgeDisclosure` in
IPTC photo metadata 2023.1; Spawning's ai.txt; the W3C community group's TDM reservation protocol (tdmrep.json).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from harness.consent.ledger import DECISIONS, USES, Record
from harness.errors import HarnessError
from harness.images import BROKEN, FORMATS, ImageSet

MINING, TRAINING, GENERATIVE, INFERENCE = USES
LABELS = ("cawg.training-mining", "c2pa.training-mining")
WHERE = b"useplus.org"
"""Stands in every packet that uses the PLUS vocabulary, whatever the prefixes are called."""
TEXTS = (b"XML:com.adobe.xmp", b"Raw profile type xmp")
"""Names of a PNG's text that may be compressed."""
PLUS = re.compile(r"(?<![A-Za-z])(DMI-[A-Z-]+|AG-[A-Z0-9]+)(?![A-Z0-9-])")
NO = {use: "notAllowed" for use in USES}
# What a PLUS value forbids; where it points to a text, a person has to read that.
DATA_MINING = {
    "DMI-PROHIBITED": NO, "DMI-PROHIBITED-EXCEPTSEARCHENGINEINDEXING": NO,
    "DMI-PROHIBITED-AIMLTRAINING": {TRAINING: "notAllowed", GENERATIVE: "notAllowed"}, "DMI-PROHIBITED-GENAIMLTRAINING": {GENERATIVE: "notAllowed"},
    "DMI-PROHIBITED-SEECONSTRAINT": dict.fromkeys(USES, "constrained"), "DMI-PROHIBITED-SEEEMBEDDEDRIGHTSEXPR": dict.fromkeys(USES, "constrained"),
    "DMI-PROHIBITED-SEELINKEDRIGHTSEXPR": dict.fromkeys(USES, "constrained"), "DMI-ALLOWED": {}, "DMI-UNSPECIFIED": {}}
MINORS = ("AG-U14", "AG-A15", "AG-A16", "AG-A17")
RESERVED = (MINING, TRAINING, GENERATIVE)
"""What a reservation of text and data mining rights keeps back: mining, and the trainings that rest on it."""


def scan(images: ImageSet, lists: Mapping[str, Path] | None = None, at: date | None = None) -> list[Record]:
    """Records of what the pictures' files say of their use, and what lists say of where the pictures come from.

    `lists` are ai.txt or tdmrep.json files by the host that they are from, such as {"example.org": Path("ai.txt")}; they
    concern the pictures whose column `source` is an address there. Raises HarnessError for a list that cannot be read.
    """
    day = (at or datetime.now(UTC).date()).isoformat()
    rules = {host.lower(): _rules(Path(path)) for host, path in (lists or {}).items()}
    sources = images.table["source"] if "source" in images.table else [""] * len(images)
    found = []
    for path, work, source in zip(images.paths, images.table["sha256"], sources, strict=True):
        found += in_file(path, work, day) + _listed(source, work, rules, day)
    return found


def in_file(path: Path, sha256: str, day: str) -> list[Record]:
    """Records of what one picture's file says of its use (C2PA and XMP)."""
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read ({error.strerror}); check the path.") from error
    return (_credentials(path, sha256, day) if b"jumb" in raw and b"c2pa" in raw else []) + _xmp(raw, _unpacked(raw), sha256, day)


def _record(sha256: str, use: str, decision: str, basis: str, day: str, note: str = "", **more: str) -> Record:
    return Record("(the file)" if "file" in basis else "(the source)", sha256, use, decision, basis, day, note=note, **more)


def _credentials(path: Path, sha256: str, day: str) -> list[Record]:
    """What Content Credentials inside a file say; where they cannot be read, that they are there blocks for a person to look."""
    try:
        assertions = _assertions(path)
    except Exception as error:  # the library missing, or any of its errors about a damaged store
        return [_record(sha256, use, "constrained", "Content Credentials in the file", day, f"they cannot be read here: {_short(error)}") for use in USES]
    found = []
    for label, entries in assertions:
        for name, said in entries.items():
            use = "cawg." + str(name).partition(".")[2]
            decision = said.get("use") if isinstance(said, dict) else None
            if use not in USES:
                continue
            known = decision if decision in DECISIONS else "constrained"
            note = str(said.get("constraint_info", "")) if known == decision else f"it says {_short(decision)}"
            found.append(_record(sha256, use, known, f"assertion {label} in the file", day, note))
    return found


def _short(error: object) -> str:
    return " ".join(str(error).split())[:120]


def _assertions(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Label and entries of every training and data mining assertion in a file's C2PA store, ingredients' included.

    Signatures are not asked about: a no counts whoever signed it, and a yes counts for nothing here. Offline.
    """
    try:
        import c2pa
    except ImportError as error:
        raise HarnessError("install c2pa-python to read them") from error
    quiet = {"verify": {"verify_trust": False, "remote_manifest_fetch": False, "ocsp_fetch": False}}
    reader = c2pa.Reader(path, context=c2pa.Context(c2pa.Settings.from_dict(quiet)))
    manifests = json.loads(reader.json())["manifests"].values()
    return [(each["label"], each["data"].get("entries", {})) for manifest in manifests for each in manifest.get("assertions", ())
            if re.sub(r"__\d+$", "", each["label"]) in LABELS]


def _unpacked(raw: bytes) -> list[bytes]:
    """XMP as Pillow finds it: where it is compressed, or in a form of its own. Nothing for what Pillow cannot read."""
    import io

    from PIL import Image

    if not any(word in raw for word in (*TEXTS, b"xmp", b"XMP", b"\xbc\x02", b"\x02\xbc")):  # the last two are TIFF's tag 700
        return []
    try:
        with Image.open(io.BytesIO(raw), formats=FORMATS) as picture:
            held = dict(picture.info) | (getattr(picture, "text", {}) if any(word in raw for word in TEXTS) else {})  # text may stand after the pixels
            found = [held.get("xmp"), *(held.get(name.decode()) for name in TEXTS), getattr(picture, "tag_v2", {}).get(700)]
    except BROKEN:
        return []
    packed = [each.encode("utf-8", "surrogateescape") if isinstance(each, str) else bytes(each) for each in found if isinstance(each, str | bytes)]
    hexed = [b"".join(each.split()[2:]) for each in packed if each.split()[:1] == [b"xmp"]]  # a name, a length, then digits
    return packed + [bytes.fromhex(each.decode()) for each in hexed if re.fullmatch(rb"(?:[0-9a-fA-F]{2})*", each)]


def _xmp(raw: bytes, unpacked: Iterable[bytes], sha256: str, day: str) -> list[Record]:
    """What the PLUS fields in a file's XMP say; the packets are not parsed as XML, which could be made to harm."""
    texts = [data.replace(b"\0", b"") for data in (raw, *unpacked)]  # UTF-16 and UTF-32 of plain letters are these with zeros between
    values = {value for text in texts if WHERE in text for value in PLUS.findall(text.decode("latin-1"))}
    found = []
    for value in sorted(values):
        if value.startswith("DMI-"):
            said = DATA_MINING.get(value, dict.fromkeys(USES, "constrained"))
            found += [_record(sha256, use, decision, f"PLUS {value} in the file", day) for use, decision in said.items()]
        elif value in MINORS:
            found.append(_record(sha256, MINING, "notAllowed", f"PLUS {value} in the file", day, depicted="(the file)", adult="minor"))
    return found


def _listed(source: str, sha256: str, rules: Mapping[str, list[tuple[str, bool]]], day: str) -> list[Record]:
    """What the list of a picture's source says about its address."""
    address = urlsplit(source or "")
    host = (address.hostname or "").lower()
    path = unquote(address.path or "/") + (f"?{address.query}" if address.query else "")
    if host not in rules or not _reserved(path, rules[host]):
        return []
    return [_record(sha256, use, "notAllowed", f"opt-out list of {host}", day) for use in RESERVED]


def _reserved(path: str, rules: Iterable[tuple[str, bool]]) -> bool:
    """Is a path reserved? As in RFC 9309 the longest pattern decides, except that of two of one length the no does."""
    fitting = [(len(pattern), no) for pattern, no in rules if _fits(pattern, path)]
    return max(fitting, default=(0, False))[1]


def _fits(pattern: str, path: str) -> bool:
    """Does a pattern with * (anything) and $ (the end) fit the beginning of a path? One without a slash fits anywhere."""
    start = pattern if pattern.startswith(("/", "*")) else "*" + pattern
    words = "".join(".*" if letter == "*" else re.escape(letter) for letter in re.sub(r"\*+", "*", start.rstrip("$")))
    return bool(re.match(words + ("$" if pattern.endswith("$") else ""), path, re.IGNORECASE))


def _rules(path: Path) -> list[tuple[str, bool]]:
    """Patterns of a list, each with whether it reserves (True) or frees."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        return _tdm_rules(json.loads(text)) if path.suffix == ".json" else _ai_rules(text)
    except OSError as error:
        raise HarnessError(f"{path}: cannot read the opt-out list ({error.strerror}); check the path.") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise HarnessError(f"{path}: not an ai.txt or tdmrep.json ({_short(error)}); nothing was taken from it.") from error


def _ai_rules(text: str) -> list[tuple[str, bool]]:
    """Lines `Disallow: pattern` and `Allow: pattern` of an ai.txt, whichever agent they name: a no to one crawler is a no here."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        name, colon, value = (part.strip() for part in line.partition("#")[0].partition(":"))
        if not name:
            continue
        if not colon or not re.fullmatch(r"[A-Za-z-]+", name):
            raise ValueError(f"line {number} is {line[:40]!r}")
        if name.lower() in ("disallow", "allow") and value:
            found.append((value, name.lower() == "disallow"))
    return found


def _tdm_rules(listed: Any) -> list[tuple[str, bool]]:
    """Objects with `location` and `tdm-reservation` (1 reserves; a policy says how to ask, and is no permission)."""
    if not isinstance(listed, list):
        raise ValueError("it is not a list")
    return [(str(each["location"]), int(each["tdm-reservation"]) != 0) for each in listed]
