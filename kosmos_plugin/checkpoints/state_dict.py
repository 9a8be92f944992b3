"""Checks that weights match the model that a configuration describes."""

from collections.abc import Collection
from pathlib import Path

import torch

from kosmos_plugin.errors import UserError
from kosmos_plugin.tensor_files import Tensors


def require_matching_weights(weights: Tensors, expected: Tensors, source: str | Path) -> None:
    """Raise UserError, naming `source`, unless `weights` have the names and shapes of `expected`."""
    require_matching_names(weights, expected, source)
    for name, tensor in weights.items():
        if not isinstance(tensor, torch.Tensor):
            raise UserError(f"{source}: {name} is not a tensor.")
        if tensor.shape != expected[name].shape:
            raise UserError(
                f"{source}: {name} has the shape {tuple(tensor.shape)}, but its configuration says "
                f"{tuple(expected[name].shape)}."
            )


def require_matching_names(names: Collection[str], expected: Collection[str], source: str | Path) -> None:
    """Raise UserError, naming `source`, unless `names` are those of `expected`."""
    for verb, odd in (("lacks", set(expected) - set(names)), ("has the unexpected", set(names) - set(expected))):
        if odd:
            more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
            raise UserError(f"{source} {verb} {min(odd)}{more}: its weights do not match its configuration.")
