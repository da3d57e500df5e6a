"""One report out of finished runs: their findings, figures, consent, data, models and cost, with the files that they stand on.

Nothing is measured again and nothing is worded again. What must not be passed on stays where it is: the works that went
in, caches, ledgers, and an adapter that was made for an audit.
"""

from __future__ import annotations

import base64
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.consent import cards, keys
from harness.consent.ledger import USES
from harness.errors import HarnessError, Refused
from harness.finetune import Adapter
from harness.finetune.adapter import WEIGHTS
from harness.forecast import energy, units
from harness.images import ImageSet, atomic_write, open_set, read_table, sha256
from harness.report import Figure, evidence, facts, model_card
from harness.runs import Run, crate, rows
from harness.runs.folders import WORKS
from harness.stats import Finding
from harness.trials.sources import Source
from harness.world.cards import shipped

TABLES = (rows.FINDINGS, rows.NAME, rows.SAMPLES, WORKS)
CARD = "pictures"
PICTURE = re.compile(r'<img src="data:image/png;base64,([A-Za-z0-9+/=]+)"')
LEAD = ("This page gathers what finished runs found, for a reader who does not trust those who made them. Every file beside it lies under one signed "
        "seal: “harness verify” says without a network whether anything was changed since, and with which key it was sealed.")
LIMITS = ("A seal shows that nothing was changed since it was made. It does not show that what was sealed is true, nor when it was sealed.",
          "Nothing was measured again here: the findings are those of the runs that are named.")


def signer(pin: str, *private: Path) -> keys.Key:
    """This user's key ($HARNESS_KEY, or ~/.config/likeness/key.pem, made at its first use), which must have the fingerprint `pin` where one is given.

    Raises HarnessError for another key, and Refused for a key that lies in one of the folders `private`, whose files are passed on.
    """
    key = keys.default()
    if pin and key.fingerprint != pin:
        raise HarnessError(f"`key` asks for {pin}, and the key here is {key.fingerprint}; set $HARNESS_KEY to the file of the right one")
    if any(key.path.resolve().is_relative_to(folder.resolve()) for folder in private):
        raise Refused(f"{key.path.name}: the signing key lies in the folder of a run, and those are passed on; move it and set $HARNESS_KEY")
    return key


# --- what the runs say ------------------------------------------------------------------------------------------------


def findings(sources: Sequence[Source]) -> list[Finding]:
    """The findings of all runs as they stand in their tables; of several, each names its run."""
    return [each.but(subject=f"{each.subject} ({mark})" if mark else each.subject) for source, mark in _marked(sources) for each in rows.findings(source.folder)]


def figures(sources: Sequence[Source]) -> list[Figure]:
    """The figures of the runs' own pages, each the picture whose hash stands in report.json. Raises HarnessError for one that is not there."""
    found = []
    for source, mark in _marked(sources):
        page = (source.folder / "report.html").read_text(encoding="utf-8")
        shown = {sha256(data): data for data in map(base64.b64decode, PICTURE.findall(page))}
        lost = [row["caption"] for row in source.told["figures"] if row["sha256"] not in shown]
        if lost:
            raise HarnessError(f"{source.folder / 'report.html'}: the figure {lost[0]!r} of report.json is not on the page; run its notebook again")
        found += [Figure(shown[row["sha256"]], f"{_begin(mark)}{row['caption']}", row["alt"], row["question"]) for row in source.told["figures"]]
    return found


def _marked(sources: Sequence[Source]) -> list[tuple[Source, str]]:
    """Each run with what tells it from the others ("run 2"); a single one needs nothing."""
    return [(source, f"run {number}" if len(sources) > 1 else "") for number, source in enumerate(sources, 1)]


def story(sources: Sequence[Source]) -> dict[str, Any]:
    """The story of the dossier: what each run's report and manifest tell, side by side."""
    told = [(each, facts.from_manifest(each.manifest), mark) for each, mark in _marked(sources)]
    titles = "; ".join(dict.fromkeys(source.told["title"] for source in sources))
    parts: dict[str, Any] = {"title": f"Dossier: {titles}", "purpose": purpose(sources), "lead": LEAD, "made": _made(told),
                             "questions": {key: text for each in sources for key, text in each.told.get("questions", {}).items()},
                             "limits": _once([*LIMITS, *(text for each in sources for text in each.told.get("limits", ()))]),
                             "methods": [f"{each.words}: its outputs were held against the hashes in its manifest{' and against its seal' * each.sealed}, then taken as they are."
                                         for each in sources]}
    parts |= {"settings": _labelled([(mark, source.told.get("settings") or more["settings"]) for source, more, mark in told]),
              "compute": _labelled([(mark, {**source.told.get("compute", {}), **more["compute"]}) for source, more, mark in told]),
              "cost": _labelled([(mark or "the run", cost(each)) for each, _, mark in told])}
    parts |= {"data": [row for source, more, _ in told for row in (*_data(source), *more["data"])], "models": _once(row for _, more, _ in told for row in more["models"]),
              "credits": _once(row for source in sources for row in source.told.get("credits", ()))}
    decision = consent(sources)
    return parts | ({"consent": decision} if decision else {})


def purpose(sources: Sequence[Source]) -> str:
    """audit as soon as one run was an audit."""
    return "audit" if any(source.told["purpose"] == "audit" for source in sources) else "training"


def _made(told: Sequence[tuple[Source, Mapping[str, Any], str]]) -> str:
    return " ".join(f"{_begin(mark)}{source.words}; {source.told.get('made', '')}".strip("; ") for source, _, mark in told)


def _begin(mark: str) -> str:
    """Run 2 and a colon, for the beginning of a sentence; nothing for a single run."""
    return f"{mark.capitalize()}: " if mark else ""


def _labelled(parts: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    return {f"{mark}: {name}" if mark else name: value for mark, pairs in parts for name, value in pairs.items()}


def _once(items: Iterable[Any]) -> list[Any]:
    """In their order, none twice; they may be dicts."""
    found: list[Any] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found


def cost(source: Source) -> dict[str, str]:
    """What the run took, as its launcher counted when it had ended; empty where it ran without one."""
    actual = source.manifest.get("actual") or {}
    if not actual:
        return {}
    memory, money = (actual["peak_memory"] or {}).get("host_bytes"), actual["cost"]
    return {"time": units.seconds(actual["seconds"]), **({"memory": units.size(memory)} if memory else {}), "disk": units.size(actual["disk_bytes"]),
            **({"operations": units.operations(actual["flops"]["value"])} if actual["flops"]["value"] else {}),
            "energy": energy.line(actual["energy"]).removeprefix("energy: "),
            "money": "no price per hour was set" if money is None else f"{units.money(money)} at {actual['price_per_hour']:g} an hour"}


def consent(sources: Sequence[Source]) -> dict[str, Any] | None:
    """What the gate answered all runs, as one answer: allowed only where every one is."""
    held = [each.consent for each in sources if each.consent]
    if not held:
        return None
    words = {name: ", ".join(dict.fromkeys(str(each[name]) for each in held)) for name in ("use", "at", "ledger_sha256")}
    return words | {"allowed": all(each["allowed"] for each in held), "exportable": all(each["exportable"] for each in held), "purpose": purpose(sources),
                    "images": sum(each["images"] for each in held), "blocked": sum(each["blocked"] for each in held),
                    "reasons": _once(reason for each in held for reason in each["reasons"]), "wishes": _once(wish for each in held for wish in each.get("wishes", ()))}


def _data(source: Source) -> list[dict[str, Any]]:
    """A row for each artist and role in the run's works.csv, with the licence of the data card that describes the artist."""
    if not (source.folder / WORKS).is_file():
        return []
    table = read_table(source.folder / WORKS)
    counted = Counter((subject, role) for subject, role in zip(table["subject"], table["role"], strict=True) if "/" not in subject)  # artist-21/4eebab3f: a person in it
    known = {subject: next((card for card in shipped().values() if re.search(rf"\b{re.escape(subject)}\b", card["body"])), {}) for subject, _ in counted}
    return [{"name": f"works of {subject or 'nobody named'}", "use": role, "works": count, "licence": known[subject].get("license"),
             "basis": f"data card {known[subject]['name']}" if known[subject] else None, "sha256": sha256(source.folder / WORKS)}
            for (subject, role), count in counted.items()]


# --- the files that go along ------------------------------------------------------------------------------------------


def pack(sources: Sequence[Source], run: Run) -> list[ImageSet]:
    """Copy each run's tables and the pictures that came out into a folder of its name, and take over what went into it.

    The works themselves are not copied: works.csv has their hashes, so that a later withdrawal finds the dossier too.
    """
    return [_packed(source, run) for source in sources]


def _packed(source: Source, run: Run) -> ImageSet:
    to = run.folder / source.name
    for name in (*TABLES, *read_table(source.folder / rows.SAMPLES)["file"]):
        if (source.folder / name).is_file():
            atomic_write(to / name, (source.folder / name).read_bytes())
    for images, role in _went_in(source):
        run.used(images, role)
    return open_set(to)


def _went_in(source: Source) -> Iterator[tuple[ImageSet, str]]:
    table = read_table(source.folder / WORKS) if (source.folder / WORKS).is_file() else None
    for role, part in table.groupby("role", sort=False) if table is not None else ():
        yield ImageSet(source.folder, part.reset_index(drop=True)), str(role)


def describe(source: Source, pictures: ImageSet, licence: str = "") -> Path:
    """Write the data card of a run's pictures beside them, for people (Markdown) and machines (Croissant); returns the Croissant."""
    bound, said = purpose([source]) == "audit", evidence.consent_sentences(source.consent)
    card = cards.Card(
        name=CARD, title=f"Pictures of {source.words}", version="1.0.0", published=source.manifest["timings"]["ended"][:10], license=licence or crate.NO_LICENCE,
        description=f"{len(pictures)} pictures that the run drew; samples.csv gives prompt, seed, model and hash of each.",
        creators=(f"the models of {source.words}",), sources=(source.words,), credits=" ".join(_credits(source)) or "Nobody is named in the run's report.",
        consent_basis=" ".join(said) or "No decision of a consent gate is on record.", uses_allowed=(), uses_refused=USES if bound else (),
        collection=f"Drawn by the notebook {source.manifest['notebook']} with the prompts and seeds of samples.csv.",
        people="The pictures are drawn by a model; what they show is nobody's likeness on purpose, and nothing is said of gender or age.",
        biases="The report beside them asks what the pictures show of people, against the base model.", limitations=" ".join(source.told.get("limits", ())) or "See the report.",
        maintenance="A withdrawal finds the pictures by their hashes and by the adapter's: `harness consent withdraw`.")
    return cards.write(pictures.folder, card, pictures)[1]


def _credits(source: Source) -> list[str]:
    return [", ".join(row[name] for name in ("name", "work", "licence") if row.get(name)) + "." for row in source.told.get("credits", ())]


def archive(source: Source, to: Path, licence: str = "") -> Path:
    """Write a run as an RO-Crate, NAME.zip in the folder `to`; the same run gives the same bytes."""
    with tempfile.TemporaryDirectory() as work:
        return atomic_write(to / f"{source.name}.zip", crate.write(source.folder, Path(work) / "crate.zip", licence).read_bytes())


def publish(source: Source, to: Path, licence: str) -> Path:
    """Write the run's adapter and its model card into the folder `to`, both or nothing; returns the card.

    Raises Refused for an adapter that was made for an audit, HarnessError for a run without one, or without a licence.
    """
    if not (source.folder / "adapter" / WEIGHTS).is_file():
        raise HarnessError(f"{source.words}: no adapter in it; there is nothing to write a model card for")
    adapter, models = Adapter.open(source.folder / "adapter"), source.manifest["notes"].get("models") or {}
    with tempfile.TemporaryDirectory() as work:
        weights = adapter.export(Path(work) / WEIGHTS)
        card = model_card.write(adapter, Path(work), licence, str(models.get("model", "")), source.told["title"], limits=source.told.get("limits", ()),
                                credits=source.told.get("credits", ()))
        atomic_write(to / WEIGHTS, weights.read_bytes())
        return atomic_write(to / card.name, card.read_bytes())
