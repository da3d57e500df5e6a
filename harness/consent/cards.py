"""Data cards: Markdown for people, Croissant with its Responsible AI fields for machines.

A card is a precondition and not prose: `require` refuses data whose card lacks licence, hashes or consent basis, or
refuses the use. Croissant 1.0 and its RAI vocabulary 1.0; `mlcroissant` checks the JSON where it is installed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from harness.consent.ledger import USES
from harness.errors import HarnessError, Refused
from harness.images import ImageSet, atomic_write, sha256

TABLE = "samples.csv"
TYPES = {"i": "sc:Integer", "f": "sc:Float", "b": "sc:Boolean"}
CONTEXT = {
    "@language": "en", "@vocab": "https://schema.org/", "citeAs": "cr:citeAs", "column": "cr:column",
    "conformsTo": "dct:conformsTo", "cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"}, "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/", "examples": {"@id": "cr:examples", "@type": "@json"}, "extract": "cr:extract",
    "field": "cr:field", "fileObject": "cr:fileObject", "fileProperty": "cr:fileProperty", "fileSet": "cr:fileSet",
    "format": "cr:format", "includes": "cr:includes", "isLiveDataset": "cr:isLiveDataset", "jsonPath": "cr:jsonPath",
    "key": "cr:key", "md5": "cr:md5", "parentField": "cr:parentField", "path": "cr:path", "recordSet": "cr:recordSet",
    "references": "cr:references", "regex": "cr:regex", "repeated": "cr:repeated", "replace": "cr:replace",
    "equivalentProperty": "cr:equivalentProperty", "samplingRate": "cr:samplingRate", "sc": "https://schema.org/", "separator": "cr:separator", "source": "cr:source", "subField": "cr:subField",
    "transform": "cr:transform"}


@dataclass(frozen=True)
class Card:
    """What a data set is, whose it is, and what it may be used for."""

    name: str
    """Short name; also the name of the files."""
    title: str
    """For people."""
    description: str
    """Two or three sentences."""
    version: str
    """Of the data."""
    published: str
    """Day, like 2026-01-31."""
    license: str
    """SPDX identifier or address of the licence; several with ' AND '."""
    creators: tuple[str, ...]
    """Who made the works."""
    sources: tuple[str, ...]
    """Where they come from."""
    credits: str
    """Attribution and remix notes, as the licences ask for them."""
    consent_basis: str
    """What the use of the works rests on."""
    uses_allowed: tuple[str, ...]
    """CAWG uses that are allowed."""
    uses_refused: tuple[str, ...]
    """CAWG uses that are refused."""
    collection: str
    """How the data came together."""
    people: str
    """Whether people can be recognised in it, and what about them is said."""
    biases: str
    """Who and what is missing or too frequent."""
    limitations: str
    """What it must not be used to conclude."""
    maintenance: str
    """Who answers a withdrawal, and how it travels."""
    url: str = ""
    """Where it is described."""
    table_sha256: str = ""
    """Hash of samples.csv, which holds the hash of every picture."""
    body: str = ""
    """Anything else, in Markdown, below the fields."""


LISTS = ("creators", "sources", "uses_allowed", "uses_refused")
OPTIONAL = ("url", "body", "uses_allowed", "uses_refused", "table_sha256")


def problems(card: Card) -> list[str]:
    """What is missing or contradictory in a card; empty when nothing is."""
    found = [f"{f.name} is empty" for f in fields(card) if f.name not in OPTIONAL and not getattr(card, f.name)]
    found += [f"{use} is not a use of the CAWG vocabulary" for use in card.uses_allowed + card.uses_refused if use not in USES]
    both = sorted(set(card.uses_allowed) & set(card.uses_refused))
    return found + [f"{use} is both allowed and refused" for use in both]


def require(card: Card, use: str, images: ImageSet | None = None) -> None:
    """Raise Refused unless the card is complete, names the data by hash, and allows `use`.

    With `images` its table on disk must have the hash that the card holds.
    """
    found = problems(card) + ([] if card.table_sha256 else ["table_sha256 is empty (the data are not named by hash)"])
    if use in card.uses_refused or use not in card.uses_allowed:
        found.append(f"{use} is {'refused' if use in card.uses_refused else 'not among the uses allowed'}")
    if images is not None and card.table_sha256 and not _is_of(card, images):
        found.append(f"{images.folder / TABLE} is not the table that the card describes")
    if found:
        raise Refused(f"data card {card.name}: " + "; ".join(found) + ".")


def _is_of(card: Card, images: ImageSet) -> bool:
    """Does the folder hold the table that the card names?"""
    path = images.folder / TABLE
    return path.is_file() and sha256(path) == card.table_sha256


def write(folder: Path, card: Card, images: ImageSet | None = None) -> tuple[Path, Path]:
    """Write NAME.md and NAME.croissant.json; with `images` the card gets their table's hash. Raises HarnessError."""
    import yaml

    if images is not None:
        card = Card(**asdict(card) | {"table_sha256": sha256(images.folder / TABLE)})
    found = problems(card)
    if found:
        raise HarnessError(f"data card {card.name}: " + "; ".join(found) + ".")
    front = {f.name: list(v) if isinstance(v := getattr(card, f.name), tuple) else v for f in fields(card) if f.name != "body"}
    text = f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=110)}---\n\n{_markdown(card)}"
    machine = json.dumps(croissant(card, images), indent=2, ensure_ascii=False) + "\n"
    return (atomic_write(folder / f"{card.name}.md", text), atomic_write(folder / f"{card.name}.croissant.json", machine))


def _markdown(card: Card) -> str:
    """The part of a card that people read; everything below the rule is the body."""
    rows = [("Licence", card.license), ("Creators", ", ".join(card.creators)), ("Sources", ", ".join(card.sources)),
            ("Credits", card.credits), ("Consent", card.consent_basis), ("Allowed", ", ".join(card.uses_allowed) or "nothing"),
            ("Refused", ", ".join(card.uses_refused) or "nothing named"), ("How it was collected", card.collection),
            ("People in it", card.people), ("Biases", card.biases), ("Limits", card.limitations), ("Upkeep", card.maintenance)]
    told = "\n\n".join(f"**{name}.** {text}" for name, text in rows)
    return f"# {card.title}\n\n{card.description}\n\n{told}\n" + (f"\n---\n\n{card.body.strip()}\n" if card.body.strip() else "")


def read(path: Path) -> Card:
    """Read a card's Markdown; raises HarnessError saying what is wrong with its front matter."""
    import yaml

    try:
        _, front, text = Path(path).read_text(encoding="utf-8").split("---\n", 2)
        held = yaml.safe_load(front)
        known = {f.name for f in fields(Card)} - {"body"}
        if not isinstance(held, dict) or set(held) - known:
            raise ValueError(f"unknown fields {sorted(set(held) - known)}" if isinstance(held, dict) else "no fields")
        # YAML makes numbers and days of what a person means as text: version 1.0, published 2026-01-31
        words = {name: "" if value is None else str(value) for name, value in held.items() if name not in LISTS}
        words |= {name: tuple(held.get(name) or ()) for name in LISTS}
        return Card(**words, body=text.partition("\n---\n\n")[2].strip())
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise HarnessError(f"{path}: not a data card ({str(error).splitlines()[0]}).") from error


def croissant(card: Card, images: ImageSet | None = None) -> dict[str, Any]:
    """The card as Croissant JSON-LD; with `images` also their table, files and columns."""
    base = {
        "@context": CONTEXT, "@type": "sc:Dataset", "name": card.name, "alternateName": card.title,
        "conformsTo": ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"],
        "description": card.description, "version": card.version, "datePublished": card.published, "license": card.license,
        "creator": [{"@type": "sc:Person", "name": name} for name in card.creators], "citeAs": card.credits,
        "url": card.url or f"urn:sha256:{card.table_sha256}", "isBasedOn": list(card.sources)}
    rai = {
        "rai:dataCollection": card.collection, "rai:dataBiases": card.biases, "rai:dataLimitations": card.limitations,
        "rai:personalSensitiveInformation": card.people, "rai:dataReleaseMaintenancePlan": card.maintenance,
        "rai:dataUseCases": f"Allowed: {', '.join(card.uses_allowed) or 'nothing'}. Refused: {', '.join(card.uses_refused) or 'nothing named'}. "
                            f"Basis: {card.consent_basis}"}
    return base | rai | ({"distribution": _files(images), "recordSet": [_records(images)]} if images is not None else {})


def _files(images: ImageSet) -> list[dict[str, Any]]:
    """The folder as Croissant resources: the table by its hash (it holds the pictures' hashes), and the pictures."""
    suffixes = sorted({Path(name).suffix for name in images.table["file"]})
    table = {"@type": "cr:FileObject", "@id": TABLE, "name": TABLE, "contentUrl": TABLE, "encodingFormat": "text/csv",
             "sha256": sha256(images.folder / TABLE)}
    files = {"@type": "cr:FileSet", "@id": "pictures", "name": "pictures", "encodingFormat": "image/png",
             "includes": [f"*{suffix}" for suffix in suffixes]}
    return [table, files]


def _records(images: ImageSet) -> dict[str, Any]:
    """The table's columns as Croissant fields."""
    columns = [{"@type": "cr:Field", "@id": f"samples/{name}", "name": f"samples/{name}",
                "dataType": TYPES.get(images.table[name].dtype.kind, "sc:Text"),
                "source": {"fileObject": {"@id": TABLE}, "extract": {"column": name}}} for name in images.table]
    return {"@type": "cr:RecordSet", "@id": "samples", "name": "samples", "field": columns}


def check(path: Path) -> None:
    """Have `mlcroissant` (the extra "test") check a Croissant file; raises HarnessError with what it finds."""
    try:
        import mlcroissant
    except ImportError as error:
        raise HarnessError("checking Croissant needs the package mlcroissant; install it.") from error
    try:
        mlcroissant.Dataset(jsonld=str(path))
    except Exception as error:  # its own kinds of error, and those of rdflib beneath
        raise HarnessError(f"{path}: not valid Croissant: {' '.join(str(error).split())}") from error
