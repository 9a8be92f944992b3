"""Deterministic samples and splits."""
