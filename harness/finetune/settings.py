"""What every recipe can be told: one dataclass of knobs, each with a sane default; contradictions are refused at once."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import HarnessError

SCHEDULES = ("constant", "linear", "cosine")
PRECISIONS = ("auto", "no", "bf16")
PREDICTIONS = ("model", "epsilon", "v_prediction")
OPTIMISERS = ("adamw", "adamw8bit")


@dataclass(frozen=True)
class Training:
    """Settings of every recipe."""

    steps: int = 300
    """Optimiser steps."""
    batch_size: int = 8
    """Pictures a step, over all processes together; class images come on top."""
    accumulation: int = 1
    """Parts that a step's pictures are taken in, one after the other: the same result in less memory."""
    learning_rate: float = 1e-3
    """The highest."""
    warmup: int = 10
    """Steps of linear rise to the learning rate."""
    schedule: str = "cosine"
    """constant, linear or cosine (the latter two down to zero at the end)."""
    snr_gamma: float | None = None
    """Min-SNR's gamma (5 is usual); none weighs all noise levels alike."""
    noise_offset: float = 0.0
    """Share of noise that is one number a channel, so that very light and very dark pictures are learned (0.05 to 0.1 is usual)."""
    prediction: str = "model"
    """What the U-Net is asked for: model (its own), epsilon or v_prediction."""
    caption_dropout: float = 0.1
    """Share of pictures shown without their caption, so that guidance keeps working."""
    class_prompt: str = ""
    """Prompt of the class images of prior preservation, such as "a portrait of a person"; without one there are none."""
    class_images: int = 100
    """How many class images are drawn (once, and kept)."""
    prior_weight: float = 1.0
    """Weight of the class images' loss."""
    text_encoder: bool = False
    """Train the text encoder too."""
    text_learning_rate: float | None = None
    """The text encoder's highest; a tenth of learning_rate when not given."""
    optimiser: str = "adamw"
    """adamw, or adamw8bit (needs bitsandbytes and a GPU)."""
    weight_decay: float = 1e-4
    """AdamW's."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this length."""
    ema: float | None = None
    """Decay of the running average of the weights, such as 0.999, which is then what is kept and shown; none for no average."""
    gradient_checkpointing: bool = False
    """Less memory for about a third more time."""
    compile: bool = False
    """torch.compile the U-Net; the trainer prints after how many steps that pays."""
    mixed_precision: str = "auto"
    """no, bf16 (what is trained stays float32), or auto: bf16 on a GPU that multiplies in it, otherwise no."""
    flip: bool = False
    """Mirror half of the pictures; not for faces or writing that are not symmetric."""
    resolution: int | None = None
    """Side in pixels of the centred square (or, with buckets, of the square of the same area); the model's own when not given."""
    buckets: bool = False
    """Keep each picture's aspect ratio, in a few sizes of one area, instead of cutting squares."""
    checkpoint_every: int = 50
    """Steps between checkpoints and previews."""
    seed: int = 0
    """Of everything random: order, noise, noise levels, dropout, first weights."""

    def __post_init__(self) -> None:
        """Raise HarnessError for settings that contradict themselves."""
        if min(self.steps, self.batch_size, self.accumulation, self.checkpoint_every, self.class_images) < 1 or self.learning_rate <= 0:
            raise HarnessError("steps, batch_size, accumulation, checkpoint_every, class_images and learning_rate must be above 0.")
        if self.accumulation > self.batch_size:
            raise HarnessError(f"accumulation ({self.accumulation}) cannot take fewer than one picture at a time of a batch of {self.batch_size}.")
        if not 0 <= self.warmup < self.steps:
            raise HarnessError(f"warmup ({self.warmup}) must be shorter than the training ({self.steps} steps).")
        for name, value, below in (("caption_dropout", self.caption_dropout, 1), ("noise_offset", self.noise_offset, 1), ("ema", self.ema or 0, 1)):
            if not 0 <= value < below:
                raise HarnessError(f"{name} must be at least 0 and below {below}, not {value}.")
        if (self.snr_gamma is not None and self.snr_gamma <= 0) or self.prior_weight < 0 or self.max_grad_norm <= 0:
            raise HarnessError(f"snr_gamma ({self.snr_gamma}) and max_grad_norm ({self.max_grad_norm}) must be above 0, prior_weight "
                               f"({self.prior_weight}) at least 0.")
        if self.text_learning_rate is not None and (self.text_learning_rate <= 0 or not self.trains_text):
            raise HarnessError("text_learning_rate must be above 0, and means nothing unless the text encoder is trained (text_encoder).")
        for name, known in (("schedule", SCHEDULES), ("mixed_precision", PRECISIONS), ("prediction", PREDICTIONS), ("optimiser", OPTIMISERS)):
            if getattr(self, name) not in known:
                raise HarnessError(f"{name} {getattr(self, name)!r} is none of {', '.join(known)}.")

    @property
    def trains_text(self) -> bool:
        """Does this recipe change what a caption means? Then captions are embedded anew at every step."""
        return self.text_encoder

    @property
    def text_rate(self) -> float:
        """The text encoder's highest learning rate."""
        return self.text_learning_rate or self.learning_rate / 10
