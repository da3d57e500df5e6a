"""``harness crate RUN``: a run as an RO-Crate (Process Run Crate 0.5) that others can read without this project.

What a run must not pass on stays at home: the pictures that went into it, caches made from them, ledgers, and the adapter
of a training that was allowed for an audit only. Each is named with its hash and the reason; the report's seal still holds.
"""

from __future__ import annotations

import argparse
import hashlib
import mimetypes
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from harness import __version__, provenance
from harness.errors import HarnessError, Refused
from harness.runs import manifest
from harness.validate import checks
from harness.runs.folders import TEXTS, WORKS

if TYPE_CHECKING:
    from rocrate.model import ContextEntity
    from rocrate.rocrate import ROCrate

PROFILE = {"@id": "https://w3id.org/ro/wfrun/process/0.5", "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}
INSIDE = "run"
"""folder of the crate that holds the run as it lay, so that its seal can still be verified there"""
CACHES, LEDGERS = ("embeddings", "latents"), (".db", ".sqlite", ".sqlite3")
STATUS = {manifest.COMPLETE: "http://schema.org/CompletedActionStatus", manifest.FAILED: "http://schema.org/FailedActionStatus"}
NO_LICENCE = "No licence was given for this run: nobody but its makers may use it beyond what the law allows."
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same run gives the same archive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``harness crate``."""
    parser.add_argument("run", type=Path, help="the folder of a run, or its name among this project's runs")
    parser.add_argument("--out", type=Path, help="a file ending in .zip, or a new folder (default: RUN.crate.zip beside the run)")
    parser.add_argument("--licence", default="", help="address or SPDX name of the licence under which the run is passed on")
    parser.add_argument("--author", default="", help="who made the run: a name, or `Name <https://orcid.org/…>`")


def main(args: argparse.Namespace) -> int:
    """Write the crate and say what was left out of it."""
    from harness.compare import compare

    folder = compare.find(args.run)
    out = args.out or folder.with_name(f"{folder.name}.crate.zip")
    kept, away = divide(folder)
    write(folder, out, args.licence, args.author)
    for reason in dict.fromkeys(away.values()):
        print(f"left out: {_count(away, reason)}: {reason}")
    print(f"crate of {len(kept)} files: {out}")
    return 0


def write(folder: Path, out: Path, licence: str = "", author: str = "") -> Path:
    """Write the crate of a finished or failed run to a .zip or a new folder; returns `out`.

    Raises HarnessError for a run that still goes on, whose files differ from its manifest, or where `out` is taken, and
    Refused where a file holds what looks like a secret.
    """
    found = manifest.read(folder)
    _check(folder, found, out)
    kept, away = divide(folder)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".crate-", suffix=".tmp", dir=out.parent) as made:
            copy, whole = Path(made) / "copy", Path(made) / "crate"
            _copy(folder, copy, kept, away)
            _described(found, copy, away, licence, author).write(whole)
            _place(whole, out, Path(made))
    except OSError as error:
        raise HarnessError(f"cannot write {out}: {error.strerror or error}; free some space or choose another place") from error
    return out


def _check(folder: Path, found: Mapping[str, Any], out: Path) -> None:
    if found["status"] not in STATUS:
        raise HarnessError(f"{folder}: this run is {found['status']}; export it when it has ended")
    changed = manifest.changed_outputs(folder)
    if changed:
        name, what = next(iter(changed.items()))
        raise HarnessError(f"{folder / name}: is {what} since the run ended, so the crate would not be what the manifest says; run it again")
    if out.exists() and (out.is_dir() or out.suffix != ".zip"):
        raise HarnessError(f"{out}: is there already; name a new folder, or a file that ends in .zip")
    for path in provenance.files(folder):
        if checks.secrets(path):
            raise Refused(f"{path}: holds what looks like a secret, and a crate is passed on; take it out and run the notebook again")


# --- what goes along --------------------------------------------------------------------------------------------------


def divide(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Names of the files that go into a crate, and of those that stay at home with the reason; relative to the run."""
    found, names = manifest.read(folder), [path.relative_to(folder).as_posix() for path in provenance.files(folder)]
    went_in = _went_in(folder)
    consent = found["notes"].get("consent")
    bound = found["notes"].get("purpose") == "audit" or isinstance(consent, dict) and not consent.get("exportable", True)
    away = {name: why for name in names if (why := _reason(name, folder, went_in, bound))}
    return [name for name in names if name not in away and not name.endswith(".tmp")], away


def _went_in(folder: Path) -> set[str]:
    """Hashes of the pictures that went into the run."""
    from harness.images import read_table

    return set(read_table(folder / WORKS)["sha256"]) if (folder / WORKS).exists() else set()


def _reason(name: str, folder: Path, went_in: set[str], bound: bool) -> str:
    """Why a file stays at home; "" for one that goes along."""
    path = PurePosixPath(name)
    if {*path.parts[:-1]} & {*CACHES}:
        return "caches, which are made again from the pictures"
    if path.suffix in LEDGERS:
        return "the consent ledger, which speaks of people"
    if bound and path.suffix == ".safetensors":
        return "weights of a training that was allowed for an audit only"
    if went_in and path.suffix not in TEXTS and provenance.sha256(folder / name) in went_in:
        return "pictures that went into the run; works.csv has their hashes"
    return ""


def _copy(folder: Path, copy: Path, kept: list[str], away: Mapping[str, str]) -> None:
    """The kept files, with the seal told of what is withheld."""
    from harness.report import seal

    for name in kept:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, copy / name)
    if seal.NAME in kept:
        sealed = {entry.path for entry in seal.read(copy).entries}
        seal.withhold(copy, sorted(sealed & {*away}), shut=False)


def _place(whole: Path, out: Path, made: Path) -> None:
    """Give the crate its final name, whole."""
    if out.suffix != ".zip":
        whole.rename(out)
        return
    archive = made / "crate.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(path for path in whole.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(whole).as_posix(), EPOCH)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            packed.writestr(entry, path.read_bytes())
    archive.replace(out)


# --- what the crate says ----------------------------------------------------------------------------------------------


def _described(found: Mapping[str, Any], copy: Path, away: Mapping[str, str], licence: str, author: str) -> ROCrate:
    """The crate of a run whose files lie in `copy`."""
    from rocrate.rocrate import ROCrate

    crate, ended = ROCrate(version="1.1"), found["timings"].get("ended") or found["timings"]["started"]
    crate.name, crate.datePublished = f"{found['notebook']}, run {found['id']}", ended
    crate.description = (f"A run of the notebook {found['notebook']} ({found['status']}), with its parameters, code, versions and hashes in "
                         f"{INSIDE}/{manifest.NAME}. {_left_out(away)}").strip()
    crate.root_dataset["conformsTo"] = _add(crate, PROFILE)
    crate.license = _licence(crate, licence)
    files = [crate.add_file(copy / name, f"{INSIDE}/{name}", properties=_file(copy / name, name)) for name in _names(copy)]
    action = _action(crate, found, files, author)
    crate.root_dataset["mentions"] = action
    return crate


def _names(copy: Path) -> list[str]:
    return [path.relative_to(copy).as_posix() for path in provenance.files(copy)]


def _left_out(away: Mapping[str, str]) -> str:
    told = [f"{_count(away, reason)} ({reason})" for reason in dict.fromkeys(away.values())]
    return f"Left out: {'; '.join(told)}." if told else ""


def _count(away: Mapping[str, str], reason: str) -> str:
    count = list(away.values()).count(reason)
    return f"{count} file{'s' * (count != 1)}"


def _file(path: Path, name: str) -> dict[str, Any]:
    kind = mimetypes.guess_type(name)[0] or ("application/json" if name.endswith(".ipynb") else "application/octet-stream")
    return {"name": name, "encodingFormat": kind, "contentSize": str(path.stat().st_size), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _action(crate: ROCrate, found: Mapping[str, Any], files: list[Any], author: str) -> ContextEntity:
    """The one thing that happened: this notebook with these parameters and inputs made these files."""
    by_name = {entity["name"]: entity for entity in files}
    made = [entity for name, entity in by_name.items() if name in found["outputs"] or name == manifest.SAVED]
    action = _add(crate, {"@id": f"#run-{found['id']}", "@type": "CreateAction", "name": f"Run of {found['notebook']}",
                          "description": provenance.mask(found["why_new"]), "startTime": found["timings"]["started"],
                          "actionStatus": STATUS[found["status"]]})
    action["instrument"] = _instrument(crate, found)
    action["object"] = [*_parameters(crate, found), *_inputs(crate, found), *([by_name[WORKS]] if WORKS in by_name else [])]
    if made:
        action["result"] = made
    if found["timings"].get("ended"):
        action["endTime"] = found["timings"]["ended"]
    if found["error"]:
        action["error"] = provenance.mask(found["error"]["reason"])
    if author:
        action["agent"] = crate.root_dataset["author"] = _person(crate, author)
    return action


def _instrument(crate: ROCrate, found: Mapping[str, Any]) -> ContextEntity:
    """The notebook as a program, with the harness and the packages that decide its results."""
    used = {"likeness-harness": __version__} | found["identity"]["packages"]
    needs = [_add(crate, {"@id": f"pkg:generic/{name}@{version}", "@type": "SoftwareApplication", "name": name, "softwareVersion": version})
             for name, version in used.items()]
    code = found["identity"]["notebook"] or "unknown"
    told = {"@id": f"#notebook-{found['notebook']}", "@type": "SoftwareSourceCode", "name": found["notebook"], "version": code,
            "programmingLanguage": "Python", "description": f"Jupyter notebook; SHA-256 of its code {code}; commit of its project {found['git'].get('commit') or 'unknown'}"}
    origin = found["git"].get("origin") or ""
    program = _add(crate, told | ({"url": origin} if origin.startswith(("https://", "http://")) else {}))
    program["softwareRequirements"] = needs
    return program


def _parameters(crate: ROCrate, found: Mapping[str, Any]) -> Iterator[ContextEntity]:
    for name, value in found["parameters"]["resolved"].items():
        told = value if isinstance(value, (str, int, float, bool)) else str(value)
        yield _add(crate, {"@id": f"#parameter-{name}", "@type": "PropertyValue", "name": name, "value": provenance.mask(told)})


def _inputs(crate: ROCrate, found: Mapping[str, Any]) -> Iterator[ContextEntity]:
    """Files and folders that went in: named by their hash, and not part of the crate."""
    for row in found["inputs"]:
        more = {"license": row["licence"]} if row.get("licence") else {}
        yield _add(crate, {"@id": f"nih:sha-256;{row['sha256']}", "@type": "CreativeWork", "name": provenance.mask(row["name"]), "sha256": row["sha256"]} | more)


def _licence(crate: ROCrate, given: str) -> str | ContextEntity:
    if not given:
        return _add(crate, {"@id": "#no-licence", "@type": "CreativeWork", "name": "No licence", "description": NO_LICENCE})
    address = given if "://" in given else f"https://spdx.org/licenses/{given}"
    return _add(crate, {"@id": address, "@type": "CreativeWork", "name": given, "description": f"The licence {given}"})


def _person(crate: ROCrate, author: str) -> ContextEntity:
    name, _, rest = author.partition("<")
    address = rest.rstrip("> ").strip()
    return _add(crate, {"@id": address if "://" in address else f"#{name.strip().replace(' ', '-')}", "@type": "Person", "name": name.strip()})


def _add(crate: ROCrate, told: Mapping[str, Any]) -> ContextEntity:
    return crate.add_jsonld(dict(told))
