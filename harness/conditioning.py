"""What the text says to the U-Net: the one place where SDXL differs from the other families."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import HarnessError

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline


@dataclass(frozen=True, eq=False)
class Text:
    """Embeddings of n prompts."""

    hidden: torch.Tensor
    """(n, tokens, width): what the U-Net attends to."""
    pooled: torch.Tensor | None
    """(n, width) for SDXL, otherwise None."""

    def rows(self, index: Sequence[int]) -> Text:
        """The prompts of these rows, in this order."""
        chosen = list(index)
        return Text(self.hidden[chosen], None if self.pooled is None else self.pooled[chosen])

    def to(self, dtype: torch.dtype) -> Text:
        """The same in another precision."""
        return Text(self.hidden.to(dtype), None if self.pooled is None else self.pooled.to(dtype))

    def for_pipeline(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """Keyword arguments of a pipeline's call; prefix "negative_" for the other half of the guidance."""
        given = {f"{prefix}prompt_embeds": self.hidden}
        return given if self.pooled is None else given | {f"{prefix}pooled_prompt_embeds": self.pooled}

    def for_unet(self, height: int, width: int) -> dict:
        """Keyword arguments of a U-Net's forward. SDXL is told the size (original, crop at 0, target; its paper, 2.2)."""
        if self.pooled is None:
            return {"encoder_hidden_states": self.hidden}
        ids = self.pooled.new_tensor([[height, width, 0, 0, height, width]]).expand(len(self.hidden), -1)
        return {"encoder_hidden_states": self.hidden, "added_cond_kwargs": {"text_embeds": self.pooled, "time_ids": ids}}


def encode(pipe: DiffusionPipeline, prompts: Sequence[str], gradients: bool = False) -> Text:
    """Embed prompts with the pipeline's own text towers.

    Each is encoded alone, so that its numbers never depend on its company; with `gradients`, for training the towers,
    all at once. Words beyond the context are cut off by the tokenizer; `cut_words` says which.
    """
    import torch

    if gradients:
        given = pipe.encode_prompt(list(prompts), device=pipe.device, num_images_per_prompt=1, do_classifier_free_guidance=False)
        return Text(given[0], given[2] if len(given) == 4 else None)

    with torch.inference_mode():
        rows = [pipe.encode_prompt(prompt, device=pipe.device, num_images_per_prompt=1, do_classifier_free_guidance=False)
                for prompt in prompts]
    # clone() outside inference mode makes tensors that autograd accepts as constants
    hidden = torch.cat([row[0] for row in rows]).clone()
    pooled = torch.cat([row[2] for row in rows]).clone() if len(rows[0]) == 4 else None
    return Text(hidden, pooled)


def unconditional(pipe: DiffusionPipeline, prompt: str = "") -> Text:
    """What guidance pushes away from: one row. SDXL's convention for an empty prompt is zeros, not the empty text."""
    import torch

    text = encode(pipe, [prompt])
    if prompt or not pipe.config.get("force_zeros_for_empty_prompt"):
        return text
    return Text(torch.zeros_like(text.hidden), torch.zeros_like(text.pooled))


def join(first: Text, second: Text) -> Text:
    """The rows of both."""
    import torch

    pooled = None if first.pooled is None else torch.cat([first.pooled, second.pooled])
    return Text(torch.cat([first.hidden, second.hidden]), pooled)


def cut_words(pipe: DiffusionPipeline, prompt: str) -> str:
    """The end of a prompt that the model will not read, or ''."""
    tokenizer = pipe.tokenizer
    tokens = tokenizer(pipe.maybe_convert_prompt(prompt, tokenizer), add_special_tokens=False).input_ids
    return tokenizer.decode(tokens[tokenizer.model_max_length - 2:]).strip()


def pixel_size(pipe: DiffusionPipeline) -> tuple[int, int]:
    """(height, width) that the model was made for: the U-Net's sample size times the VAE's factor."""
    size = pipe.unet.config.sample_size
    high, wide = (size, size) if isinstance(size, int) else size
    return high * pipe.vae_scale_factor, wide * pipe.vae_scale_factor


def origin(pipe: DiffusionPipeline) -> tuple[str, str]:
    """(name, weights hash) of a pipeline that `models.load_pipeline` opened; raises HarnessError for another."""
    from harness.models import weights_hash

    if not hasattr(pipe, "origin"):
        raise HarnessError("this pipeline has no record of where it came from; open it with harness.models.load_pipeline.")
    return pipe.origin.name, weights_hash(pipe.origin.folder)
