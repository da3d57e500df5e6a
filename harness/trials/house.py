"""What the house of the second notebook made with consent, and what is looked at when somebody says no afterwards.

Two runs: a hand learnt from the works that may be used, and avatars of two persons. Each leaves what a real run leaves: adapters
with latents, pictures, vectors, a page with thumbnails; the first also a signed report.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps

from harness import plots, stats
from harness.audit.corpus import Answer
from harness.consent import cards, tombstone
from harness.consent.gate import Decision
from harness.consent.ledger import Record
from harness.consent.reach import Reach
from harness.finetune import Adapter, Lora, lora
from harness.images import ImageSet, atomic_write, save_png, sha256, write_csv, write_set
from harness.report import Figure
from harness.runs import manifest
from harness.runs.folders import add_works
from harness.sample import Sampling, cross, sample
from harness.trials import roles
from harness.trials.case import MOODS
from harness.trials.roles import House
from harness.world import cards as world
from harness.world.artists import artist
from harness.world.captions import prompt
from harness.world.render import works

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from harness.consent.search import Answer as Searched

HAND, AVATARS = "house-style", "house-avatars"
SHORT = (("nearly the same", "a copy"), ("in the file", "the file says no"), ("opt-out list", "ai.txt says no"), ("expired", "time is over"),
         ("holds the rights", "client not asked"), ("notAllowed", "said no"), ("withdrawn", "withdrawn"), ("token", "no token"))


def _jpeg(picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=50)
    return Image.open(buffer).convert("RGB")


def _warmer(picture: Image.Image) -> Image.Image:
    """Other colours everywhere: channels mixed and shifted."""
    return picture.convert("RGB", (0.7, 0.3, 0, 20, 0.2, 0.6, 0.1, 0, 0, 0.3, 0.5, 10))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "cropped": lambda p: p.crop((p.width // 12, p.height // 16, p.width - p.width // 8, p.height - p.height // 8)),
    "JPEG 50": _jpeg, "mirrored": ImageOps.mirror, "recoloured": _warmer, "shrunk": lambda p: p.resize((p.width * 3 // 4, p.height * 3 // 4), Image.Resampling.LANCZOS)}
"""what is done to a work so that its hash is another one"""


HOW = ("hash", "look", "word", "bytes")
LEAD = ("A small house has pictures of five artists and two persons. This page says who agreed to what, which pictures could be used, and what could be found and taken out "
        "when an artist withdrew and a person asked to be forgotten.")
LIMITS = ("Every part is a role that a pseudonym of the miniature world plays; nobody behind a style refused, withdrew or asked to be forgotten.",
          "What was found holds for the folders that were looked into. What had left the house before, a download or a print, is beyond any ledger.",
          "The pictures are drawn, 64 pixels wide. How often changed copies are caught elsewhere has to be measured there.",
          "No finding says whether a use was lawful; this page is not legal advice.")
METHODS = ("The ledger was asked about every picture: artist, whoever else holds the rights, whoever is shown, and words left in files and lists.",
           "A small LoRA was trained on what was allowed, and one picture drawn for each prompt.",
           "An artist withdrew: what the works had reached was listed and taken out, and changed copies of the works were handed in under another name.",
           "A person asked to be forgotten: everything was handed over, taken out, and looked for by a search that shares no code with the taking out.")


def learn(house: House, run: str, pipe: Any, images: ImageSet, decision: Decision, steps: int, rank: int, name: str = "adapter") -> Adapter:
    """A small LoRA on pictures that the gate let through, in the folder of one of the house's runs."""
    how = Lora(rank=rank, layers="attention+convolutions", learning_rate=8e-4, snr_gamma=5.0, steps=steps, seed=house.seed,
               warmup=min(10, steps // 2), checkpoint_every=steps)
    return lora(how, pipe, images, folder(house, run) / name, decision)


def draw(house: House, pipe: Any, adapter: Adapter, how: Sampling, prompts: int, name: str = "drawn", person: str = "") -> ImageSet:
    """One picture for each prompt with an adapter, beside it."""
    words = [prompt(None if person else roles.TOKEN, noun, expression=mood) for noun in ("person", "figure", "character", "farmer", "musician") for mood in MOODS]
    asked = [f"{each}, a portrait of {person}" if person else each for each in words[:prompts]]
    # one seed for two persons would give nearly the same picture, of which nobody could say whose it is
    start = house.seed + 1000 * (1 + list(roles.PERSONS).index(person)) if person else house.seed
    return sample(pipe, *cross(asked, [start]), how, adapter.path.parent.parent / name, adapter=adapter.path)


def folder(house: House, run: str) -> Path:
    """The folder of one of the house's runs."""
    return house.root / "results" / run


def close(house: House, run: str, went_in: ImageSet, pages: Mapping[str, Image.Image]) -> Path:
    """Write what a finished run has besides: works.csv, a saved notebook with a thumbnail of each of `pages`, and a manifest."""
    place = folder(house, run)
    add_works(place, went_in, "trained on")
    cells = [{"cell_type": "code", "id": f"shown-{i}", "metadata": {}, "execution_count": None, "source": f"# {title}",
              "outputs": [{"output_type": "display_data", "metadata": {}, "data": {"image/png": base64.b64encode(plots.png(picture)).decode()}}]}
             for i, (title, picture) in enumerate(pages.items())]
    atomic_write(place / manifest.SAVED, json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1) + "\n")
    outputs = {name: sha256(place / name) for name in manifest.output_files(place, [place])}
    report = next((name for name in outputs if name == "report.html"), None)
    manifest.write(place, {"schema": manifest.SCHEMA, "status": manifest.COMPLETE, "notebook": run, "process": {}, "notes": {}, "outputs": outputs,
                           "report": report, "error": None})
    return place


def unseen(house: House, each: int) -> ImageSet:
    """Other works of the two artists whose works are learnt from, which the house never had; they lie beside it."""
    import numpy as np
    import pandas as pd

    drawn = [works(artist(name), house.works + each, seed=house.seed) for name in (roles.WITHDRAWS, roles.NAMELESS)]
    names = [name for name in (roles.WITHDRAWS, roles.NAMELESS) for _ in range(each)]
    return write_set(house.root.parent / "unseen", np.concatenate([pixels[house.works:] for pixels, _ in drawn]), pd.DataFrame({"artist": names}))


def changed(images: ImageSet, place: Path) -> ImageSet:
    """Every picture changed in each way of CHANGES, handed in as works of somebody who said yes (columns change, of)."""
    import pandas as pd

    made = [(change(picture), {"artist": roles.NAMELESS, "change": how, "of": digest}) for picture, digest in
            zip(images.decoded(), images.table["sha256"], strict=True) for how, change in CHANGES.items()]
    return write_set(place, [picture for picture, _ in made], pd.DataFrame([row for _, row in made]))


def caught(answers: Iterable[Decision], copies: ImageSet, others: ImageSet) -> pd.DataFrame:
    """How many changed copies the gate caught, by change and in all, and how many other works it blocked; exact 95 % intervals.

    The interval over all changes counts works and not copies, as copies of one work resemble each other.
    """
    import pandas as pd

    hit = {work for answer in answers for work, why in answer.blocked_works if "nearly the same" in why}
    seen = copies.table["sha256"].isin(hit)
    rows = [(how, *_counted(seen[copies.table["change"] == how])) for how in CHANGES]
    rows.append(("all changed copies", int(seen.sum()), len(seen), *_by_work(seen, copies.table["of"])))
    rows.append(("other works, blocked by mistake", *_counted(others.table["sha256"].isin(hit))))
    return pd.DataFrame(rows, columns=["what", "caught", "of", "share", "low", "high"])


def _counted(flags: pd.Series) -> tuple[int, int, float, float, float]:
    return (int(flags.sum()), len(flags), *stats.rate_interval(int(flags.sum()), len(flags)))


def _by_work(flags: pd.Series, of: pd.Series) -> stats.Interval:
    """The rate over copies, with an interval for works in general: where all were caught, so many works say no more than that."""
    share = stats.clustered_rate(flags, of)
    return share if 0 < share.estimate < 1 else stats.rate_interval(share.estimate * of.nunique(), of.nunique())


def told(table: pd.DataFrame) -> str:
    """The last two lines of `caught` in words."""
    all_of, other = table.iloc[-2], table.iloc[-1]
    return (f"{all_of.caught} of {all_of.of} changed copies were caught (95 % interval for works in general {100 * all_of.low:.0f} to {100 * all_of.high:.0f} %); "
            f"of {other.of} other works {other.caught} were blocked by mistake (at most {100 * other.high:.1f} %).")


def sheets(decision: Decision, images: ImageSet, columns: int) -> dict[str, Image.Image]:
    """Contact sheets of what the gate allows and, with the reason below each, of what it blocks."""
    why = dict(decision.blocked_works)
    blocked = images.table["sha256"].isin(why)
    parts = {"allowed": images.where(~blocked), "blocked": images.where(blocked)}
    short = [next((said for part, said in SHORT if part in why[work]), why[work]) for work in parts["blocked"].table["sha256"]]
    words = {"allowed": list(parts["allowed"].table["artist"]), "blocked": short}
    return {name: plots.contact_sheet(part, words[name], columns) for name, part in parts.items() if len(part)}


def keep(answer: Answer, images: ImageSet, place: Path) -> str:
    """Write the table and the pictures of what was asked of a folder; returns its words without the machine's name for that folder."""
    write_csv(place / f"{answer.name}.csv", answer.table)
    for i, picture in enumerate(answer.pictures.values(), 1):
        save_png(place / f"{answer.name}{f'-{i}' if i > 1 else ''}.png", picture)
    return answer.words.replace(str(images.folder), "the folder")


def passing(matches: np.ndarray, images: ImageSet) -> pd.DataFrame:
    """Of each artist's or person's pictures the share that passes a filter which keeps half of all."""
    import numpy as np
    import pandas as pd

    passed = pd.Series(matches >= np.median(matches)).groupby(images.table["artist"].to_numpy())
    return passed.agg(pictures="size", passing="mean").rename_axis("artist or person").reset_index().round(2)


def ledger_table(records: Iterable[Record]) -> pd.DataFrame:
    """The ledger as a person reads it: one line for each decision, with all uses that it is about."""
    import pandas as pd

    rows: dict[tuple[str, ...], list[str]] = {}
    for r in records:
        said = (r.subject, r.decision, r.granted, r.expires, r.rights_holder, r.adult, r.not_as_token, r.evidence[:8])
        rows.setdefault(said, []).append(r.use.removeprefix("cawg."))
    names = ["who", "said", "from", "until", "rights holder", "adult", "name not as token", "letter", "uses"]
    return pd.DataFrame([(*said, ", ".join(uses)) for said, uses in rows.items()], columns=names)


def impact(found: Reach, house: House) -> pd.DataFrame:
    """The files that works reached: kind, place in the house, what is to be done and what follows."""
    import pandas as pd

    root = os.path.realpath(house.root)
    return pd.DataFrame([(t.kind, os.path.relpath(t.path, root), t.action, t.after, t.why) for t in found.traces],
                        columns=["kind", "file", "action", "then", "why"])


def searched(answers: Mapping[str, Searched], house: House) -> pd.DataFrame:
    """For each search the number of files in which something was found, and how; the ledger's own journal counts as the ledger."""
    import pandas as pd

    rows = []
    for name, answer in answers.items():
        held = {(re.sub(r"-(wal|shm)$", "", re.split("!| \\(", hit.place)[0]), hit.how) for hit in answer.hits}
        ways = Counter(how for _, how in held)
        rows.append((name, len({place for place, _ in held}), *(ways[how] for how in HOW)))
    return pd.DataFrame(rows, columns=["search", "files with traces", *(f"by {how}" for how in HOW)])


def buried(house: House) -> pd.DataFrame:
    """The tombstones, each with its signature checked: what was asked, how many files were reached, how many adapters have to be trained again."""
    import pandas as pd

    held = [tombstone.read(path) for path in tombstone.all_below([house.root])]
    rows = [(each["kind"], each.get("subject", ""), sum(each["removed"].values()), len(each["retrain"])) for each in held]
    return pd.DataFrame(sorted(rows, reverse=True), columns=["what was asked", "by whom", "files reached", "adapters to retrain"])


def handed_over(place: Path) -> pd.DataFrame:
    """What an export holds: files by kind, how many of them were copied, and why they are about the person."""
    import pandas as pd

    held = pd.read_csv(place / "held.csv", keep_default_na=False)
    return held.assign(copied=held["copied"] != "").groupby(["kind", "why"]).agg(files=("path", "size"), copied=("copied", "sum")).reset_index()


def figures(place: Path, pairs: Image.Image, changes: Image.Image, caught: str) -> list[Figure]:
    """The report's figures; the gate's two sheets are read from the run's folder."""
    allowed, blocked = ((place / f"{name}.png").read_bytes() for name in ("allowed", "blocked"))
    return [Figure(allowed, "What the gate allows.", "Small drawn works and portraits, each with the pseudonym whose it is."),
            Figure(blocked, "What the gate blocks, with the reason below each.", "Small drawn works, each with a reason such as: said no, time is over, client not asked."),
            Figure(plots.png(changes), f"Changed copies of withdrawn works, handed in under another name. {caught}", "Withdrawn works cropped, compressed, mirrored, recoloured and shrunk."),
            Figure(plots.png(pairs), "The drawn pictures nearest to a training work, each with that work.", "Pairs of a drawn picture and the closest training work.", "copies")]


def tell(house: House, asked: Decision, trained: Decision, card: cards.Card, more: Sequence[str] = ()) -> dict[str, Any]:
    """The story of the report; `more` are further sentences on what was done."""
    drawn = [artist(name) for name in (*roles.ARTISTS, *roles.PERSONS.values())]
    data = {"name": card.title, "licence": card.license, "basis": "the ledger of consent, work by work", "sha256": card.table_sha256}
    return {"title": "Who agreed to what", "purpose": trained.purpose, "lead": LEAD, "limits": LIMITS, "consent": asked.as_dict(), "credits": world.credits(drawn),
            "made": "; ".join(f"{name} {words}" for name, words in roles.PLAYS.items()) + ". These are roles of pseudonyms.",
            "questions": {"copies": "Did a picture that was drawn before the withdrawal copy a work?"}, "methods": [*METHODS, *more],
            "data": [data | {"use": "trained on, with consent", "works": trained.images}, data | {"use": "asked about and blocked", "works": asked.blocked}],
            "settings": {"works of each artist": house.works, "pictures of each person": house.photos, "first day": house.today, "seed": house.seed}}
