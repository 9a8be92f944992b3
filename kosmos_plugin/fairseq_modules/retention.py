"""Deletes old checkpoints, as fairseq's options `--keep-interval-updates`, `--keep-last-epochs`, … say.

fairseq goes by the numbers in names, and so deletes even the checkpoint that it has just written, if the folder has
those of a training that came further: the one from which somebody went back. Here that one always stays.
"""

import re
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from fairseq.checkpoint_utils import checkpoint_paths
from fairseq.file_io import PathManager


def delete_old(options: Any, suffix: str, end_of_epoch: bool, written: Collection[str]) -> None:
    """Delete what fairseq's options say, once the new checkpoint is whole.

    Args:
        options: fairseq's `CheckpointConfig`.
        suffix: The suffix of this rank's checkpoints.
        end_of_epoch: Whether the new one was written at the end of an epoch; then fairseq keeps those of updates.
        written: The paths of the new one, which are never deleted.
    """
    ending = rf"{re.escape(suffix)}\.pt"
    old: list[str] = []
    if not end_of_epoch and options.keep_interval_updates > 0:
        found = checkpoint_paths(options.save_dir, rf"checkpoint_\d+_(\d+){ending}", keep_match=True)
        every = options.keep_interval_updates_pattern
        deletable = [path for path, update in found if every == -1 or update % every != 0]
        old += deletable[options.keep_interval_updates :]
    if options.keep_last_epochs > 0:
        old += checkpoint_paths(options.save_dir, rf"checkpoint(\d+){ending}")[options.keep_last_epochs :]
    if options.keep_best_checkpoints > 0:
        pattern = rf"checkpoint\.best_{options.best_checkpoint_metric}_(\d+\.?\d*){ending}"
        best_first = checkpoint_paths(options.save_dir, pattern)
        if not options.maximize_best_checkpoint_metric:
            best_first.reverse()
        old += best_first[options.keep_best_checkpoints :]
    for path in old:
        if path not in written:
            with suppress(FileNotFoundError):
                PathManager.rm(path)
