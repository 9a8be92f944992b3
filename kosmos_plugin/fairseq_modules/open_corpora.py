"""Makes what the data needs on disk before fairseq forms its process group, once on each machine.

Finding where the rows of a large text begin takes minutes, and indexing a large corpus of tars and counting its tokens
hours. If one rank did that after the others had joined the group, they would wait in a collective operation, which ends
the training when it times out.
"""

import functools
from typing import Any

from fairseq.distributed import utils as distributed_utils

from kosmos_plugin.data.config import SPLITS, read_data_config
from kosmos_plugin.data.samples import SampleBuilder
from kosmos_plugin.errors import UserError, print_user_errors_plainly
from kosmos_plugin.vocabulary import Vocabulary

TASK = "kosmos_multimodal"


def apply() -> None:
    """Make `call_main`, which starts the ranks of every fairseq command, open the corpora first."""
    distributed_utils.call_main = _opening_corpora(distributed_utils.call_main)


def _opening_corpora(call_main: Any) -> Any:
    @functools.wraps(call_main)
    def wrapper(cfg: Any, main: Any, **kwargs: Any) -> None:
        if getattr(getattr(cfg, "task", None), "_name", None) == TASK:
            open_corpora(cfg.task, text_only=getattr(main, "__module__", "") == "fairseq_cli.eval_lm")
        call_main(cfg, main, **kwargs)

    return wrapper


def open_corpora(task: Any, text_only: bool = False) -> None:
    """Open every corpus of the data YAML, which makes the row starts, indexes and record lengths that are missing.

    Args:
        task: The task's options. If they are wrong nothing happens here: the task says so when it is set up.
        text_only: Whether only the text streams are used.

    Raises:
        UserError: A corpus cannot be read, or a file cannot be written.
    """
    from kosmos_plugin.data.mixture import FormattedDocuments, open_corpus  # every run of fairseq imports this module

    try:
        data = read_data_config(task.data)
        vocabulary = Vocabulary.load(task.vocabulary or data.vocabulary)
    except (UserError, TypeError):
        return
    print_user_errors_plainly()
    sample_builder = SampleBuilder(vocabulary, task.image_tokens, task.tokens_per_sample)
    for stream in data.streams:
        if text_only and stream.kind != "text":
            continue
        for corpus in stream.corpora:
            for split in (split for split in SPLITS if corpus.paths(split)):
                opened = open_corpus(stream, corpus, split, sample_builder)
                if isinstance(opened, FormattedDocuments):
                    opened.lengths_file.open()
