"""Make the environment when it is missing or out of date, then run, test or prove. Standard library only.

    python bootstrap.py run     the first notebook, small enough for two CPU cores
    python bootstrap.py test    the tests
    python bootstrap.py prove   the long proofs

Words after the command are handed on: ``python bootstrap.py run -p seed=1``, ``python bootstrap.py test tests/test_cli.py``.
On Linux pip takes torch with CUDA; for the smaller CPU build point PIP_EXTRA_INDEX_URL at PyTorch's CPU index first.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import List, Optional

ROOT = Path(__file__).resolve().parent
OLDEST, TESTED = (3, 11), (3, 12)
COMMANDS = {
    "run": ["-m", "harness", "run", "notebooks/00_start_here.ipynb"],
    "test": ["-m", "pytest", "-n", "logical", "--dist", "loadfile"],  # a file at a time on every core
    "prove": ["-m", "harness", "prove"],
}
DECIDES = ("pyproject.toml", "constraints.txt")  # what is installed follows from these
STAMP = ".installed"


def main(words: List[str]) -> int:
    """Do what the words say; returns the exit code of what was run."""
    if not words or words[0] not in COMMANDS:
        return complain("usage: python bootstrap.py {} [options that are handed on]".format("|".join(COMMANDS)))
    problem = python_problem(sys.version_info[:2])
    if problem:
        return complain(problem)
    try:
        python = ensure(ROOT)
    except Failed as error:
        return complain(str(error))
    return subprocess.run([str(python), *COMMANDS[words[0]], *words[1:]], cwd=str(ROOT)).returncode


class Failed(Exception):
    """The environment could not be made; the message says what to do."""


def python_problem(version: tuple) -> Optional[str]:
    """What is wrong with this Python, if anything."""
    if version < OLDEST:
        found = ".".join(map(str, version))
        return "this is Python {}, and 3.11 or 3.12 is needed: run `python3.12 bootstrap.py …` (or make PYTHON=python3.12 …)".format(found)
    if version > TESTED:
        print("note: tested with Python 3.11 and 3.12; this one is newer, and the pinned packages may not fit it", flush=True)
    return None


def ensure(root: Path) -> Path:
    """The environment's Python, made and filled when it is missing or older than what it follows from."""
    if not shutil.which("git"):
        print("note: git was not found; runs will be recorded without the commit they were made with", flush=True)
    folder = root / ".venv"
    python = python_in(folder)
    if not works(python):
        make(folder, python)
    wanted = fingerprint(root)
    stamp = folder / STAMP
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        install(root, python)
        stamp.write_text(wanted, encoding="utf-8")
    return python


def python_in(folder: Path) -> Path:
    """Where an environment keeps its Python on this system."""
    return folder / "Scripts" / "python.exe" if os.name == "nt" else folder / "bin" / "python"


def works(python: Path) -> bool:
    """Whether there is a Python with pip; an environment whose making was cut short has none."""
    if not python.exists():
        return False
    return subprocess.run([str(python), "-m", "pip", "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def make(folder: Path, python: Path) -> None:
    """Make the environment; raises Failed when this Python cannot."""
    print("making {}".format(folder), flush=True)
    done = subprocess.run([sys.executable, "-m", "venv", str(folder)])
    if done.returncode != 0 or not works(python):
        raise Failed("could not make {}: this Python lacks venv or pip (Debian and Ubuntu: `sudo apt install python3-venv`); "
                     "install them, delete that folder, and run the same command again".format(folder))


def install(root: Path, python: Path) -> None:
    """Install the project with its tests under the pins; raises Failed when pip fails."""
    print("installing the packages of pyproject.toml under the pins of constraints.txt; the first time takes minutes", flush=True)
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "-e", ".[test]", "-c", "constraints.txt"]
    if subprocess.run(command, cwd=str(root)).returncode != 0:
        raise Failed("pip could not install the packages (its reason stands above); mend that, then run the same command again")


def fingerprint(root: Path) -> str:
    """The hash of everything that decides what is installed, where the checkout lies included: it is installed in place."""
    digest = hashlib.sha256(str(root).encode())
    for name in DECIDES:
        digest.update((root / name).read_bytes())
    return digest.hexdigest()


def complain(text: str) -> int:
    """Print one sentence as an error; returns 2."""
    print("error: " + text, file=sys.stderr)
    return 2


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
