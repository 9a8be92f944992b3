"""Importing fairseq changes the root logger and prints warnings.

`fairseq.models.wav2vec.wav2vec2_classification` calls `logging.basicConfig(level=DEBUG)`, after which other libraries
(Pillow, matplotlib) flood a notebook; one of its tasks also calls `basicConfig`, and logs that tensorboardX is missing;
fairscale, which fairseq imports, uses names that torch has deprecated.
"""

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def import_fairseq() -> None:
    """Import fairseq and leave the root logger, the warning filters and standard error as they were.

    Raises:
        ImportError: fairseq is not installed.
    """
    # Without fairseq, our hook in site-packages/fairseq/tasks alone makes `fairseq` importable, as an empty namespace.
    spec = importlib.util.find_spec("fairseq")
    if spec is None or spec.origin is None:
        raise ImportError(
            "kosmos_plugin trains inside fairseq, and fairseq is not installed: pip install 'kosmos-plugin[fairseq]' "
            "(on Python 3.10 with pip before 24.1)"
        )
    import torch  # noqa: F401 - it adds warning filters of its own, which stay

    with unchanged_root_logger(), _no_messages_below(logging.WARNING), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="fairscale")
        warnings.filterwarnings("ignore", category=SyntaxWarning)  # of fairseq's code, when it is first compiled
        import fairscale.experimental.nn  # noqa: F401
        import fairseq  # noqa: F401


@contextmanager
def unchanged_root_logger() -> Iterator[None]:
    """Restore the root logger's level and handlers at the end."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(level)
        for handler in list(root.handlers):
            if handler not in handlers:
                root.removeHandler(handler)


@contextmanager
def _no_messages_below(level: int) -> Iterator[None]:
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, level - 1))
    try:
        yield
    finally:
        logging.disable(disabled)
