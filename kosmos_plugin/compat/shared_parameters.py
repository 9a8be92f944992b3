"""fairseq's trainer mistakes all missing parameters of a model for one shared parameter.

A module without a bias registers None under that name, and the trainer logs "detected shared parameter" for each pair
of them, although nothing is shared. Parameters that are shared are still logged.
"""

from typing import Any

from fairseq import tasks
from torch import nn

_setup_task = tasks.setup_task


def is_needed() -> bool:
    """Return True: fairseq always compares missing parameters too."""
    return True


def apply() -> None:
    """Replace `_catalog_shared_params` of the trainer, once a task is set up."""
    tasks.setup_task = setup_task


def setup_task(cfg: Any, **kwargs: Any) -> Any:
    """fairseq's function of this name, which every command calls before it makes a trainer."""
    from fairseq import trainer  # not at the top: fairseq itself may still be importing

    trainer._catalog_shared_params = shared_parameters
    return _setup_task(cfg, **kwargs)


def shared_parameters(module: nn.Module) -> list[list[str]]:
    """List the names of each parameter that has several."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    return [each for each in names.values() if len(each) > 1]
