"""Fine-tuning: one trainer, small recipes."""

from harness.finetune.adapter import Adapter
from harness.finetune.full import Full, full
from harness.finetune.lora import Lora, lora
from harness.finetune.settings import Training

__all__ = ["Adapter", "Full", "Lora", "Training", "full", "lora"]
