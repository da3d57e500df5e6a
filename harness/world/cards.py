"""Credits and data cards of the world's art: who drew it, under which licence, what was planted, and what it cannot show.

Everything about creators is read from the art's own metadata. A card is given here as plain fields; whoever calls passes the
writer (`harness.consent.cards`), because the rooms to the right are not imported from here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from harness.errors import HarnessError
from harness.images import ImageSet
from harness.world.artists import Artist, Credit, artist, base_artists, credit, unseen_artists
from harness.world.truths import SKEWS, Duplicate, Withdrawn

CardWriter = Callable[[Path, Mapping[str, Any], "ImageSet | None"], Any]
"""Writes a card into a folder: `write(folder, fields, images)`; the fields are those of harness.consent.cards.Card."""
VERSION = "1.0.0"
"""of the world: raised whenever the same arguments draw other pictures or tell other truths"""
PUBLISHED = "2026-11-23"
SPDX = {"CC0 1.0": "CC0-1.0", "CC BY 4.0": "CC-BY-4.0", "MIT": "MIT"}
"""The licences that the world accepts, by the name in the art's metadata."""
CHANGES = "Changes made: components and colours recombined, drawn at 64 × 64 pixels"
HAND_CHANGES = ", then recoloured, inked, textured and framed by code (a pseudo-artist)"
ROLE = ("Artists go by pseudonyms in captions, prompts, ledgers and reports. Where a pseudonym is said to have refused, not agreed or withdrawn, "
        "that is a role which the pseudonym plays in a demonstration; it says nothing about the person who drew the style, who published it under the "
        "licence named.")
USES = ("cawg.data_mining", "cawg.ai_training", "cawg.ai_generative_training", "cawg.ai_inference")


def credits(artists: Sequence[Artist | str]) -> list[dict[str, str]]:
    """The attribution of the art behind some artists: one dict (name, work, licence, source, note) per drawn style.

    Sorted by creator, so that the order does not tell which pseudonym is whose. Raises HarnessError for an unknown artist or licence.
    """
    chosen = [artist(a) if isinstance(a, str) else a for a in artists]
    hands = {a.style for a in chosen if a.hand is not None}
    found = [_credit(credit(s), s in hands) for s in {a.style for a in chosen}]
    return sorted(found, key=lambda c: (c["name"].lower(), c["work"]))


def _credit(of: Credit, overlaid: bool) -> dict[str, str]:
    spdx(of.licence)
    note = f"{of.remix}. {CHANGES}{HAND_CHANGES if overlaid else ''}."
    return {"name": of.creator, "work": of.source, "licence": f"{of.licence} ({of.licence_url})", "source": of.source_url or of.creator_url, "note": note}


def _by_creator(style: str) -> tuple[str, str]:
    return credit(style).creator.lower(), credit(style).source


def _changes(artists: Sequence[Artist]) -> str:
    return f"{CHANGES}{HAND_CHANGES if any(a.hand is not None for a in artists) else ''}."


def spdx(licence: str) -> str:
    """The SPDX identifier of a licence named in the art's metadata. Raises HarnessError for one that the world does not accept."""
    if licence not in SPDX:
        raise HarnessError(f"the art's licence {licence!r} is none of {', '.join(SPDX)}; leave the style out, or check that the licence allows "
                           "redistribution and derived works and add it to SPDX")
    return SPDX[licence]


def shipped() -> dict[str, dict[str, Any]]:
    """The cards of the data sets that the repository ships as code: card name -> fields."""
    return {fields["name"]: fields for fields in (_base(), _unseen(), _hands())}


def write_all(folder: Path, card: CardWriter) -> list[Path]:
    """Write the shipped cards (Markdown and Croissant each) into a folder; returns the folder's Markdown paths."""
    for fields in shipped().values():
        card(folder, fields, None)
    return [Path(folder) / f"{name}.md" for name in shipped()]


def rendered(name: str, artists: Sequence[Artist], n: int, split: str | None, seed: int, duplicates: Duplicate | None,
             withdrawn: Sequence[Withdrawn], command: str) -> dict[str, Any]:
    """The card of one rendered image folder, with the truths that were planted in it."""
    names = ", ".join(a.name for a in artists)
    planted = [f"The first {duplicates.n} pictures of each artist stand in it {duplicates.times} times each."] if duplicates else []
    planted += [f"{w.artist} withdrew (a role): no picture of it is in the folder." for w in withdrawn]
    split_words = f"split {split}" if split else "the split held-out (pseudo-artists: hands)"
    told = f"{n} portraits each by {len(artists)} artist(s) of the miniature world ({names}); people of {split_words}, seed {seed}."
    return _card(name, "Portraits of the miniature world", told, artists, planted, command) | {"url": "",
        "collection": f"Drawn by code, deterministically: `{command}`. The column `world` of samples.csv identifies each picture by the versions of the "
                      "drawing packages, seed, split, artist, person and number."}


def _base() -> dict[str, Any]:
    fields = _card("miniature-base-artists", "Base artists of the miniature world",
                   "Portraits in nine drawn styles by nine creators, with captions and attributes known by construction. The miniature autoencoder, CLIP and "
                   "denoiser are trained on people of split train; splits judge, calibration and held-out never train them.", base_artists(), [],
                   "harness world build")
    return fields | {"collection": fields["collection"] + " Each training draws its set first, 4,000 portraits of each artist by default, five of each person, "
                     "with fresh captions at every step. `harness world render --artists base --split train --n 32 --out base` draws a folder of such works."}


def _unseen() -> dict[str, Any]:
    return _card("miniature-unseen-artists", "Unseen drawn artists of the miniature world",
                 "Portraits and figures in drawn styles held out by creator: none of them trained the miniature autoencoder, CLIP or denoiser. They are "
                 "the works that fine-tunes learn and audits ask about.", unseen_artists("unseen"), [],
                 "harness world render --artists unseen --n 32 --out unseen")


def _hands() -> dict[str, Any]:
    hands = unseen_artists("hand")
    fields = _card("miniature-pseudo-artists", "Pseudo-artists of the miniature world",
                   f"{len(hands)} parametric hands (tones, ink, texture, shading, background, framing) laid by code over portraits of base styles; no miniature "
                   "model has met one. They are the null of rank tests: artists as unseen as the accused.", hands, [],
                   "harness world render --artists hands --n 32 --out hands")
    return fields | {"limitations": fields["limitations"] + " A hand paints over skin and hair, so their colours are `unknown` there. The portraits underneath "
                     "are in base styles, so a hand is unseen as a manner of drawing and not as a face."}


def _card(name: str, title: str, description: str, artists: Sequence[Artist], planted: Sequence[str], command: str) -> dict[str, Any]:
    """The fields that all cards of the world share."""
    listed = credits(artists)
    licences = sorted({spdx(credit(a.style).licence) for a in artists})
    return {"name": name, "title": title, "description": description, "version": VERSION, "published": PUBLISHED, "license": " AND ".join(licences),
            "creators": tuple(dict.fromkeys(c["name"] for c in listed)), "sources": tuple(dict.fromkeys(c["source"] for c in listed)),
            "credits": " ".join(f"{credit(s).remix}." for s in sorted({a.style for a in artists}, key=_by_creator)) + f" {_changes(artists)}",
            "consent_basis": "The licences under which the creators published the styles; they allow adaptation and redistribution. Nobody was asked beyond that. " + ROLE,
            "uses_allowed": USES, "uses_refused": (), "collection": f"Drawn by code, deterministically: `{command}`.", **_WORDS,
            "url": "https://www.dicebear.com/styles/", "table_sha256": "", "body": _body(artists, listed, planted)}


_WORDS = {
    "people": "Nobody: the portraits are drawn from components and colours by a seeded generator and show no real person. Gender and age are never "
              "derived from hair, clothes or anything else, and stand in no column; no minors are drawn on purpose.",
    "biases": "Skin is drawn in equal shares of light, medium and dark where a style has a skin colour, which is no population's share. Occupation words go "
              "with skin and glasses on purpose (see Planted truths). Styles differ in what they can show; what one does not say is `unknown`.",
    "limitations": "Drawn portraits of 64 pixels. A figure measured on them says whether an instrument works there, and nothing about photographs, "
                   "large models or real people. There is no truth in it about gender, age or sexual content.",
    "maintenance": "A creator who wants a style taken out writes to the maintainers by an issue of the repository; the style then leaves the list of artists, the "
                   "miniature models are trained again without it, and the version rises."}


def _body(artists: Sequence[Artist], listed: Sequence[Mapping[str, str]], planted: Sequence[str]) -> str:
    """Pseudonyms, attribution and planted truths as Markdown; who is behind which pseudonym is not said."""
    rows = [f"| {c['name']} | {c['work']} | {c['licence']} | {c['source']} |" for c in listed]
    skews = [f"In captions \"{s.word}\" goes with {s.attribute} = {s.value} in {s.share:.0%} of the portraits whose {s.attribute} is known "
             f"(otherwise {s.prior:.0%})." for s in SKEWS]
    return "\n".join(["## Artists", "", ", ".join(a.name for a in artists) + f" ({len(artists)}).", "", ROLE, "", "## Attribution", "",
                      "| Creator | Work | Licence | Source |", "|---|---|---|---|", *rows, "", "## Planted truths", "", *(f"- {t}" for t in (*skews, *planted))])
