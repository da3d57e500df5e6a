"""How images are drawn: settings, schedulers by name, prompts times seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import HarnessError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

SCHEDULERS = {
    "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "dpm++karras": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": True}),
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
"""Name -> (class of diffusers, settings beyond those of the model's own noise schedule)."""
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Sampling:
    """How to draw."""

    steps: int = 20
    """Denoising steps."""
    guidance_scale: float = 4.0
    """Classifier-free guidance; 1 is none."""
    scheduler: str = "dpm++"
    """One of SCHEDULERS, or model for the model's own."""
    negative_prompt: str = ""
    """What guidance pushes away from."""
    height: int | None = None
    """Pixels; the model's own size when not given."""
    width: int | None = None
    """Pixels; the model's own size when not given."""
    batch_size: int = 16
    """Images drawn at once; it changes their last bits, so it is recorded."""

    def __post_init__(self) -> None:
        """Raise HarnessError for settings that contradict themselves."""
        if self.steps < 1 or self.batch_size < 1:
            raise HarnessError(f"steps ({self.steps}) and batch_size ({self.batch_size}) must be at least 1.")
        if self.guidance_scale < 1:
            raise HarnessError(f"guidance_scale must be at least 1 (1 is no guidance), not {self.guidance_scale}.")
        if self.scheduler not in (*SCHEDULERS, "model"):
            raise HarnessError(f"scheduler {self.scheduler!r} is none of {', '.join(SCHEDULERS)}, model.")
        if self.negative_prompt and self.guidance_scale == 1:
            raise HarnessError("a negative prompt does nothing at guidance_scale 1; raise it, or leave the prompt out.")


def cross(prompts: Sequence[str], seeds: Sequence[int] | int) -> tuple[list[str], list[int]]:
    """Every prompt with as many seeds, as two lists of equal length for `sample`.

    No seed is used for two prompts: prompt i gets seeds shifted by i times their range, because seeds shared across
    prompts would be a second clustering that every interval had to reckon with. `seeds` is a list, or how many.
    """
    base = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not base or not prompts or len(set(base)) < len(base):
        raise HarnessError("cross needs at least one prompt, and at least one seed, none of them twice.")
    stride = max(base) - min(base) + 1
    pairs = [(prompt, seed + i * stride) for i, prompt in enumerate(prompts) for seed in base]
    return [prompt for prompt, _ in pairs], [seed for _, seed in pairs]


def scheduler_of(pipe: DiffusionPipeline, name: str) -> object:
    """The scheduler called `name` on the pipeline's own noise schedule and prediction type."""
    import diffusers

    if name == "model":
        return type(pipe.scheduler).from_config(pipe.scheduler.config)
    kind, settings = SCHEDULERS[name]
    return getattr(diffusers, kind).from_config(pipe.scheduler.config, **settings)
