"""fairseq uses names that NumPy has removed.

- `np.compat.long` (removed in 2.0): `TokenBlockDataset` with `--sample-break-mode eos`, `LanguagePairDataset` with
  `--num-batch-buckets`
- `np.percentile(interpolation=)` (removed in 2.4): `data_utils.get_buckets`, for the same buckets
- `np.int` (removed in 1.24): the span-masking functions of `data_utils` with `no_overlap`
- `np.float` (removed in 1.24): the CRF layer of the non-autoregressive transformers

NumPy itself is unchanged: only the name `np` in these four modules becomes a wrapper that has the old names too.
"""

from types import ModuleType, SimpleNamespace
from typing import Any

import numpy


class _NumpyWithRemovedNames(ModuleType):
    """NumPy with names of its older versions."""

    compat = SimpleNamespace(long=int)
    int = int
    float = float

    @staticmethod
    def percentile(*args: Any, interpolation: str = "linear", **kwargs: Any) -> Any:
        kwargs["method"] = interpolation
        return numpy.percentile(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(numpy, name)


def is_needed() -> bool:
    """Whether NumPy lacks one of the names."""
    return not (hasattr(numpy, "compat") and "int" in vars(numpy))


def apply() -> None:
    """Replace NumPy in the four modules."""
    from fairseq.data import data_utils, language_pair_dataset, token_block_dataset
    from fairseq.modules import dynamic_crf_layer

    wrapper = _NumpyWithRemovedNames("numpy")
    for module in (data_utils, language_pair_dataset, token_block_dataset, dynamic_crf_layer):
        module.np = wrapper
