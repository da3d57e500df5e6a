"""Fine-tuning: one trainer, small recipes."""

from harness.finetune.adapter import Adapter
from harness.finetune.lora import Lora, lora

__all__ = ["Adapter", "Lora", "lora"]
