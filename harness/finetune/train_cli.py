"""`harness train`: fine-tune on a folder of pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness import params
from harness.errors import HarnessError
from harness.finetune import jobs
from harness.finetune.settings import Training

ABOUT = """\
Fine-tune on a folder of pictures whose makers (and whom they show) agreed.

  a subject:  harness train photos/ --ledger consent.csv --artist me --depicts me --token ohwx --noun person --out trained/me
  a style:    harness train works/ --ledger consent.csv --recipe full --steps 500 --out trained/style
  new words:  harness train photos/ --ledger consent.csv --recipe textual_inversion --token "<anna>" --out trained/anna

Stopped or killed, the same command goes on from the last checkpoint. --forecast says what it would take, and trains nothing."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The folder, what goes with it, and every setting of every recipe."""
    parser.description, parser.formatter_class = ABOUT, argparse.RawDescriptionHelpFormatter
    parser.usage = "%(prog)s FOLDER --ledger FILE --out FOLDER [--recipe RECIPE] [options] [settings]"
    parser.conflict_handler = "resolve"  # what several have in common is listed once, in the last place
    given = parser.add_argument_group("what, on what, where")
    for name in reversed(jobs.RECIPES):
        params.add_arguments(parser.add_argument_group(f"settings of {name}"), jobs.load(name)[1])
    params.add_arguments(parser.add_argument_group("settings of every recipe", "learning_rate and weight_decay have other defaults in some recipes."), Training)
    parser.add_argument("images", type=Path, metavar="FOLDER", help="pictures; artist and captions in samples.csv, or as the options say")
    given.add_argument("--recipe", choices=tuple(jobs.RECIPES), default="lora", help="what is trained (default: lora)")
    given.add_argument("--ledger", type=Path, required=True, help="consent records: a CSV file or a store, see `harness consent --help`")
    given.add_argument("--out", type=Path, required=True, help="folder of the training")
    given.add_argument("--model", default="miniature", help="miniature, a diffusers folder, or a hub id (default: miniature)")
    given.add_argument("--token", default="", help="rare word for the subject or style; `harness token` proposes some")
    given.add_argument("--noun", default="", help="class of the subject, such as person; without one the token names a style")
    given.add_argument("--artist", default="", help="whose works these are, where samples.csv does not say")
    given.add_argument("--depicts", default="", help="who is shown, joined by commas, where samples.csv does not say")
    given.add_argument("--purpose", choices=("training", "audit"), default="training", help="audit goes on without consent, marked, never exported")
    given.add_argument("--latents", default="", metavar="FOLDER", help="cache that trainings share")
    given.add_argument("--held-out", default="", metavar="FOLDER", help="pictures with captions for a validation loss")
    given.add_argument("--device", choices=("cuda", "mps", "cpu"), default="", help="default: the best there is")
    given.add_argument("--processes", type=int, default=1, help="processes that train together, on a GPU each or on the CPU's cores (default: 1)")
    given.add_argument("--forecast", action="store_true", help="say how much memory and time it takes, and train nothing")


def main(args: argparse.Namespace) -> int:
    """Forecast, refuse what cannot fit, and train."""
    from harness.finetune import fits, launch
    from harness.images import open_set
    from harness.progress import printer

    job = job_of(args)
    found = fits.preflight(job.recipe, job.how(), job.model, len(open_set(args.images)), job.device or None, args.processes)
    print("\n".join(found.lines()), flush=True)
    if not args.forecast:
        launch.run(job, args.processes, printer())
        print(f"trained: {args.out}")
    return 0


def job_of(args: argparse.Namespace) -> jobs.Job:
    """The job that a command line asks for; raises HarnessError for a setting that the recipe has not."""
    every = {field.name for name in jobs.RECIPES for field in params.fields(jobs.load(name)[1])}
    plain = {field.name for field in params.fields(jobs.Job)} - {"settings"}
    asked = {name: value for name, value in vars(args).items() if name in every and name not in plain}
    own = {field.name for field in params.fields(jobs.load(args.recipe)[1])}
    if args.token and "token" in own:
        asked["token"] = args.token
    wrong = sorted(set(asked) - own)
    if wrong:
        raise HarnessError(f"--{wrong[0].replace('_', '-')} is no setting of {args.recipe}; it has {', '.join(sorted(own))}")
    paths = {name: str(getattr(args, name).resolve()) for name in ("images", "ledger", "out")}
    return jobs.Job(settings=asked, **{name: getattr(args, name) for name in plain - set(paths)}, **paths)
