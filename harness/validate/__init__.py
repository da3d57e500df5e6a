"""Notebooks, presets, cards, runs and published results held against their schemas and hashes."""
