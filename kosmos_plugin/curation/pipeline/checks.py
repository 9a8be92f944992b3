"""Checks of a recipe's options."""

from kosmos_plugin.errors import UserError


def require(condition: bool, message: str) -> None:
    """Raise UserError with `message` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def require_valid_share(share: float) -> None:
    """Raise UserError unless `share` holds out a part of the documents, and not all."""
    require(0 <= share < 1, f"--valid-share must be 0 … 1, not {share}.")
