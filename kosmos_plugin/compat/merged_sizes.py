"""fairseq-preprocess with several workers writes a broken index for more than 2 GiB of tokens.

It merges the workers' files and adds up their items' sizes, which are NumPy int32: from NumPy 2 on the sum is one too,
and overflows.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from fairseq.data.indexed_dataset import MMapIndexedDataset

_writer = MMapIndexedDataset.Index.writer


def is_needed() -> bool:
    """Whether a Python int plus a NumPy int32 is an int32."""
    return isinstance(0 + np.int32(1), np.int32)


def apply() -> None:
    """Replace `MMapIndexedDataset.Index.writer`."""
    MMapIndexedDataset.Index.writer = staticmethod(writer)


def writer(path: str, dtype: type) -> Any:
    """fairseq's writer of an index, which takes the sizes as Python ints."""
    index = _writer(path, dtype)
    write = index.write

    def write_python_ints(sizes: Iterable[Any]) -> None:
        write([int(size) for size in sizes])

    index.write = write_python_ints
    return index
