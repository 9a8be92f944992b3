"""The keys that requests may have."""

import hmac
import os
from collections.abc import Sequence

KEY_VARIABLE = "KOSMOS_API_KEY"


def keys_from(given: Sequence[str]) -> Sequence[str]:
    """The keys that were given, or that of the environment."""
    key = os.environ.get(KEY_VARIABLE)
    return tuple(given) or ((key,) if key else ())


def is_key(given: bytes, keys: Sequence[bytes]) -> bool:
    """Whether it is one of the keys; all are compared, in the same time."""
    return any([hmac.compare_digest(given, key) for key in keys])
