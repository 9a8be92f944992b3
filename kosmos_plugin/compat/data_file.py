"""fairseq assumes that DATA is a folder, and lists its files before training to find forgotten validation sets.

This project's DATA is a YAML file, which names its validation sets.
"""

import os

from fairseq.data import data_utils

_find_extra_valid_paths = data_utils._find_extra_valid_paths


def is_needed() -> bool:
    """Return True: fairseq always lists DATA as a folder."""
    return True


def apply() -> None:
    """Replace `data_utils._find_extra_valid_paths`."""
    data_utils._find_extra_valid_paths = find_extra_valid_paths


def find_extra_valid_paths(dataset_path: str) -> set[str]:
    """Find validation sets in the folder `dataset_path` that `--valid-subset` may have missed; none if it is a file."""
    return set() if os.path.isfile(dataset_path) else _find_extra_valid_paths(dataset_path)
