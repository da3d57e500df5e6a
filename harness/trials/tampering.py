"""What a check of a sealed report notices, tried on copies: a changed byte, a forger with a key of their own, a redacted form, credentials.

Everything happens in temporary folders. Keys and certificates of a trial are made for it and are gone with it, so answers
are told with "the signer" and "the forger" in the place of fingerprints, and are the same each time.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness import plots
from harness.consent import keys
from harness.consent.ledger import USES
from harness.errors import HarnessError
from harness.images import atomic_write, decode, read_table
from harness.report import certificate, credentials, redact, seal, verify

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

PAGE, TABLE = "report.html", "findings.csv"
WHERE = {PAGE: b"<h1>", TABLE: b"\n"}
"""the digit that is changed is the first one after this; in a picture it is the last byte, which viewers skip"""
BADGE = re.compile(r'(<span class="badge )[^"]*(">)[^<]*')
LEFT_OUT = shutil.ignore_patterns("manifest.json", "notebook*.ipynb", ".*.tmp")


@dataclass(frozen=True)
class Trial:
    """One trial and what `harness verify` answered."""

    done: str
    """what was done to a copy"""
    pinned: bool
    """was the signer's fingerprint given to the check?"""
    answer: str
    """what the check said"""

    def __str__(self) -> str:
        """Two lines for people."""
        return f"{self.done}\n    {'with' if self.pinned else 'without'} the fingerprint: {self.answer}"


@contextmanager
def copied(folder: Path) -> Iterator[Path]:
    """A copy of a report's folder, gone afterwards."""
    with tempfile.TemporaryDirectory() as work:
        yield Path(shutil.copytree(folder, Path(work) / "copy", ignore=LEFT_OUT))


def ask(folder: Path, signer: str, pinned: bool, done: str, others: Mapping[str, str] | None = None) -> Trial:
    """Check a folder, with the signer's fingerprint as pin or without; known fingerprints are told by whose they are."""
    answer = verify.check(folder, signer if pinned else "").sentence
    for fingerprint, whose in ({signer: "the signer"} | dict(others or {})).items():
        answer = answer.replace(fingerprint, whose)
    return Trial(done, pinned, answer)


def alter(path: Path) -> str:
    """Change one byte of a file and say which: in text a digit, in anything else the last byte."""
    data = bytearray(path.read_bytes())
    mark = WHERE.get(path.name)
    digit = re.compile(rb"\d").search(data, data.index(mark) + len(mark)) if mark else None
    place = digit.start() if digit else len(data) - 1
    before, data[place] = data[place], data[place] ^ 1
    atomic_write(path, bytes(data))
    return f"byte {place:,}: {f'{chr(before)} → {chr(data[place])}' if digit else f'{before:02x} → {data[place]:02x}'}"


def picture(folder: Path) -> str:
    """The name of the last picture under the seal."""
    found = [name for name in seal.listed(folder) if name.endswith(".png")]
    if not found:
        raise HarnessError(f"{folder}: no picture in it to try a change on")
    return found[-1]


def changes(folder: Path, signer: str) -> list[Trial]:
    """A byte of a picture, of the table of findings and of the page, each on a copy of its own."""
    found = []
    for what, name in (("a picture", picture(folder)), ("a table", TABLE), ("the page", PAGE)):
        with copied(folder) as copy:
            where = alter(copy / name)
            found.append(ask(copy, signer, True, f"{what}, {where}"))
    return found


def pair(folder: Path) -> Image.Image:
    """A picture beside the same with its last byte changed."""
    import numpy as np

    name = picture(folder)
    with tempfile.TemporaryDirectory() as work:
        copy = Path(shutil.copy(folder / name, work))
        alter(copy)
        return plots.side_by_side({"as sealed": np.asarray(decode(folder / name))[None], "changed": np.asarray(decode(copy))[None]}, cell=192)


def forgery(folder: Path, signer: str) -> list[Trial]:
    """Every verdict on the page becomes `Not found`, and the whole copy is sealed anew with another key: without and with the pin."""
    with copied(folder) as copy, tempfile.TemporaryDirectory() as home:
        forger = keys.create(Path(home) / "forger.pem")
        page = (copy / PAGE).read_text(encoding="utf-8")
        atomic_write(copy / PAGE, BADGE.sub(r"\g<1>not-found\g<2>Not found", page))
        seal.write(copy, forger)
        return [ask(copy, signer, pinned, "all verdicts, signed by a forger", {forger.fingerprint: "the forger"}) for pinned in (False, True)]


def redacted(folder: Path, signer: str) -> list[Trial]:
    """The redacted form with prompts and without: does it verify, and against the same root?"""
    found, root = [], seal.read(folder).root
    for words, prompts in (("without pictures", True), ("without pictures and prompts", False)):
        with tempfile.TemporaryDirectory() as work:
            form = redact.redact(folder, Path(work) / "redacted", prompts)
            trial, held = ask(form, signer, True, f"a redacted form {words}"), verify.check(form)
            same = "the same root" if seal.read(form).root == root else "another root"
            found.append(Trial(trial.done, True, f"{trial.answer} {len(held.withheld)} of {held.files} files withheld, {same}."))
    return found


# --- content credentials ----------------------------------------------------------------------------------------------


def credential(image: Path) -> list[str]:
    """C2PA credentials on a copy of a picture, with a demonstration certificate; then one byte is changed, or the copy is saved anew.

    Returns a sentence for each. Raises HarnessError without the package c2pa-python.
    """
    with tempfile.TemporaryDirectory() as work:
        chain, key = certificate.make(Path(work) / "certificate", "A demonstration, trusted by nobody")
        signed = credentials.sign(image, Path(work) / "signed.png", chain, key, dict.fromkeys(USES, "notAllowed"))
        return [f"{way}: {_read(go(signed))}" for way, go in WAYS.items()]


def _one_byte(path: Path) -> Path:
    copy = Path(shutil.copy(path, path.with_name("changed.png")))
    alter(copy)
    return copy


def _saved(suffix: str) -> Callable[[Path], Path]:
    def save(path: Path) -> Path:
        to = path.with_name(f"anew{suffix}")
        decode(path).save(to)
        return to
    return save


WAYS: dict[str, Callable[[Path], Path]] = {"signed": lambda path: path, "one byte changed": _one_byte, "saved anew as PNG": _saved(".png"),
                                           "saved as JPEG": _saved(".jpg")}


def _read(path: Path) -> str:
    """What a picture's credentials say, in a sentence."""
    held = credentials.read(path)
    if held is None:
        return "none"
    if not held.intact:
        return f"do not fit the picture ({', '.join(held.problems)})"
    said = held.assertions["cawg.training-mining"]["entries"]["cawg.ai_generative_training"]["use"]
    return f"intact: made by {held.generator}, signed by “{held.issuer}”, generative training {said}"


def survival(project: Path) -> pd.DataFrame | None:
    """The measured matrix of marks and ways, survived of tried; None where nothing was published."""
    path = project / "results" / "published" / "survival.csv"
    if not path.is_file():
        return None
    rows = read_table(path)
    cells = rows.assign(kept=[f"{survived}/{n}" for survived, n in zip(rows["survived"], rows["n"], strict=True)])
    return cells.pivot(index="mark", columns="way", values="kept").loc[list(dict.fromkeys(rows["mark"])), list(dict.fromkeys(rows["way"]))]
