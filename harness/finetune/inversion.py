"""Textual inversion: new words for a frozen model, learned from pictures (Gal et al. 2022).

What is trained is one row (or several) of the text encoder's table per new word, and nothing else: the model's own rows are not
among the parameters, so they cannot move. The tokenizer that knows the new words is a copy, and the pipeline comes back without both.

Length: free rows grow to many times the length of the model's own words, and then drown the rest of a prompt. The plain script of
diffusers 0.42 leaves them free; its advanced ones pull the spread of all new rows towards the table's. Here a row that has become
longer than the longest of the model's own words is scaled back to that length after the step (`bounded`).
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.consent.gate import Decision
from harness.errors import HarnessError
from harness.finetune import tokens
from harness.finetune.adapter import MANIFEST_KEY, WORDS, Adapter, read_manifest, tensor_file
from harness.finetune.concepts import says
from harness.finetune.fit import fit
from harness.finetune.lora import frozen, text_encoders
from harness.finetune.settings import Training
from harness.finetune.trainer import Attached, Group
from harness.images import ImageSet

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

PLACEHOLDER = re.compile(r"<[a-z0-9]+(-[a-z0-9]+)*>")
KEYS = ("clip_l", "clip_g")
"""what other tools call the rows of SDXL's two text encoders"""
ROWS = "learned"


@dataclass(frozen=True)
class TextualInversion(Training):
    """Settings of the recipe."""

    learning_rate: float = 5e-3
    """The highest."""
    token: str = "<subject>"
    """The new word in angle brackets, which every caption holds; for several concepts one each, with spaces between."""
    vectors: int = 1
    """Rows of the table that each new word gets; more say more, and take more of the prompt's length."""
    initial_word: str = "person"
    """A word that the model knows as one token, whose row the new ones start from; for several concepts one for all or one each."""
    bounded: bool = True
    """Keep the new rows no longer than the longest of the model's own words, so that they do not drown the rest of a prompt."""

    def __post_init__(self) -> None:
        """Raise HarnessError for settings that contradict themselves."""
        super().__post_init__()
        wrong = [each for each in self.placeholders if not PLACEHOLDER.fullmatch(each)]
        if wrong or not self.placeholders or len(set(self.placeholders)) < len(self.placeholders):
            raise HarnessError(f"token {self.token!r}: write each new word once, small letters and digits in angle brackets, "
                               "such as <anna> or <red-hat>.")
        if self.vectors < 1:
            raise HarnessError(f"vectors must be at least 1, not {self.vectors}.")
        self._check_text()
        if len(self.initial_word.split()) not in (1, len(self.placeholders)):
            raise HarnessError(f"initial_word {self.initial_word!r}: one word for all new words, or one for each of {', '.join(self.placeholders)}.")

    def _check_text(self) -> None:
        """What this recipe trains of the text encoder is the new rows, at its one learning rate."""
        if self.text_encoder or self.text_learning_rate is not None:
            raise HarnessError("textual inversion trains new words alone, at learning_rate; for text_encoder and text_learning_rate "
                               "take lora, full or pivotal.")

    @property
    def trains_text(self) -> bool:
        """What a caption means changes at every step."""
        return True

    @property
    def placeholders(self) -> list[str]:
        """The new words, as captions and prompts hold them."""
        return self.token.split()

    @property
    def names(self) -> list[str]:
        """Every row's token, in order; diffusers writes <word>, <word>_1, ... where a prompt says <word>."""
        return [name for word in self.placeholders for name in names(word, self.vectors)]

    @property
    def words_rate(self) -> float:
        """The new rows' highest learning rate."""
        return self.learning_rate


class InversionRecipe:
    """Fresh rows in the text encoders' tables, everything else frozen."""

    name = "textual_inversion"
    settings = TextualInversion
    weights = WORDS

    @contextmanager
    def attach(self, how: TextualInversion, pipe: DiffusionPipeline, mixed: str) -> Iterator[Attached]:
        """The pipeline with the new words in it; afterwards as it was."""
        with frozen(pipe, mixed), worn(pipe, how.names, initial(how, pipe)) as rows:
            longest = [float(table.norm(dim=1).max()) for table in _tables(pipe)]
            after = (lambda: _shorten(list(rows.values()), longest)) if how.bounded else None
            yield Attached([Group(rows, how.words_rate)], [pipe.unet], after)

    def export(self, how: TextualInversion, pipe: DiffusionPipeline, manifest: dict) -> dict[str, bytes]:
        """The new words' file, as `pipe.load_textual_inversion` takes it.

        One text encoder: word -> (vectors, width). Two: clip_l and clip_g -> (all rows, width), in the order of `how.names`.
        """
        rows = [encoder.get_input_embeddings().get_parameter(ROWS) for encoder in text_encoders(pipe).values()]
        if len(rows) > 1:
            tensors = dict(zip(KEYS, rows, strict=True))
        else:
            tensors = dict(zip(how.placeholders, rows[0].split(how.vectors), strict=True))
        return {WORDS: tensor_file(tensors, {MANIFEST_KEY: json.dumps(manifest, sort_keys=True)})}

    def finish(self, how: TextualInversion, pipe: DiffusionPipeline, out: Path) -> None:
        """Learned words need nothing beside them."""


def textual_inversion(how: TextualInversion, pipe: DiffusionPipeline, images: ImageSet, out: Path, consent: Decision, **rest: Any) -> Adapter:
    """Learn new words; arguments, files and errors as in `fit.fit`.

    Besides raises HarnessError for a caption without a new word, for a word that a tokenizer has already, and for an initial
    word that one splits.
    """
    check(how, pipe, images)
    return fit(InversionRecipe(), how, pipe, images, out, consent, **rest)


def check(how: TextualInversion, pipe: DiffusionPipeline, images: ImageSet) -> None:
    """Raise HarnessError for captions or words that this recipe cannot train on."""
    initial(how, pipe)
    for name, caption in zip(images.table["file"], images.table.get("caption", [""] * len(images)), strict=True):
        if not any(says(caption, word) for word in how.placeholders):
            raise HarnessError(f"{images.folder / name}: the caption {caption!r} does not hold {' or '.join(how.placeholders)}; "
                               "every caption must, or the new word learns nothing from that picture.")


def names(word: str, vectors: int) -> list[str]:
    """The tokens of a new word of several rows, as diffusers names them."""
    return [word, *(f"{word}_{i}" for i in range(1, vectors))]


def initial(how: TextualInversion, pipe: DiffusionPipeline) -> list[torch.Tensor]:
    """(rows, width) float32 of each text encoder: the initial word's row for every new one. Raises HarnessError for a split word."""
    import torch

    words = how.initial_word.split()
    each = [word for word in (words if len(words) > 1 else words * len(how.placeholders)) for _ in range(how.vectors)]
    starts = []
    for name, table in zip(text_encoders(pipe), _tables(pipe), strict=True):
        tokenizer = getattr(pipe, _tokenizer(name))
        known = sorted(set(how.names) & set(tokenizer.get_vocab()))
        if known:
            raise HarnessError(f"the tokenizer knows {', '.join(known)} already; choose another token, or unload what brought it.")
        starts.append(torch.stack([table[tokens.single(tokenizer, word)] for word in each]).float())
    return starts


@contextmanager
def wearing(pipe: DiffusionPipeline, path: Path) -> Iterator[list[str]]:
    """The pipeline with the words of a finished training (its file or folder), which are given; afterwards as it was.

    Raises HarnessError for a file that is none of ours, or that was made for another kind of model.
    """
    import torch
    from safetensors.torch import load

    path = Path(path) / WORDS if Path(path).is_dir() else Path(path)
    settings = read_manifest(path)["settings"]
    words, found = settings["token"].split(), load(path.read_bytes())
    rows = [found[key] for key in KEYS if key in found] or [torch.cat([found[word] for word in words])]
    if [tensor.shape[1] for tensor in rows] != [table.shape[1] for table in _tables(pipe)]:
        raise HarnessError(f"{path}: made for another kind of model; its rows do not fit the text encoder of a {type(pipe).__name__}.")
    with worn(pipe, [name for word in words for name in names(word, settings["vectors"])], rows):
        yield words


@contextmanager
def worn(pipe: DiffusionPipeline, words: Sequence[str], rows: Sequence[torch.Tensor]) -> Iterator[dict[str, torch.nn.Parameter]]:
    """The pipeline with `words` in its tokenizers and a row each in its text encoders: parameters (words, width), by encoder.

    The tokenizers are copies and the encoders' own tables are not touched, so that afterwards everything is as it was.
    """
    import torch

    encoders = text_encoders(pipe)
    own = {_tokenizer(name): getattr(pipe, _tokenizer(name)) for name in encoders}
    learned = {}
    try:
        for (name, encoder), start in zip(encoders.items(), rows, strict=True):
            table, tokenizer = encoder.get_input_embeddings(), own[_tokenizer(name)]
            setattr(pipe, _tokenizer(name), _taught(tokenizer, words))
            learned[f"{name}.{ROWS}"] = torch.nn.Parameter(start.detach().float().clone().to(table.weight.device))
            table.register_parameter(ROWS, learned[f"{name}.{ROWS}"])
            table.forward = _lookup(table, len(tokenizer))
        yield learned
    finally:
        for name, tokenizer in own.items():
            setattr(pipe, name, tokenizer)
        for encoder in encoders.values():
            encoder.get_input_embeddings().__dict__.pop("forward", None)
            encoder.get_input_embeddings()._parameters.pop(ROWS, None)


def _taught(tokenizer: object, words: Sequence[str]) -> object:
    """A copy of a tokenizer that knows the words."""
    taught = copy.deepcopy(tokenizer)
    if taught.add_tokens(list(words)) != len(words):
        raise HarnessError(f"the tokenizer knows some of {', '.join(words)} already; choose another token.")
    return taught


def _lookup(table: torch.nn.Embedding, first: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The table's lookup, in which numbers from `first` on are looked up in the learned rows."""
    from torch.nn.functional import embedding

    def forward(ids: torch.Tensor) -> torch.Tensor:
        known, learned = embedding(ids.clamp(max=first - 1), table.weight), embedding((ids - first).clamp(min=0), table.get_parameter(ROWS))
        return known.where((ids < first).unsqueeze(-1), learned.to(known.dtype))

    return forward


def _shorten(rows: Sequence[torch.nn.Parameter], longest: Sequence[float]) -> None:
    """Scale rows that are longer than allowed back to that length."""
    import torch

    with torch.no_grad():
        for parameter, limit in zip(rows, longest, strict=True):
            parameter.mul_((limit / parameter.norm(dim=1, keepdim=True)).clamp(max=1.0))


def _tokenizer(encoder: str) -> str:
    """The name of a text encoder's tokenizer."""
    return encoder.replace("text_encoder", "tokenizer")


def _tables(pipe: DiffusionPipeline) -> list[torch.Tensor]:
    """The model's own rows, (tokens, width) of each text encoder."""
    return [encoder.get_input_embeddings().weight.detach() for encoder in text_encoders(pipe).values()]
