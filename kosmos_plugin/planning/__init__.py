"""Estimates of memory, FLOPs and GPU-hours from a training's command (`kosmos-inspect --plan`)."""
