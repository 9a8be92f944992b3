"""fairseq configures itself through Hydra's interface of version 1.0, and every newer Hydra prints a page of warnings.

The options of each fairseq command go through `hydra.experimental.initialize` and `compose`.
"""

import warnings
from typing import Any

import hydra
from fairseq.dataclass import utils as dataclass_utils

_initialize = dataclass_utils.initialize
_compose = dataclass_utils.compose


def is_needed() -> bool:
    """Whether Hydra is newer than the interface that fairseq uses."""
    return not hydra.__version__.startswith("1.0")


def apply() -> None:
    """Replace Hydra in `fairseq.dataclass.utils`."""
    dataclass_utils.initialize = initialize
    dataclass_utils.compose = compose


def initialize(config_path: str) -> Any:
    """Hydra's context manager of this name; `config_path` is relative to the caller's file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return _initialize(config_path=config_path, caller_stack_depth=2)


def compose(*args: Any, **kwargs: Any) -> Any:
    """Hydra's function of this name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return _compose(*args, **kwargs)
