"""`harness token`: propose rare tokens for a subject, or check one, and show what the base model draws for them."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.errors import HarnessError

OUT = Path("results/tokens.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which model, how many tokens, and where the sheet goes."""
    parser.add_argument("token", nargs="*", help="tokens to check; without one, rare tokens are proposed")
    parser.add_argument("--model", default="miniature", help="the base model: miniature, a diffusers folder or a hub id (default: miniature)")
    parser.add_argument("-n", type=int, default=5, help="how many to propose (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="another seed proposes others (default: 0)")
    parser.add_argument("--noun", default="person", help="class noun that follows the token in the prompt (default: person)")
    parser.add_argument("--pictures", type=int, default=4, help="pictures a token; 0 draws none (default: 4)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"the sheet of pictures (default: {OUT})")


def main(args: argparse.Namespace) -> int:
    """Print one line a token, and draw the sheet."""
    if args.pictures < 0:
        raise HarnessError(f"--pictures {args.pictures}: must be 0 or more.")
    from harness import models
    from harness.finetune import tokens

    pipe = models.load_pipeline(args.model)
    if args.token:
        chosen = args.token
        for token in chosen:
            print(f"{token}: one token (number {', '.join(map(str, tokens.check(pipe, token)))})")
    else:
        proposed = tokens.propose(pipe, args.n, args.seed)
        chosen = [token.text for token in proposed]
        print("\n".join(token.says for token in proposed))
    if args.pictures:
        _draw(pipe, chosen, args)
    return 0


def _draw(pipe: object, chosen: list[str], args: argparse.Namespace) -> None:
    """Write the sheet, and say how far each token moves the pictures."""
    from harness import plots
    from harness.finetune import tokens
    from harness.images import atomic_write

    picture, moved = tokens.sheet(pipe, chosen, args.noun, range(args.pictures))
    atomic_write(args.out, plots.png(picture))
    distances = ", ".join(f"{token} {distance:.1f}" for token, distance in moved.items())
    print(f"moves the pictures of {args.noun!r} by (mean difference, of 255): {distances}")
    print(f"{args.out}: look before you choose; letters may abbreviate something")
