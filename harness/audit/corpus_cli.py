"""`harness corpus`: look into a folder of pictures of one's own, search it, or ask whether one's work is in it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.audit.corpus import Answer
    from harness.images import ImageSet

ACTIONS = {"look": (), "search": ("text", "image"), "mine": ("works",)}
"""what can be done, and the options of which it needs exactly one"""
OUT = Path("results/corpus")
SAYS = """harness corpus FOLDER                    whose pictures, what stands twice, who opted out, what a CLIP filter keeps
harness corpus search FOLDER --text ...  the pictures nearest to words, or with --image FILE to a picture
harness corpus mine FOLDER --works ...   are the pictures of another folder in it?"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what to do and its options."""
    parser.formatter_class, parser.usage, parser.epilog = argparse.RawDescriptionHelpFormatter, "harness corpus [search|mine] FOLDER [options]", SAYS
    parser.add_argument("words", nargs="+", metavar="[search|mine] FOLDER", help="what to do, and the folder of pictures (with a samples.csv or without)")
    parser.add_argument("--out", type=Path, help=f"folder for tables, pictures and the index (default: {OUT}/ and the folder's name)")
    parser.add_argument("--clip", default="miniature", help="an open_clip folder, ViT-B-32/laion2b_s34b_b79k, or hf-hub:owner/name (default: miniature)")
    parser.add_argument("--text", default="", help="words to search by")
    parser.add_argument("--image", type=Path, help="picture to search by")
    parser.add_argument("--works", type=Path, help="folder of the works to look for")
    parser.add_argument("-k", type=int, help="search: how many pictures (default: 12); else: how many nearest pictures each one is compared with (8, for mine 20)")
    parser.add_argument("--ledger", type=Path, help="a ledger, store or CSV: whose pictures they are, and who agreed to them being searched")
    parser.add_argument("--list", action="append", default=[], metavar="HOST=FILE", help="the ai.txt or tdmrep.json of a source; may be repeated")
    parser.add_argument("--sample-of", default="", metavar="WHAT", help="the folder is a random sample of this: shares get intervals")
    parser.add_argument("--tried", type=int, default=12, help="pictures whose changed copies are looked for, to measure what a search misses (default: 12)")
    parser.add_argument("--at-least", type=float, default=-1.0, metavar="COSINE", help="near-duplicates: compare only pictures that CLIP finds so alike")


def main(args: argparse.Namespace) -> int:
    """Answer, print the paragraphs, and write the files."""
    action, folder = _asked(args)
    from harness.images import open_set

    images = open_set(folder)
    out = args.out or OUT / folder.resolve().name
    if out.resolve() == folder.resolve():
        raise HarnessError(f"--out {out}: that is the folder of pictures, of which contact sheets would become a part; name another.")
    from harness.audit import corpus

    for words in (corpus.files_left_out(images), _consent(images, args.ledger, out)):
        print(words) if words else None
    for answer in _answers(action, images, args, out):
        files = answer.save(out)
        print(f"\n{answer.words}\n  " + ", ".join(map(str, files)))
    return 0


def _asked(args: argparse.Namespace) -> tuple[str, Path]:
    """What to do and with which folder; refuses options that do not belong to it."""
    *first, folder = args.words
    action = first[0] if first else "look"
    if len(first) > 1 or action not in ACTIONS:
        raise HarnessError(f"cannot read {' '.join(args.words)!r}: write `harness corpus FOLDER`, `harness corpus search FOLDER` or `harness corpus mine FOLDER`.")
    given = [name for names in ACTIONS.values() for name in names if getattr(args, name)]
    wanted = ACTIONS[action]
    if len(given) != bool(wanted) or not set(given) <= set(wanted):
        need = " or ".join(f"--{name}" for name in wanted)
        raise HarnessError(f"harness corpus {action if wanted else 'FOLDER'} takes {f'exactly one of {need}' if len(wanted) > 1 else need or 'no --text, --image or --works'}"
                           f"; given: {', '.join(f'--{name}' for name in given) or 'none'}.")
    if args.tried < 0 or (args.k is not None and args.k < 1):
        raise HarnessError(f"--tried {args.tried} and -k {args.k}: counts cannot be negative, and at least 1 picture has to be looked at.")
    return action, Path(folder).expanduser()


def _consent(images: ImageSet, ledger: Path | None, out: Path) -> str:
    """Ask the gate: a look without consent to it is an audit, marked, and refused only where somebody shown may be a minor."""
    if ledger is None:
        return "No ledger was given, so that nobody was asked whether these pictures may be searched; keep what comes out to yourself."
    from harness.consent import gate
    from harness.images import atomic_write

    asked = images if "artist" in images.table else images.assign(artist="")
    decision = gate.ask(asked, ledger, "embedding", "audit")
    atomic_write(out / "consent.json", json.dumps(decision.as_dict(), indent=1) + "\n")
    return f"{decision.blocked} of {decision.images} pictures are looked at without consent to {decision.use}: this is an audit, and what comes out must not leave the house."


def _answers(action: str, images: ImageSet, args: argparse.Namespace, out: Path) -> Iterator[Answer]:
    """The answers, one after the other, the quick ones first."""
    from harness.audit import corpus, mine, search
    from harness.images import decode, open_set
    from harness.models import load_clip
    from harness.progress import printer

    query = decode(args.image) if args.image else None
    works = open_set(args.works) if args.works else None
    if action == "look":
        yield from _without_clip(images, args)
    clip = load_clip(args.clip)
    vector = search.text_vectors(clip, [args.text]) if args.text else clip.encode_images([query]) if query else None
    if action == "search" and (args.k or 1) > (distinct := images.table["sha256"].nunique()):
        raise HarnessError(f"-k {args.k}: the folder has {distinct} distinct pictures; ask for 1 to {distinct}.")
    index = search.build(images, clip, out / "index")
    if action == "search":
        yield corpus.nearest(images, index, vector, f"“{args.text}”" if args.text else args.image.name, args.k or min(corpus.SHOWN, len(index)))
    elif action == "mine":
        yield mine.mine(images, index, works, clip, args.k or mine.LOOKED_AT, args.tried, printer())
    else:
        if corpus.captioned(images):
            yield corpus.clip_filter(images, index, clip)
        else:
            print(f"\nNo captions ({' or '.join(corpus.CAPTIONS)} in samples.csv): what a CLIP filter keeps was not asked.")
        yield mine.near_duplicates(images, index, clip, args.k or mine.NEIGHBOURS, args.at_least, args.tried, printer())


def _without_clip(images: ImageSet, args: argparse.Namespace) -> Iterator[Any]:
    """Shares and signals."""
    from harness.audit import corpus
    from harness.consent import gate

    yield corpus.shares(images, gate.book_of(args.ledger) if args.ledger else None, args.sample_of)
    yield corpus.opted_out(images, dict(_list(words) for words in args.list))


def _list(words: str) -> tuple[str, Path]:
    host, equals, path = words.partition("=")
    if not (host and equals and path):
        raise HarnessError(f"--list {words}: write HOST=FILE, such as example.org=ai.txt.")
    return host, Path(path)
