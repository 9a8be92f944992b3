"""fairseq uses names that NumPy has removed.

- ``np.compat.long`` (until 2.0): ``TokenBlockDataset`` with ``--sample-break-mode eos``, ``LanguagePairDataset`` with
  ``--num-batch-buckets``
- ``np.percentile(interpolation=)`` (until 2.4): ``data_utils.get_buckets``, for the same buckets
- ``np.int`` (until 1.24): both span-masking functions of ``data_utils`` with ``no_overlap``
- ``np.float`` (until 1.24): the CRF layer of the non-autoregressive transformers

NumPy itself stays as it is: only what these four modules call ``np`` becomes a thin cover of NumPy that also has the
old names.
"""

from types import ModuleType, SimpleNamespace

import numpy


class _NumpyWithRemovedNames(ModuleType):
    """NumPy, and what it had in older versions."""

    compat = SimpleNamespace(long=int)
    int = int
    float = float

    @staticmethod
    def percentile(*args, interpolation: str = "linear", **kwargs):
        return numpy.percentile(*args, method=interpolation, **kwargs)

    def __getattr__(self, name: str):
        return getattr(numpy, name)


def is_needed() -> bool:
    return not (hasattr(numpy, "compat") and "int" in vars(numpy))


def apply() -> None:
    from fairseq.data import data_utils, language_pair_dataset, token_block_dataset
    from fairseq.modules import dynamic_crf_layer

    cover = _NumpyWithRemovedNames("numpy")
    for module in (data_utils, language_pair_dataset, token_block_dataset, dynamic_crf_layer):
        module.np = cover
