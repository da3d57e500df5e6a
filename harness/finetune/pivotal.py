"""Pivotal tuning: new words and a LoRA together, in one training (Roich et al. 2021 for the idea; as diffusers' advanced scripts do it).

The words find the place in the model's language that is nearest to the subject, and the LoRA moves the model the rest of the way.
Both files stand in one folder: `pipe.load_textual_inversion(folder)`, then `pipe.load_lora_weights(folder)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.consent.gate import Decision
from harness.errors import HarnessError
from harness.finetune.adapter import WEIGHTS, Adapter
from harness.finetune.fit import fit
from harness.finetune.inversion import InversionRecipe, TextualInversion, check
from harness.finetune.lora import Lora, LoraRecipe
from harness.finetune.trainer import Attached
from harness.images import ImageSet

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@dataclass(frozen=True)
class Pivotal(TextualInversion, Lora):
    """Settings of the recipe."""

    learning_rate: float = 1e-3
    """The LoRA's highest."""
    words_learning_rate: float = 5e-3
    """The new words' highest."""

    def __post_init__(self) -> None:
        """Raise HarnessError for settings that contradict themselves."""
        super().__post_init__()
        if self.words_learning_rate <= 0:
            raise HarnessError(f"words_learning_rate must be above 0, not {self.words_learning_rate}.")

    @property
    def words_rate(self) -> float:
        """The new rows' highest learning rate."""
        return self.words_learning_rate

    def _check_text(self) -> None:
        """On request the LoRA is put on the text encoders too."""
        if self.text_learning_rate is not None and not self.text_encoder:
            raise HarnessError("text_learning_rate is that of a LoRA on the text encoder (text_encoder); the new words have words_learning_rate.")


class PivotalRecipe:
    """Both recipes, the words first."""

    name = "pivotal"
    settings = Pivotal
    weights = WEIGHTS

    def __init__(self) -> None:
        self._words, self._lora = InversionRecipe(), LoraRecipe()

    @contextmanager
    def attach(self, how: Pivotal, pipe: DiffusionPipeline, mixed: str) -> Iterator[Attached]:
        """The pipeline with new words and fresh LoRAs; afterwards as it was."""
        with self._words.attach(how, pipe, mixed) as words, self._lora.attach(how, pipe, mixed) as lora:
            for rows in words.parameters.values():
                rows.requires_grad_(True)  # the LoRA froze all that it found
            yield Attached([*lora.groups, *words.groups], lora.modules, words.after_step)

    def export(self, how: Pivotal, pipe: DiffusionPipeline, manifest: dict) -> dict[str, bytes]:
        """The files of both, each with the manifest."""
        return self._words.export(how, pipe, manifest) | self._lora.export(how, pipe, manifest)

    def finish(self, how: Pivotal, pipe: DiffusionPipeline, out: Path) -> None:
        """Neither needs anything beside it."""


def pivotal(how: Pivotal, pipe: DiffusionPipeline, images: ImageSet, out: Path, consent: Decision, **rest: Any) -> Adapter:
    """Learn new words and a LoRA; arguments, files and errors as in `fit.fit` and `textual_inversion`."""
    check(how, pipe, images)
    return fit(PivotalRecipe(), how, pipe, images, out, consent, **rest)
