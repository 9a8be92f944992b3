"""Checks of a recipe's options."""

from kosmos_plugin.errors import UserError


def require(condition: bool, message: str) -> None:
    """Raise a UserError with `message` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def require_valid_share(share: float) -> None:
    """Raise a UserError unless 0 ≤ `share` < 1."""
    require(0 <= share < 1, f"--valid-share must be at least 0 and less than 1, not {share}.")
