"""Fine-tuning: one trainer, small recipes."""

from harness.finetune.adapter import Adapter
from harness.finetune.full import Full, full
from harness.finetune.inversion import TextualInversion, textual_inversion
from harness.finetune.lora import Lora, lora
from harness.finetune.pivotal import Pivotal, pivotal
from harness.finetune.settings import Training

__all__ = ["Adapter", "Full", "Lora", "Pivotal", "TextualInversion", "Training", "full", "lora", "pivotal", "textual_inversion"]
