"""The command line: a table of commands, each imported only when it is used."""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

from harness import __version__
from harness.consent import kept
from harness.errors import HarnessError

COMMANDS: dict[str, tuple[str, str]] = {
    "doctor": ("harness.doctor", "what this machine is, and what to do about each problem"),
    "ls": ("harness.runs.listing", "the notebooks: question, parameters, presets"),
    "run": ("harness.runs.launch", "run a notebook as a record that can be trusted"),
    "sweep": ("harness.sweep.sweep", "run a notebook over a grid of parameters: processes, Dask or Slurm"),
    "compare": ("harness.compare.compare", "two runs side by side: settings, findings, images"),
    "validate": ("harness.validate.validate", "check notebooks, presets, data cards, runs and published results"),
    "crate": ("harness.runs.crate", "export a run as an RO-Crate"),
    "consent": ("harness.consent.cli", "who agreed to what: record, ask, withdraw, forget"),
    "key": ("harness.consent.keys", "make or show the key that signs ledgers and reports"),
    "corpus": ("harness.audit.corpus_cli", "look into a folder of images: search, shares, near-duplicates"),
    "verify": ("harness.report.verify", "check a signed report, offline"),
    "redact": ("harness.report.redact", "a report without pictures, and without prompts where asked, under the same root"),
    "seal": ("harness.report.seal", "seal a report's folder anew, after something was changed on purpose"),
    "token": ("harness.finetune.tokens_cli", "propose a rare token for a subject, or check one, and show what the model draws for it"),
    "train": ("harness.finetune.train_cli", "fine-tune on a folder of pictures, in one process or several"),
    "power": ("harness.inference.power", "how many prompts and images it takes to tell two rates apart"),
    "world": ("harness.trials.cli", "render, train and score the miniature world"),
    "prove": ("harness.prove", "run the long proofs and stamp their results"),
}
ANSWERED = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}  # the user's machine, not our bug


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 2 for a mistake of the user's, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except HarnessError as error:
        return _say(str(error))
    except KeyboardInterrupt:
        print("stopped; the same command goes on from what was finished", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output (`| head`) has gone
        return 0
    except OSError as error:
        if error.errno not in ANSWERED:
            raise
        return _say(f"{error.strerror}: {error.filename or 'while writing'}; make room or change permissions, then run it again")


def help_text() -> str:
    """The table of commands as ``harness --help`` prints it."""
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(["usage: harness COMMAND [options]", "", *rows, "", "`harness COMMAND --help` says more."])


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(help_text())
        return 0
    if words[0] == "--version":
        print(f"harness {__version__}")
        return 0
    module = _module(words[0])
    kept.enforce()  # photos of people that are due go with whatever command comes next
    parser = argparse.ArgumentParser(prog=f"harness {words[0]}", description=COMMANDS[words[0]][1])
    module.add_arguments(parser)
    return module.main(parser.parse_args(words[1:]))


def _module(name: str) -> ModuleType:
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"the commands are {', '.join(COMMANDS)}"
        raise HarnessError(f"there is no command `{name}`: {hint}")
    return importlib.import_module(COMMANDS[name][0])


def _say(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return 2
