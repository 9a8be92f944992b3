import numpy as np
import torch
from fairseq.data.indexed_dataset import MMapIndexedDataset, MMapIndexedDatasetBuilder


def test_pointers_behind_2_gib(tmp_path):
    """Two merged files of 1.5 GiB each; the files that stand for their tokens are empty."""
    for name in ("first", "second"):
        (tmp_path / f"{name}.bin").touch()
        with MMapIndexedDataset.Index.writer(str(tmp_path / f"{name}.idx"), np.int64) as index:
            index.write([3 * 2**26])
    merged = MMapIndexedDatasetBuilder(str(tmp_path / "merged.bin"), dtype=np.int64)
    merged.add_item(torch.ones(2, dtype=torch.int64))
    for name in ("first", "second", "first"):
        merged.merge_file_(str(tmp_path / name))
    merged.finalize(str(tmp_path / "merged.idx"))
    index = MMapIndexedDataset.Index(str(tmp_path / "merged.idx"))
    assert [int(index[i][0]) for i in range(4)] == [0, 16, 16 + 3 * 2**29, 16 + 2 * 3 * 2**29]
