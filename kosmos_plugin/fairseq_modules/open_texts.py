"""Makes what text streams need on disk before fairseq forms its process group, once on each machine.

Finding where the rows of a large text begin takes minutes. If one rank did that after the others had joined the group,
they would wait in a collective operation, which ends the training when it times out.
"""

import functools
from typing import Any

from fairseq.distributed import utils as distributed_utils

from kosmos_plugin.data.config import SPLITS, read_data_config
from kosmos_plugin.data.text import TEXT_ROWS
from kosmos_plugin.errors import UserError, print_user_errors_plainly
from kosmos_plugin.vocabulary import Vocabulary

TASK = "kosmos_multimodal"


def apply() -> None:
    """Make `call_main`, which starts the ranks of every fairseq command, open the texts first."""
    distributed_utils.call_main = _opening_texts(distributed_utils.call_main)


def _opening_texts(call_main: Any) -> Any:
    @functools.wraps(call_main)
    def wrapper(cfg: Any, main: Any, **kwargs: Any) -> None:
        if getattr(getattr(cfg, "task", None), "_name", None) == TASK:
            open_texts(cfg.task)
        call_main(cfg, main, **kwargs)

    return wrapper


def open_texts(task: Any) -> None:
    """Open every text of the data YAML, which makes the row starts that are missing.

    Args:
        task: The task's options. If they are wrong nothing happens here: the task says so when it is set up.
    """
    try:
        data = read_data_config(task.data)
        vocabulary = Vocabulary.load(task.vocabulary or data.vocabulary)
    except (UserError, TypeError):
        return
    print_user_errors_plainly()
    for stream in data.streams:
        if stream.kind == "text":
            for path in (path for corpus in stream.corpora for split in SPLITS for path in corpus.paths(split)):
                TEXT_ROWS[stream.packing](path, vocabulary, task.tokens_per_sample, stream.cache)
