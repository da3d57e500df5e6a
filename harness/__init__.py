"""Fine-tune text-to-image models and audit what comes out. Importing this package imports nothing heavy."""

__version__ = "0.1.0"
