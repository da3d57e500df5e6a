"""Who plays which part in the second notebook, what each of them said, and the small data set that is made of their pictures.

Every part is a role of a pseudonym of the miniature world. Nobody behind a style refused, withdrew or asked to be forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.consent import cards, exchange
from harness.consent.ledger import ADULT, USES, Record
from harness.errors import HarnessError
from harness.images import ImageSet, atomic_write, open_set, save_png, write_csv
from harness.world import cards as world
from harness.world.artists import artist, credit
from harness.world.captions import prompt
from harness.world.people import people
from harness.world.render import works

if TYPE_CHECKING:
    from PIL import Image

WITHDRAWS, NO, EXPIRED, FOR_CLIENT, NAMELESS = "artist-22", "artist-21", "artist-23", "artist-24", "artist-25"
ARTISTS = (WITHDRAWS, NAMELESS, EXPIRED, FOR_CLIENT, NO)
CLIENT, FORGOTTEN, OTHER = "client-a", "person-a", "person-b"
PERSONS = {FORGOTTEN: "artist-06", OTHER: "artist-01"}
"""each person and the style in which the pictures of them are drawn"""
PLAYS = {
    WITHDRAWS: "said yes", NAMELESS: "said yes; their name must not become a token", EXPIRED: "said yes, for a time that is over",
    FOR_CLIENT: "said yes, but the works belong to a client", NO: "said no", CLIENT: "owns the works of artist-24, and was never asked",
    FORGOTTEN: "said yes, and is attested to be adult", OTHER: "said yes, without an attestation",
}
TRAINING = "cawg.ai_generative_training"
SPOKEN = ("cawg.data_mining", TRAINING)
"""the uses that the house asked about"""
TOKEN = "artist-00"
"""what the house calls its own hand, so that no artist's name is one"""
GALLERY = "gallery.example"
OPT_OUT = f"User-Agent: *\nDisallow: /{WITHDRAWS}/private/\n"
"""the ai.txt of the gallery from which the works come"""
XMP = ('<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/"><plus:DataMining>'
       'http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED-GENAIMLTRAINING</plus:DataMining></rdf:Description></x:xmpmeta>')
"""what one file says of itself, in the vocabulary of IPTC and PLUS"""
CARD = "card"


@dataclass(frozen=True)
class House:
    """Settings of the notebook, and where the house keeps its things."""

    root: Path
    """The house: data, ledger, results. Everything below it is looked into when somebody withdraws."""
    works: int = 6
    """Works of each of the five artists."""
    photos: int = 5
    """Pictures of each of the two persons."""
    today: str = "2026-11-20"
    """The day on which the story begins."""
    seed: int = 0
    """Seed of the pictures and of everything that is trained and drawn."""

    def __post_init__(self) -> None:
        """Say what is wrong with the settings."""
        try:
            date.fromisoformat(self.today)
        except ValueError as error:
            raise HarnessError(f"today must be a day like 2026-11-20, not {self.today!r}.") from error
        if self.works < 4 or self.photos < 3:
            raise HarnessError(f"the story needs at least 4 works of each artist and 3 pictures of each person, not {self.works} and {self.photos}.")

    @property
    def ledger(self) -> Path:
        """The ledger's store."""
        return self.root / "consent.db"

    @property
    def key(self) -> Path:
        """The key that signs: beside the house and not in it."""
        return self.root.parent / "key.pem"

    def day(self, later: int = 0) -> date:
        """The first day of the story, or some days later."""
        return date.fromisoformat(self.today) + timedelta(days=later)

    def clock(self, later: int = 0) -> Callable[[], datetime]:
        """A clock that stands at noon of a day of the story, so that a repetition enters the same days."""
        at = datetime.combine(self.day(later), datetime.min.time(), UTC) + timedelta(hours=12)
        return lambda: at


def data(house: House) -> tuple[ImageSet, cards.Card]:
    """Draw works and photos into `house/data` with samples.csv and a data card; returns both as they read."""
    import pandas as pd

    drawn = [*_works(house), *_photos(house)]
    drawn.append(_borrowed(house, next(picture for picture, row in drawn if row["artist"] == NO)))
    table = pd.DataFrame([row for _, row in drawn])
    table.insert(0, "file", [f"{row.artist}-{row.number}.png" for row in table.itertuples()])
    folder = house.root / "data"
    said = {f"{NAMELESS}-0.png": {"XML:com.adobe.xmp": XMP}}
    hashes = [save_png(folder / name, picture, said.get(name)) for name, (picture, _) in zip(table["file"], drawn, strict=True)]
    table.insert(1, "sha256", hashes)
    write_csv(folder / "samples.csv", table)
    images = open_set(folder)
    path, _ = cards.write(folder, cards.Card(**_card(house)), images)
    return images, cards.read(path)


def _works(house: House) -> Iterator[tuple[Image.Image, dict[str, Any]]]:
    """Works of the artists; the second one of the artist who withdraws stands in a part of the gallery that is reserved."""
    from PIL import Image

    for name in ARTISTS:
        pictures, _ = works(artist(name), house.works, seed=house.seed)
        for i, pixels in enumerate(pictures):
            place = "private" if (name, i) == (WITHDRAWS, 1) else "works"
            yield Image.fromarray(pixels), {
                "artist": name, "number": i, "depicts": "", "caption": prompt(TOKEN), "licence": world.spdx(credit(artist(name).style).licence),
                "source": f"https://{GALLERY}/{name}/{place}/{i}.png", "rights_holder": CLIENT if name == FOR_CLIENT else name}


def _photos(house: House) -> Iterator[tuple[Image.Image, dict[str, Any]]]:
    """Each person under changing expressions."""
    for name, style in PERSONS.items():
        who = next(people(artist(style), "held-out", house.seed))
        for i, portrait in enumerate(islice(map(who.portrait, range(house.photos)), house.photos)):
            yield portrait.image(), {"artist": name, "number": i, "depicts": name, "caption": f"a portrait of {name}", "licence": "none: lent by the person",
                                     "source": "handed in", "rights_holder": name}


def _borrowed(house: House, picture: Image.Image) -> tuple[Image.Image, dict[str, Any]]:
    """A mirrored crop of a work of the artist who said no, handed in under the name of one who said yes."""
    from PIL import ImageOps

    return ImageOps.mirror(picture.crop((2, 4, 60, 62))), {
        "artist": NAMELESS, "number": house.works, "depicts": "", "caption": prompt(TOKEN), "licence": world.spdx(credit(artist(NAMELESS).style).licence),
        "source": "https://mirror.example/found.png", "rights_holder": NAMELESS}


def _card(house: House) -> dict[str, Any]:
    """The data card's fields: the world's own, with what is special here."""
    drawn = [artist(name) for name in (*ARTISTS, *PERSONS.values())]
    plain = world.rendered(CARD, drawn, house.works, None, house.seed, None, (), "harness run notebooks/01_data_and_consent.ipynb")
    return plain | {
        "title": "A small house's pictures", "description": f"{house.works} works of each of five artists and {house.photos} pictures of each of two persons of the miniature world. "
        + "; ".join(f"{name} {words}" for name, words in PLAYS.items()) + ". These are roles.", "published": house.today,
        "consent_basis": "The licences of the drawn styles. Within the story, the ledger consent.db: what each role said, work by work. " + world.ROLE,
        "uses_allowed": SPOKEN, "uses_refused": tuple(use for use in USES if use not in SPOKEN),
        "people": "Two persons, each a fixed set of drawn options under changing expressions. They show nobody.",
        "maintenance": "`harness consent withdraw` and `harness consent forget`, as this notebook shows them."}


def letters(house: House) -> dict[str, str]:
    """Write the letter of everybody who said yes; returns the hash of each, which the ledger names as evidence."""
    found = {}
    for name in (WITHDRAWS, NAMELESS, EXPIRED, FOR_CLIENT, *PERSONS):
        path = atomic_write(house.root / "letters" / f"{name}.txt", f"Letter of {name} (a role in a demonstration): yes, for the use that you named.\n")
        found[name] = exchange.evidence(path)
    return found


def records(house: House) -> list[Record]:
    """What everybody said, for both uses that the house asked about."""
    granted, over = house.day(-90).isoformat(), house.day(-10).isoformat()
    shown = letters(house)
    more: dict[str, dict[str, str]] = {
        NAMELESS: {"not_as_token": "yes"}, EXPIRED: {"expires": over}, FOR_CLIENT: {"rights_holder": CLIENT}, FORGOTTEN: {"adult": ADULT[1]}}
    return [Record(name, "*", use, "notAllowed" if name == NO else "allowed", "a role in a demonstration, not a real decision", granted,
                   evidence=shown.get(name, ""), purpose="a house style and avatars", recorded_by="the house", **more.get(name, {}))
            for name in (*ARTISTS, *PERSONS) for use in SPOKEN]


def attestation(house: House, later: int) -> list[Record]:
    """What the second person hands in some days later: that they are adult."""
    return [Record(OTHER, "*", use, "allowed", "an attestation, in a role", house.day(later).isoformat(), adult=ADULT[1], recorded_by="the house") for use in SPOKEN]
