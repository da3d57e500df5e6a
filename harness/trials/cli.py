"""`harness world`: render portraits, train the miniature models, measure them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

WORK = Path("results/world")
PUBLISHED = Path("results/published")
PER_ARTIST = {"identity": 1500}
"""training portraits of each base artist, where the shipped weights learned from other than 4000"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sub-commands render, cards, build, score and controls."""
    parts = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    render = parts.add_parser("render", help="draw an image folder with samples.csv and a data card")
    render.add_argument("--artists", default="base", help="pseudonyms joined by commas, or base, unseen, hands, all (default: base)")
    render.add_argument("--n", type=int, default=32, help="pictures per artist (default: 32)")
    render.add_argument("--split", default=None, help="train, judge, calibration, held-out or hands (default: held-out; hands for pseudo-artists)")
    render.add_argument("--seed", type=int, default=0, help="another seed draws other people (default: 0)")
    render.add_argument("--repeat", default=None, metavar="N:TIMES", help="plant duplicates: the first N pictures of each artist, TIMES each")
    render.add_argument("--out", type=Path, required=True, help="the folder to write")
    cards = parts.add_parser("cards", help="write the data cards of the world's own data sets")
    cards.add_argument("--out", type=Path, default=Path("data_cards"), help="the folder to write (default: data_cards)")
    build = parts.add_parser("build", help="train a miniature model from nothing; a killed training goes on where it was")
    build.add_argument("model", choices=("vae", "clip", "unet", "judge", "identity"), help="vae and clip first: unet needs both; identity reads the shipped pipeline's")
    build.add_argument("--steps", type=int, default=None, help="optimizer steps (default: those of the shipped weights)")
    build.add_argument("--per-artist", type=int, default=None, help="training portraits of each base artist (default: 4000; identity 1500)")
    build.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's own choice)")
    build.add_argument("--out", type=Path, default=WORK, help=f"where checkpoints and models are written (default: {WORK})")
    score = parts.add_parser("score", help="measure the shipped models on people they never met, and print the table")
    score.add_argument("--per-artist", type=int, default=40, help="samples drawn per base artist (default: 40)")
    score.add_argument("--out", type=Path, default=PUBLISHED, help=f"where score.md, score.csv and pictures go (default: {PUBLISHED})")
    controls = parts.add_parser("controls", help="fine-tune the control models whose outputs are the null of the style question")
    controls.add_argument("--processes", type=int, default=1, help="models trained at once, one CPU thread each (default: 1)")


def main(args: argparse.Namespace) -> int:
    """Run one sub-command."""
    return {"render": _render, "cards": _cards, "build": _build, "score": _score, "controls": _controls}[args.what](args)


def _render(args: argparse.Namespace) -> int:
    from harness.consent import cards
    from harness.progress import printer
    from harness.world import folder

    duplicates = folder.repeat(args.repeat) if args.repeat else None
    found = folder.write(args.out, folder.select(args.artists), args.n, args.split, args.seed, duplicates, progress=printer(), card=_card_writer(cards))
    print(f"{len(found)} pictures, samples.csv and a data card in {args.out}")
    return 0


def _card_writer(cards: Any) -> Any:
    """The consent room's writer in the form that the world expects of one: it hands over plain fields."""
    return lambda where, fields, images: cards.write(where, cards.Card(**fields), images)


def _cards(args: argparse.Namespace) -> int:
    from harness.consent import cards
    from harness.world import cards as world

    for path in world.write_all(args.out, _card_writer(cards)):
        print(path)
    return 0


def _build(args: argparse.Namespace) -> int:
    from harness import guard
    from harness.images import write_csv
    from harness.progress import printer
    from harness.world.render import base_set

    guard.install()
    import pandas as pd
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    tell = printer(10.0)
    split = "judge" if args.model in ("judge", "identity") else "train"
    pixels, table = base_set(split, args.per_artist or PER_ARTIST.get(args.model, 4000), progress=tell, cache=args.out)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    curve = _train(args, images, table, tell)
    write_csv(args.out / f"{args.model}.curve.csv", pd.DataFrame(curve))
    print(f"trained in {curve[-1]['seconds'] / 60:.1f} min; written below {args.out / args.model}")
    return 0


def _train(args: argparse.Namespace, images: Any, table: Any, tell: Any) -> list[dict[str, float]]:
    from dataclasses import replace

    from harness import models
    from harness.world import build_clip, build_unet, build_vae, identity, judge

    rooms = {"vae": build_vae, "clip": build_clip, "unet": build_unet, "judge": judge, "identity": identity}
    how = rooms[args.model].SCHEDULE if args.steps is None else replace(rooms[args.model].SCHEDULE, steps=args.steps)
    folder = args.out / args.model
    if args.model == "vae":
        return build_vae.build(folder, images, tell, how)[1]
    if args.model == "unet":
        return build_unet.build(folder, images, table, build_vae.load(args.out / "vae"), build_clip.load(args.out / "clip"), tell, how)[1]
    if args.model == "identity":
        return identity.build(folder, images, table, build_vae.load(models.MINIATURE / "pipeline"), tell, how)[1]
    return rooms[args.model].build(folder, images, table, tell, how)[1]


def _score(args: argparse.Namespace) -> int:
    from harness.images import atomic_write, write_csv
    from harness.plots import contact_sheet, png
    from harness.progress import printer
    from harness.trials import score

    lines, pictures = score.score(printer(), args.per_artist)
    print(score.markdown(lines))
    args.out.mkdir(parents=True, exist_ok=True)
    atomic_write(args.out / "score.md", score.markdown(lines))
    write_csv(args.out / "score.csv", score.frame(lines))
    pairs = [p for i in range(0, 900, 50) for p in (pictures["held"][i], pictures["decoded"][i])]
    shown = pictures["drawn"].reshape(9, -1, 64, 64, 3)[:, :8].reshape(-1, 64, 64, 3)
    atomic_write(args.out / "score.png", png(contact_sheet(shown, columns=8, cell=96)))
    atomic_write(args.out / "score.vae.png", png(contact_sheet(_stack(pairs), columns=12, cell=96)))
    return 0


def _stack(pictures: list[Any]) -> Any:
    import numpy as np

    return np.stack(pictures)


def _controls(args: argparse.Namespace) -> int:
    from harness.progress import printer
    from harness.trials import controls

    print(f"written: {controls.build(printer(), processes=args.processes)}")
    return 0
