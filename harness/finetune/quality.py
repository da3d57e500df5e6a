"""Quality tuning: a few steps on a small set that a person chose picture by picture, stopped early ("Emu", Dai et al. 2023).

The paper's findings (sections 3.2 to 3.4): a few thousand or even a hundred pictures do, if each of them is excellent; the step is
small and the training short, for the loss goes on falling when what people prefer has long stopped rising; and whether it helped
is answered by people who see both models' pictures side by side and blind. So this is no recipe of its own but settings for `full`
or `lora`, a stop, and a judge that somebody else brings; `widgets.rate` holds the blind comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import progress as showing
from harness.consent.gate import Decision
from harness.errors import HarnessError
from harness.finetune import choose, record
from harness.finetune.adapter import Adapter
from harness.finetune.fit import Judge, fit
from harness.finetune.full import Full, FullRecipe
from harness.finetune.lora import Lora, LoraRecipe
from harness.images import ImageSet

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

MOST = 2000
"""different pictures beyond which a set was hardly chosen one by one"""


@dataclass(frozen=True)
class Stop:
    """When to stop, by what the judge says of every checkpoint."""

    patience: int = 2
    """Checkpoints in a row that may bring no better value than the best so far."""
    measure: str = choose.FIDELITY
    """What has to rise."""

    def __post_init__(self) -> None:
        """Raise HarnessError for a patience of none."""
        if self.patience < 1:
            raise HarnessError(f"patience must be at least 1, not {self.patience}.")

    def over(self, values: Mapping[int, float]) -> bool:
        """Is it time, after these values by step?"""
        best = max(values, key=lambda step: (values[step], -step), default=0)
        return sum(step > best for step in values) >= self.patience


@dataclass(frozen=True)
class QualityFull(Full):
    """Settings of a quality tuning of the whole U-Net."""

    steps: int = 120
    """The most optimiser steps; the stop usually comes earlier."""
    learning_rate: float = 5e-5
    """The highest; large models want about 1e-6."""
    schedule: str = "constant"
    """constant: a stop must not depend on how far the end is."""
    noise_offset: float = 0.1
    """As in the paper, so that very light and very dark pictures are learned."""
    checkpoint_every: int = 20
    """Steps between looks at the model."""


@dataclass(frozen=True)
class QualityLora(Lora):
    """Settings of a quality tuning by a LoRA: a file of megabytes instead of a model."""

    steps: int = 120
    """The most optimiser steps; the stop usually comes earlier."""
    learning_rate: float = 3e-4
    """The highest."""
    schedule: str = "constant"
    """constant: a stop must not depend on how far the end is."""
    noise_offset: float = 0.1
    """As in the paper, so that very light and very dark pictures are learned."""
    checkpoint_every: int = 20
    """Steps between looks at the model."""


def quality(how: QualityFull | QualityLora, pipe: DiffusionPipeline, images: ImageSet, out: Path, consent: Decision, judge: Judge,
            stop: Stop | None = None, rule: choose.Rule | None = None, progress: Callable[[dict], None] | None = None, **rest: Any) -> Adapter:
    """Tune on the curated `images` until `stop` says enough, and keep the checkpoint that `rule` chooses.

    `judge` and the rest as in `fit.fit`; the judge's scorers must be others than those that will compare the models afterwards.
    The same call again goes on where it stopped, or gives back what is finished. Raises HarnessError for a set that is too large to
    have been chosen by hand, or a judge that leaves out what has to rise.
    """
    out, tell, stop = Path(out), progress or showing.printer(), stop or Stop()
    if images.table["sha256"].nunique() > MOST:
        raise HarnessError(f"{images.folder}: {images.table['sha256'].nunique()} pictures; quality tuning takes a set that a person chose picture by "
                           f"picture, {MOST} at most. Choose fewer, or fine-tune with `full`.")
    recipe = FullRecipe() if isinstance(how, Full) else LoraRecipe()
    watched = _Watch(stop, out, judge, tell)
    return fit(recipe, how, pipe, images, out, consent, progress=progress, judge=watched.judge, rule=rule, stop=watched.enough, **rest)


class _Watch:
    """Stands between a training and its judge, and says when it is enough."""

    def __init__(self, stop: Stop, out: Path, judge: Judge, tell: Callable[[dict], None]) -> None:
        self.stop, self.out, self.asked, self.tell = stop, out, judge, tell

    def judge(self, pipe: DiffusionPipeline, step: int) -> Mapping[str, tuple[float, float, float]]:
        """The judge's own answer, if it says what has to rise."""
        said = self.asked(pipe, step)
        if self.stop.measure not in said:
            raise HarnessError(f"the judge says {', '.join(said) or 'nothing'} of step {step}, and not {self.stop.measure}, by which this training is stopped.")
        return said

    def enough(self, step: int) -> bool:
        """Is it, after this checkpoint?"""
        table = record.checkpoints(self.out)
        rows = table[(table["measure"] == self.stop.measure) & (table["step"] <= step)]
        over = self.stop.over(dict(zip(rows["step"].astype(int), rows["estimate"], strict=True)))
        if over:
            self.tell({"stage": "train", "note": f"stopped after step {step}: no better {self.stop.measure} at {self.stop.patience} checkpoints in a row"})
        return over
