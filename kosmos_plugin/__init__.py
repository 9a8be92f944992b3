"""KOSMOS-1, a multimodal language model, inside fairseq.

Importing this package imports neither fairseq nor torch. `register()` registers the task, the architectures, the
criterion and the optimizer with fairseq; the module that is installed in fairseq's `tasks/` folder calls it.
"""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from kosmos_plugin.generation.generator import Generator

__version__ = "0.2.0"
__all__ = ["__version__", "load", "register"]

_registered = False


def load(path: "str | Path", **options: Any) -> "Generator":
    """A trained model from its checkpoint, in evaluation mode: see `kosmos_plugin.generation.generator.load`."""
    from kosmos_plugin.generation import generator

    register()
    return generator.load(path, **options)


def register() -> None:
    """Register the plug-in with fairseq, and patch what fairseq needs here; a second call does nothing.

    Raises:
        ImportError: fairseq is not installed.
    """
    global _registered
    if _registered:
        return
    _registered = True
    try:
        from kosmos_plugin.compat import apply

        apply()
        import kosmos_plugin.fairseq_modules.architectures
        import kosmos_plugin.fairseq_modules.criterion
        import kosmos_plugin.fairseq_modules.fused_adamw
        import kosmos_plugin.fairseq_modules.task

        kosmos_plugin.fairseq_modules.architectures.register()
    except BaseException:
        _registered = False
        raise


if "fairseq" in sys.modules:  # --user-dir, which fairseq imports as a module
    register()
