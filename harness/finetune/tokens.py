"""Rare tokens for subjects: what a tokenizer holds that nobody has used much, and what a model makes of it.

DreamBooth (Ruiz et al. 2022, section 3.2) binds a subject to an identifier that the model knows little about: a rare token of
three or so letters. The order in which byte-pair merges were learned is the order of how often they were met, so the last ones
are the rarest. Letters without a vowel are no words and no names of people; they may still abbreviate something. What the base
model draws for a token says whether it does, so look before you choose.
"""

from __future__ import annotations

import json
import random
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import HarnessError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL import Image

LETTERS = re.compile(r"[b-df-hj-np-tv-xz]{3,4}")
"""three or four consonants"""
END = "</w>"
"""how CLIP's tokenizer marks the end of a word"""
TEMPLATE = "a {token} {noun}"
AT_ONCE = 4


@dataclass(frozen=True)
class Token:
    """A rare token of a tokenizer."""

    text: str
    """What is written in captions and prompts."""
    id: int
    """Its row in the (first) text encoder's table."""
    merge: int
    """Which merge of the tokenizer made it, from 1; a later one is a rarer one."""
    merges: int
    """How many merges there are."""
    rank: int
    """1 for the rarest among the candidates."""
    candidates: int
    """Tokens of three or four consonants that stand in no other token."""

    @property
    def says(self) -> str:
        """One sentence for people."""
        return (f"{self.text}: one token (number {self.id}), made by merge {self.merge:,} of {self.merges:,}; "
                f"rarity {self.rank} of {self.candidates} tokens of its kind")


def propose(pipe: DiffusionPipeline, n: int = 5, seed: int = 0) -> list[Token]:
    """`n` of the rarest tenth of the tokenizer's candidates, chosen by `seed`, rarest first.

    Another seed gives others, so that not every model in the world is tuned on the same letters. Raises HarnessError where
    the tokenizer has too few (a small one of one's own), or is no byte-pair tokenizer.
    """
    found = _candidates(pipe)
    if not 1 <= n <= len(found):
        raise HarnessError(f"the tokenizer has {len(found)} rare tokens of three or four consonants, {n} were asked for; "
                           "ask for fewer, or train a placeholder such as <subject> by textual inversion.")
    pool = found[:max(n, len(found) // 10)]
    return sorted(random.Random(seed).sample(pool, n), key=lambda token: token.rank)


def check(pipe: DiffusionPipeline, token: str) -> list[int]:
    """The token's number in every tokenizer of the pipeline (one; SDXL has two).

    Raises HarnessError for one that a tokenizer splits, naming the parts and a proposal. Warns about one from the first half
    of the merges: a common word, or a common part of words, means something already.
    """
    if token != token.strip() or not token:
        raise HarnessError(f"the token {token!r} is empty or has blanks around it; write the letters alone.")
    try:
        ids = [single(tokenizer, token) for tokenizer in _tokenizers(pipe)]
    except HarnessError as error:
        raise HarnessError(f"{error}{_proposal(pipe)}") from error
    merges = _merges(_tokenizers(pipe)[0])
    made = merges.get(f"{token.lower()}{END}", 0 if len(token) == 1 else len(merges))
    if made < len(merges) / 2:
        warnings.warn(f"the token {token!r} is common (merge {made + 1:,} of {len(merges):,}): the model knows it as something else, "
                      f"which it will mix with the subject or forget.{_proposal(pipe)}", stacklevel=2)
    return ids


def drawn(pipe: DiffusionPipeline, token: str, class_noun: str, seeds: Sequence[int], steps: int = 20, guidance_scale: float = 4.0) -> np.ndarray:
    """uint8 (n, h, w, 3): what the pipeline draws for "a TOKEN NOUN", one picture a seed; "" as token is the noun alone."""
    import torch

    prompt = " ".join(TEMPLATE.format(token=token, noun=class_noun).split())
    pictures = []
    for start in range(0, len(seeds), AT_ONCE):
        generators = [torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds[start:start + AT_ONCE]]
        said = pipe([prompt] * len(generators), num_inference_steps=steps, guidance_scale=guidance_scale, generator=generators, output_type="np")
        pictures.append((said.images * 255).round().astype(np.uint8))
    if not pictures:
        raise HarnessError("a look at a token needs at least one seed.")
    return np.concatenate(pictures)


def sheet(pipe: DiffusionPipeline, tokens: Sequence[str], class_noun: str, seeds: Sequence[int],
          steps: int = 20) -> tuple[Image.Image, dict[str, float]]:
    """A column of pictures for the noun alone and for each token before it, at the same seeds; and how far each token moves them.

    The distance is the mean absolute difference to the noun alone, in 8-bit steps: a token that means nothing moves little and
    to no theme.
    """
    from harness import plots

    alone = drawn(pipe, "", class_noun, seeds, steps)
    columns = {token: drawn(pipe, token, class_noun, seeds, steps) for token in dict.fromkeys(tokens)}
    moved = {token: float(np.abs(pictures.astype(float) - alone).mean()) for token, pictures in columns.items()}
    return plots.side_by_side({class_noun: alone} | columns), moved


def single(tokenizer: object, word: str) -> int:
    """The number of a word that the tokenizer keeps whole; raises HarnessError for another, naming the parts."""
    ids = tokenizer(word, add_special_tokens=False).input_ids
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise HarnessError(f"the tokenizer splits {word!r} into {', '.join(map(repr, parts(tokenizer, word))) or 'nothing'}, each of which the "
                           "model knows as something else; choose one token.")
    return ids[0]


def parts(tokenizer: object, text: str) -> list[str]:
    """The pieces that a tokenizer makes of a text, as a person would write them."""
    return [piece.removesuffix(END) for piece in tokenizer.tokenize(text)]


def _tokenizers(pipe: DiffusionPipeline) -> list:
    """The pipeline's tokenizers, the first one first."""
    found = [getattr(pipe, name, None) for name in ("tokenizer", "tokenizer_2")]
    return [tokenizer for tokenizer in found if tokenizer is not None]


def _merges(tokenizer: object) -> dict[str, int]:
    """What each merge of a byte-pair tokenizer made, in the order in which they were learned (from 0)."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"] if hasattr(tokenizer, "backend_tokenizer") else {}
    if not model.get("merges"):
        raise HarnessError(f"a {type(tokenizer).__name__} has no byte-pair merges, so how rare its tokens are cannot be read from it.")
    return {"".join(pair.split() if isinstance(pair, str) else pair): i for i, pair in enumerate(model["merges"])}


def _candidates(pipe: DiffusionPipeline) -> list[Token]:
    """Every rare token by rarity: consonants that stand in no other entry and that every tokenizer of the pipeline keeps whole."""
    first, *others = _tokenizers(pipe)
    merges = _merges(first)
    entries = [entry.lower() for entry in first.get_vocab()]
    held = Counter(entry[i:i + n] for entry in entries for n in (3, 4) for i in range(len(entry) - n + 1))
    words = [made.removesuffix(END) for made in reversed(merges) if made.endswith(END) and LETTERS.fullmatch(made.removesuffix(END))]
    words = [word for word in words if held[word] == 1 and all(len(each.tokenize(word)) == 1 for each in others)]
    return [Token(word, first.convert_tokens_to_ids(word + END), merges[word + END] + 1, len(merges), rank, len(words))
            for rank, word in enumerate(words, 1)]


def _proposal(pipe: DiffusionPipeline) -> str:
    """A sentence with a rare token, or '' where the tokenizer has none."""
    found = _candidates(pipe)
    return f" A rare one is {found[0].text!r}; `harness token` shows more." if found else ""
