"""KOSMOS-1, a multimodal language model, inside fairseq.

    import kosmos_plugin

    kosmos = kosmos_plugin.load("checkpoints/checkpoint_best.pt")
    kosmos.generate("<image> Question: what is this? Answer:", "cat.png", num_beams=5)

Importing this package imports neither fairseq nor torch. `register()` registers the task, the architectures, the
criterion and the optimizer with fairseq; the module that is installed in fairseq's `tasks/` folder calls it.
"""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from kosmos_plugin.generation.generator import Generator

__version__ = "0.2.0"
__all__ = ["__version__", "load", "register"]


def load(
    path: "str | Path",
    data: "str | Path | None" = None,
    vocabulary: "str | Path | None" = None,
    device: "str | torch.device | None" = None,
    dtype: "str | torch.dtype | None" = None,
) -> "Generator":
    """Load a trained model, in evaluation mode.

    Args:
        path: A checkpoint of fairseq-train (.pt) or kosmos-convert (.pt, .safetensors), or a folder with one.
        data: A data YAML that names the vocabulary (default: the checkpoint's own).
        vocabulary: A folder of sentencepiece.model and dict.txt (default: the checkpoint's own; one of version 0.1 has
            none, and takes the folder `vocabulary` beside it, or that of its training).
        device: Where it runs, e.g. "cpu", "cuda:1" (default: the GPU if there is one).
        dtype: "float32", "bfloat16" or "float16" (default: bfloat16 on a GPU, float32 on a CPU).

    Returns:
        The model with its vocabulary.

    Raises:
        UserError: `path` is not a checkpoint of a KOSMOS model, its vocabulary is missing, or there is no such device.
        ImportError: fairseq is not installed.

    Example:
        >>> kosmos = kosmos_plugin.load("checkpoints/checkpoint_best.pt")
        >>> kosmos.generate("<image> Question: what is this? Answer:", "cat.png", num_beams=5)
        >>> for part in kosmos.stream("<image> An image of", "cat.png"):
        ...     print(part, end="", flush=True)
        >>> kosmos.chat(template="question-answer").ask("what is this?", "cat.png")
        >>> kosmos.score("<image> A photo of a", "cat.png", candidates=["cat", "dog"])  # log-probabilities
    """
    register()
    from kosmos_plugin.compat.quiet_import import unchanged_root_logger
    from kosmos_plugin.generation import generator

    with unchanged_root_logger():  # open_clip calls logging.info, which adds a handler
        return generator.load(path, data, vocabulary, device, dtype)


def register() -> None:
    """Register the plugin with fairseq and apply the patches of `compat`; a second call does nothing.

    Raises:
        ImportError: fairseq is not installed.
    """
    # The work is an import, so that one thread does it and others wait, and so that it can be repeated if it fails.
    import kosmos_plugin.fairseq_modules.registration  # noqa: F401


if sys.modules.get("fairseq"):  # --user-dir, which fairseq imports as a module
    register()
