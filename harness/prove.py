"""``harness prove``: the long proofs, each stamped with its command and the hash of the code that it exercised.

A proof ``NAME`` leaves ``results/published/NAME.*``; its stamp is ``NAME.stamp.json`` beside them. ``stale`` names every
stamp that no longer fits the code or the results, and a test fails on those.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from harness import provenance
from harness.errors import HarnessError
from harness.runs import notebooks

STAMP = ".stamp.json"
PUBLISHED = Path("results/published")


@dataclass(frozen=True)
class Proof:
    """A command, run in the root of the checkout, and the code that it exercises."""

    command: str
    "as one types it; it writes results/published/NAME.*"
    code: tuple[str, ...]
    "files and folders whose change makes the result stale"


SCORERS = tuple(f"harness/audit/{name}.py" for name in ("__init__", "copies", "exposure", "prompts", "representation", "style", "tiles"))
PROOFS: dict[str, Proof] = {
    "score": Proof(
        "harness world score",
        ("harness/trials/score.py", "harness/sample", "harness/models.py", "harness/stats.py", *(f"harness/world/{name}.py" for name in (
            "artists", "captions", "colour", "judge", "people", "render", "styles", "truths")),
         "harness/world/weights/clip", "harness/world/weights/judge.safetensors", "harness/world/weights/pipeline"),
    ),
    "mimicry": Proof(
        "python benchmarks/mimicry.py",
        ("benchmarks/mimicry.py", "harness/trials/case.py", "harness/trials/controls.py", "harness/finetune", "harness/sample", *SCORERS,
         "harness/embed.py", "harness/models.py", "harness/stats.py", "harness/world/hands.py", "harness/world/weights"),
    ),
    "kill": Proof(
        "python benchmarks/kill.py --times 50",
        ("benchmarks/kill.py", "notebooks/00_start_here.ipynb", "harness/runs", "harness/finetune", "harness/sample", "harness/embed.py", "harness/images.py", "harness/files.py",
         *SCORERS, *(f"harness/report/{name}.py" for name in ("__init__", "evidence", "facts", "page", "seal", "words")), "harness/trials/case.py", "harness/world/weights/pipeline", "harness/world/weights/clip"),
    ),
    "runs": Proof(
        "python benchmarks/runs.py",
        ("benchmarks/runs.py", "harness/runs", "harness/forecast", "harness/provenance.py", "harness/params.py", "harness/cli.py", "harness/images.py", "harness/files.py"),
    ),
    "inference": Proof("python benchmarks/inference.py", ("benchmarks/inference.py", "harness/inference", "harness/stats.py")),
    "resume": Proof("python benchmarks/resume.py", ("benchmarks/resume.py", "harness/finetune", "harness/images.py", "harness/files.py", "tests/tiny.py")),
    "finetune": Proof(
        "python benchmarks/finetune.py",
        ("benchmarks/finetune.py", "benchmarks/finetune_runs.py", "harness/finetune", "harness/conditioning.py", "harness/models.py", "harness/images.py", "harness/files.py"),
    ),
    "recipes": Proof(
        "python benchmarks/recipes.py",
        ("benchmarks/recipes.py", "harness/trials/marks.py", "harness/trials/judges.py", "harness/trials/copied.py", "harness/trials/case.py", "harness/finetune", "harness/sample",
         "harness/stats.py", "harness/world/identity.py", "harness/world/weights/identity.safetensors", "harness/world/weights/pipeline"),
    ),
    "near_duplicates": Proof(
        "python benchmarks/near_duplicates.py",
        ("benchmarks/near_duplicates.py", "harness/perceptual.py", *(f"harness/world/{name}.py" for name in ("artists", "colour", "hands", "people", "render", "styles"))),
    ),
    "corpus": Proof("python benchmarks/corpus.py", ("benchmarks/corpus.py", "harness/audit/search.py")),
    "impact": Proof(
        "python benchmarks/impact.py",
        ("benchmarks/impact.py", *(f"harness/consent/{name}.py" for name in ("reach", "files", "whose", "names", "tables", "rights", "requests", "cli"))),
    ),
    "seal": Proof(
        "python benchmarks/seal.py",
        ("benchmarks/seal.py", "harness/report/seal.py", "harness/report/verify.py", "harness/report/redact.py", "harness/consent/keys.py"),
    ),
    "mutations": Proof("python benchmarks/mutations.py", ("benchmarks/mutations.py", "harness/report", "harness/consent/keys.py")),
    "survival": Proof(
        "python benchmarks/survival.py",
        ("benchmarks/survival.py", "harness/report/credentials.py", "harness/report/certificate.py", "harness/world/render.py", "harness/world/styles.py"),
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``harness prove``."""
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which proofs (default: all): {', '.join(PROOFS)}")
    parser.add_argument("--check", action="store_true", help="run nothing; name the stale stamps and exit 1 when there are any")


def main(args: argparse.Namespace) -> int:
    """Run the proofs one after the other; stops at the first that fails."""
    root = notebooks.root(provenance.PACKAGE)
    if args.check:
        found = stale(root)
        print("\n".join(found) or "every stamp fits its code and its results")
        return int(bool(found))
    for name in args.names or PROOFS:
        if name not in PROOFS:
            raise HarnessError(f"there is no proof `{name}`; there are {', '.join(PROOFS)}")
        print(f"proof {name}: {PROOFS[name].command}", flush=True)
        print(f"stamped: {prove(name, PROOFS[name], root)}")
    return 0


def prove(name: str, proof: Proof, root: Path) -> Path:
    """Run a proof and stamp what it wrote; raises HarnessError when it fails or writes nothing. Returns the stamp."""
    from harness.images import atomic_write

    code, begun = code_sha256(root, proof.code), time.time()
    done = subprocess.run(_command(proof.command), cwd=root)
    if done.returncode != 0:
        raise HarnessError(f"proof {name}: `{proof.command}` ended with {done.returncode}; the earlier stamp is left as it was")
    fresh = [path for path in outputs(name, root) if path.stat().st_mtime >= begun - 2]
    if not fresh:
        raise HarnessError(f"proof {name}: `{proof.command}` wrote no {PUBLISHED / name}.*")
    if code_sha256(root, proof.code) != code:
        raise HarnessError(f"proof {name}: its code was changed while it ran; run it again")
    facts = {
        "command": proof.command, "code": list(proof.code), "code_sha256": code, "seconds": round(time.time() - begun, 1),
        "date": datetime.date.today().isoformat(), "device": provenance.device_class(),
        "results": {path.name: provenance.sha256(path) for path in fresh},
    }
    return atomic_write(root / PUBLISHED / f"{name}{STAMP}", json.dumps(facts, indent=1) + "\n")


def stale(root: Path) -> list[str]:
    """One sentence for each stamp that is older than its code, or whose results are not those that it stamped."""
    found = []
    for path in sorted((root / PUBLISHED).glob(f"*{STAMP}")):
        name, facts = path.name.removesuffix(STAMP), json.loads(path.read_text(encoding="utf-8"))
        again = f"run `harness prove {name}`"
        if name not in PROOFS:
            found.append(f"{path.name}: there is no proof of this name any more; remove it with its results")
        elif facts["code_sha256"] != code_sha256(root, PROOFS[name].code) or facts["command"] != PROOFS[name].command:
            found.append(f"{path.name}: its code or command was changed since; {again}")
        for result, digest in facts["results"].items():
            if not (path.parent / result).is_file() or provenance.sha256(path.parent / result) != digest:
                found.append(f"{result}: is not what `{name}` wrote; {again}")
    return found


def outputs(name: str, root: Path) -> list[Path]:
    """The result files of a proof, without its stamp."""
    return [path for path in sorted((root / PUBLISHED).glob(f"{name}.*")) if not path.name.endswith(STAMP) and path.is_file()]


def code_sha256(root: Path, code: tuple[str, ...]) -> str:
    """The hash of names and bytes of the code; files that git ignores are left out, a path that is not there is named."""
    rows = []
    for part in code:
        found = _listed(root, part)
        rows += [f"{name} {provenance.sha256(root / name)}" for name in found] or [f"{part} is not there"]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _listed(root: Path, part: str) -> list[str]:
    command = ["git", "-C", str(root), "ls-files", "-co", "--exclude-standard", "-z", "--", part]
    try:
        done = subprocess.run(command, capture_output=True)
    except OSError:
        done = None
    if done is None or done.returncode != 0:
        names = {path.relative_to(root).as_posix() for path in provenance.files(root / part)}
    else:
        names = set(done.stdout.decode().split("\0"))
    return sorted(name for name in names if name and (root / name).is_file())


def _command(text: str) -> list[str]:
    """The command with this very Python in place of ``python`` and ``harness``."""
    words = shlex.split(text)
    faces = {"python": [sys.executable], "harness": [sys.executable, "-m", "harness"]}
    return [*faces.get(words[0], words[:1]), *words[1:]]
